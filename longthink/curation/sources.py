"""The rows of a source, one by one, and why those that cannot be used cannot."""

import importlib.util
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from longthink.curation.recipe import Source
from longthink.curation.rows import Rejected, Row, Shards
from longthink.curation.steps.base import put
from longthink.errors import TaskError
from longthink.part import load_part
from longthink.progress import Progress
from longthink.reading import FORMATS, GOLD_COLUMNS, MISSING, PROMPT_COLUMNS, Broken, clean_gold, lookup, read_rows
from longthink.tasks.base import Task

__all__ = ["SHARD", "files_of", "read_source"]

SHARD = 5_000  # rows of a shard: what is held in memory, done by one process at a time and done again after a kill
SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".arrow", ".json.gz", ".jsonl.gz")
COLUMN = re.compile(r"\{([^{}]+)\}")  # one named in a text
SOLUTION = Source.model_fields["solution"].default
DEEP = 100  # tables within tables of an answer or a kept column
SURROGATE = re.compile("[\ud800-\udfff]")
EXCERPT = 500  # characters of a broken row that are kept


def files_of(source: Source) -> list[Path]:
    """A source's files, in the order of their names; fetched first where they are on the hub.

    Raises: TaskError where there is none.
    """
    if source.generate:
        _check_generated(source)
        return []
    if source.files.startswith("/"):
        raise TaskError(f"source {source.name}: files is {source.files!r}; expected a pattern below `path`, such as *.jsonl")
    root = _fetched(source) if source.hub else Path(source.path)
    if root.is_file():
        return [root]
    found = sorted(p for p in root.rglob(source.files) if p.is_file() and p.name.endswith(SUFFIXES)) if root.is_dir() else []
    if not found:
        raise TaskError(
            f"source {source.name}: {root}: no {FORMATS} file there; relative paths start at {Path.cwd()}, fix `path` or `files`"
        )
    return found


def _fetched(source: Source) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source.hub, repo_type="dataset", revision=source.revision, allow_patterns=source.files))
    except Exception as e:  # of the network, of the hub, of a name: all sorts
        said = " ".join(str(e).split())[:300]
        raise TaskError(
            f"source {source.name}: {source.hub} could not be fetched from the hub ({type(e).__name__}: {said}); give `path` "
            "with a copy of it"
        ) from None


def read_source(source: Source, files: list[Path], out: Shards, progress: Progress, stop: type[Exception]) -> None:
    """Write the source's rows in shards. Raises: TaskError where a file as a whole cannot be read; `stop` on Ctrl-C."""
    taking = _Taken(source)
    taken = iter(taking.rows(_generated(source) if source.generate else _in(files)))
    number, done, useless = 0, 0, 0
    while decided := list(islice(taken, SHARD)):
        if not out.is_whole(number):
            put(out, number, decided)
        number, done = number + 1, done + len(decided)
        useless += sum(isinstance(d, Rejected) and d.reason == "no_question" for d in decided)
        progress.rollouts(done, source.limit or done)
        if progress.stop_requested:
            raise stop
    if not number:
        put(out, 0, [])
    if done > useless and taking.lacks:
        raise TaskError(
            f"source {source.name}: no row has a column {', '.join(sorted(taking.lacks))}; fix `answer` or `solution`"
        )
    if done and useless == done:
        named = f"column {source.question!r}" if source.question else f"column {' or '.join(PROMPT_COLUMNS)}"
        columns = ", ".join(_columns(out.rejected(0)))
        raise TaskError(f"source {source.name}: no row has a question in a {named}; its columns are {columns}; fix `question`")


def _columns(rows: list[Rejected]) -> list[str]:
    """The columns that a row without a question has."""
    return [str(name) for name in rows[0].detail.get("columns", ())]


def _in(files: list[Path]) -> Iterator[Any]:
    for path in files:
        for row in read_rows(path):
            yield row._replace(why=f"{path.name}: {row.why}") if isinstance(row, Broken) else row


def _check_generated(source: Source) -> None:
    """Raises: LongthinkError for a generator that cannot be."""
    table = {key: value for key, value in source.generate.items() if key != "rows"}
    where = f"source {source.name}: generate"
    if table.get("kind") == "file":
        raise TaskError(f"{where}: a file makes no problems; read it with `path`")
    if table.get("kind") != "puzzles":
        load_part(Task, table, where)
        return
    if odd := sorted(set(table) - {"kind", "tasks", "seed"}):
        raise TaskError(f"{where}: puzzles have no {odd[0]!r}; expected tasks or seed")
    if not isinstance(table.get("seed", 0), int) or not isinstance(table.get("tasks", []), list):
        raise TaskError(f"{where}: expected seed as a whole number and tasks as a list of names")
    if importlib.util.find_spec("reasoning_gym") is None:
        raise TaskError(f"{where}: puzzles need reasoning-gym; install it with `pip install 'longthink[puzzles]'`")


def _generated(source: Source) -> Iterator[Any]:
    """Problems of a task as rows; the same every time."""
    table = {key: value for key, value in source.generate.items() if key != "rows"}
    if table.get("kind") == "puzzles":
        yield from _puzzles(source.generate["rows"], table)
        return
    task = load_part(Task, table, f"source {source.name}: generate")
    size = task.size("train")
    for index in range(min(source.generate["rows"], size or source.generate["rows"])):
        problem = task.problem("train", index)
        row = {"question": problem.prompt[-1]["content"], "answer": problem.gold, "id": problem.id, **problem.meta}
        if source.traces:
            told = [task.trace(problem, draw) for draw in range(source.traces)]
            row["traces"] = [text if isinstance(text, str) else "".join(piece.text for piece in text) for text in told]
        yield row


def _puzzles(rows: int, table: Mapping[str, Any]) -> Iterator[Any]:
    """Problems of reasoning-gym's tasks, as many of each."""
    from longthink.puzzles import usable_tasks, write_puzzles

    tasks = table.get("tasks") or usable_tasks()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "puzzles.jsonl"
        write_puzzles(path, tasks, max(1, -(-rows // max(1, len(tasks)))), int(table.get("seed", 0)))
        yield from islice(read_rows(path), rows)


class _Taken:
    """Rows of a source as they are taken: checked, named, and each only once."""

    def __init__(self, source: Source) -> None:
        self.source, self.seen = source, set[str]()
        self.told = COLUMN.findall(source.solution) or [source.solution]
        self.lacks = {name for name in (source.answer, *self.told) if name not in ("", SOLUTION)}  # named, and not met yet

    def rows(self, found: Iterator[Any]) -> Iterator[Row | Rejected]:
        limit = self.source.limit or None
        return (self._row(number, row) for number, row in enumerate(islice(found, limit)))

    def _row(self, number: int, found: Any) -> Row | Rejected:
        s = self.source
        row = Row(f"{s.name}:{'#' * bool(s.id)}{number}", "", None, "", s.name, number, s.licence)
        if isinstance(found, Broken):
            return Rejected(_with(row, found.text), "unreadable", {"why": found.why})
        if not isinstance(found, Mapping):
            return Rejected(_with(row, repr(found)), "no_object", {"why": f"a {type(found).__name__} in place of named columns"})
        question = self._question(found)
        if not isinstance(question, str) or not question.strip():
            return Rejected(_with(row, repr(dict(found))), "no_question", {"columns": sorted(map(str, found))[:50]})
        question = question.strip()
        if s.suffix:
            question = question.removesuffix(s.suffix.strip()).rstrip()
        solution = self._solution(found)
        self.lacks = {name for name in self.lacks if lookup(found, name) is MISSING}
        text = solution.strip() if isinstance(solution, str) else ""
        try:
            answer = self._answer(found)
            kept = _plain({name: value for name in s.keep if (value := lookup(found, name)) is not MISSING})
            sizes = {"question": len(question), "solution": len(text), "answer": len(json.dumps(answer))}
        except RecursionError:
            return Rejected(
                _with(row, question), "too_deep", {"why": "an answer or a kept column is a table of hundreds of tables"}
            )
        if long := {name: size for name, size in sizes.items() if size > s.max_chars}:
            return Rejected(_with(row, question), "too_large", {"characters": long, "at_most": s.max_chars})
        if half := [name for name, told in (("question", question), ("solution", text)) if SURROGATE.search(told)]:
            return Rejected(_with(row, question), "no_text", {"why": f"half a character (a lone surrogate) in its {half[0]}"})
        made = Row(row.id, question, answer, text, s.name, number, s.licence, kept)
        if s.traces:
            told = [{"text": trace, "tokens": 0, "sample": k} for k, trace in enumerate(found["traces"])]
            made = made.found("synthesis", {"model": str(s.generate["kind"]), "responses": told})
        there = {key: lookup(found, key) for key in s.where}
        if odd := {k: None if v is MISSING else str(v) for k, v in there.items() if v is MISSING or str(v) != s.where[k]}:
            return Rejected(made, "elsewhere", odd)
        return self._named(made, found)

    def _named(self, row: Row, found: Mapping[str, Any]) -> Row | Rejected:
        """The row under its own id, where the source has a column of ids."""
        if not self.source.id:
            return row
        id = lookup(found, self.source.id)
        if id in (MISSING, None, ""):
            return Rejected(row, "no_id", {"column": self.source.id})
        if str(id) in self.seen:
            return Rejected(row, "id_twice", {"id": str(id)})
        self.seen.add(str(id))
        return replace(row, id=f"{row.source}:{id}")

    def _question(self, found: Mapping[str, Any]) -> Any:
        """The text of the question; of chat messages the last that the user says."""
        for name in (self.source.question,) if self.source.question else PROMPT_COLUMNS:
            value = lookup(found, name)
            if isinstance(value, list):
                said = [m["content"] for m in value if isinstance(m, Mapping) and m.get("role") == "user" and "content" in m]
                value = said[-1] if said else MISSING
            if value is not MISSING and value is not None:
                return value
        return MISSING

    def _solution(self, found: Mapping[str, Any]) -> Any:
        values = {name: lookup(found, name) for name in self.told}
        if self.source.solution in values:
            return values[self.source.solution]
        filled = all(isinstance(value, str) for value in values.values())
        return COLUMN.sub(lambda name: values[name[1]], self.source.solution) if filled else MISSING

    def _answer(self, found: Mapping[str, Any]) -> Any:
        names = (self.source.answer,) if self.source.answer else [n for n in GOLD_COLUMNS if n != self.source.solution]
        values = (clean_gold(lookup(found, name)) for name in names)
        return _plain(next((value for value in values if value is not None), None))


def _with(row: Row, text: str) -> Row:
    """A row that could not be taken, with how it begins."""
    return Row(row.id, text[:EXCERPT], None, "", row.source, row.number, row.licence)


def _plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it: what parquet holds beside that (dates, bytes, decimals) becomes text. Raises: RecursionError."""
    if depth > DEEP:
        raise RecursionError
    if isinstance(value, Mapping):
        return {str(key): _plain(held, depth + 1) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held, depth + 1) for held in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
