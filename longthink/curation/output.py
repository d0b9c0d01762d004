"""What a curation leaves: the data set, every dropped row with its reason, and counts that add up."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longthink import storage
from longthink.curation.recipe import Curation, Output
from longthink.curation.rows import Rejected, Row, Shards, stored
from longthink.errors import CheckpointError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SPLITS", "columns_of", "fact", "responses_of", "write_output"]

SPLITS = ("train", "validation")
AT_ONCE = 5_000  # rows of a row group


def fact(row: Row, name: str) -> Any:
    """What the last step that says so has found out under this name; None where none has."""
    return next((found[name] for found in reversed(list(row.facts.values())) if name in found), None)


def columns_of(row: Row, number: int, split: str, output: Output) -> dict[str, Any]:
    """A row as it is written; an answer that is no text is JSON in a text.

    The columns are those of longthink and TRL (`prompt`, `answer`, `solution`), of verl (`data_source`, `prompt`, `ability`,
    `reward_model`, `extra_info`), and where the row came from.
    """
    answer = _as_text(row.answer)
    suffix = output.prompt_suffix.strip()
    text = f"{row.question} {suffix}" if suffix and not row.question.endswith(suffix) else row.question
    return {
        "id": row.id,
        "question": row.question,
        "answer": answer,
        "solution": row.solution,
        "prompt": [{"role": "user", "content": text}],
        "data_source": row.source,
        "ability": str(row.kept.get("ability", output.ability)),
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"split": split, "index": number, "id": row.id},
        "source": row.source,
        "row": row.number,
        "licence": row.licence,
        "pass_rate": fact(row, "pass_rate"),
        "kept": json.dumps(row.kept, ensure_ascii=False),
        "facts": json.dumps(row.facts if not fact(row, "responses") else _without_texts(row), ensure_ascii=False),
    }


def responses_of(row: Row, output: Output) -> list[dict[str, Any]]:
    """The responses that stay with a row, as they are fine-tuned on: each with its prompt, its answer and where it came from."""
    at = next((step for step in reversed(list(row.facts)) if "responses" in row.facts[step]), "")
    found = row.facts.get(at, {})
    base = columns_of(row, 0, "", output)
    kept = {name: base[name] for name in ("prompt", "answer", "source", "licence")}
    return [
        {
            "id": f"{row.id}:{r['sample']}",
            **kept,
            "response": r["text"],
            "tokens": r["tokens"],
            "step": at,
            "model": found["model"],
        }
        for r in found.get("responses", ())
    ]


def _without_texts(row: Row) -> dict[str, Any]:
    """What steps found out, without the texts of responses, which have a file of their own."""
    return {name: {k: v for k, v in found.items() if k != "responses"} for name, found in row.facts.items()}


def _as_text(answer: Any) -> str:
    """Alternatives are a JSON list of texts, which readers of data sets tell from an interval such as [1, 2]."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, list):
        answer = [item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in answer]
    return json.dumps(answer, ensure_ascii=False)


def write_output(recipe: Curation, folder: Path, funnel: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Write `data/` with a file a split and format and `rejects.parquet`, unless it is there; the rows of each split.

    Raises: CheckpointError where a row of a source is neither in the data nor among the rejects.
    """
    key = json.dumps([[node["key"] for node in funnel], recipe.output.model_dump()])
    data, steps = folder / "data", folder / "steps"
    if (data / "counts.json").exists():
        found = stored(data / "counts.json", lambda p: json.loads(p.read_text()))
        if found["key"] == key and all((data / name).exists() for name in found["files"]):
            return dict(found["rows"])
    last = Shards(steps / funnel[-1]["name"])
    draft = folder / "data.unfinished"
    shutil.rmtree(draft, ignore_errors=True)
    storage.make_folder(draft)
    counts, ids = {}, set[str]()
    parts = [f".{source.name}" for source in recipe.source] if recipe.output.apart else [""]
    for name, split, part in ((f"{split}{part}", split, part[1:]) for split in SPLITS for part in parts):
        counts[name] = _write(draft, name, recipe.output, _seen(_of(last, split, part), ids), split)
        told = (row for row in _of(last, split, part) if row.answer is not None)
        _write_responses(draft, f"responses.{name}", recipe.output, (r for row in told for r in responses_of(row, recipe.output)))
    counts = {name: count for name, count in counts.items() if count or name == SPLITS[0]}
    _rejects(draft / "rejects.parquet", steps, funnel, ids)
    files = sorted(path.name for path in draft.iterdir())
    storage.write_bytes(draft / "counts.json", json.dumps({"key": key, "rows": counts, "files": files}).encode())
    storage.commit_folder(draft, data)
    return counts


def _of(last: Shards, split: str, source: str) -> Iterator[Row]:
    """The rows of a split, or a source's part of it."""
    return (row for row in last.rows() if (fact(row, "split") or SPLITS[0]) == split and source in ("", row.source))


def _seen(rows: Iterator[Row], ids: set[str]) -> Iterator[Row]:
    """The rows that have an answer, each once."""
    for row in rows:
        if row.answer is None:
            continue
        if row.id in ids:
            raise CheckpointError(f"{row.id} is in the data set twice; two steps it came through need a `mix` between them")
        ids.add(row.id)
        yield row


def _write(folder: Path, name: str, output: Output, rows: Iterator[Row], split: str) -> int:
    """Write a split, or one source's part of it; how many rows it has."""
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    message = pa.struct([("role", text), ("content", text)])
    kinds = {
        **{"prompt": pa.list_(message), "reward_model": pa.struct([("style", text), ("ground_truth", text)])},
        **{"extra_info": pa.struct([("split", text), ("index", number), ("id", text)]), "row": number, "pass_rate": pa.float64()},
    }
    names = ["id", "question", "answer", "solution", "prompt", "data_source", "ability", "reward_model", "extra_info"]
    names += ["source", "row", "licence", "pass_rate", "kept", "facts"]
    schema = pa.schema([(name, kinds.get(name, text)) for name in names])
    numbered = (columns_of(row, number, split, output) for number, row in enumerate(rows))
    return _write_rows(folder, name, output, schema, numbered, empty=name == SPLITS[0])


def _write_rows(
    folder: Path, name: str, output: Output, schema: "pa.Schema", rows: Iterator[dict[str, Any]], *, empty: bool = False
) -> int:
    """Write rows in every format that was asked for; how many there are. Without a row there is no file, unless `empty`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    group, count = list(islice(rows, AT_ONCE)), 0
    if not group and not empty:
        return 0
    with ExitStack() as files:
        lines = files.enter_context((folder / f"{name}.jsonl").open("wb")) if "jsonl" in output.formats else None
        table = pq.ParquetWriter(folder / f"{name}.parquet", schema) if "parquet" in output.formats else None
        files.callback(table.close if table else lambda: None)
        while group:
            if lines:
                lines.writelines((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace") for row in group)
            if table:
                table.write_table(pa.Table.from_pylist(_encodable(group), schema))
            count += len(group)
            group = list(islice(rows, AT_ONCE))
    return count


def _write_responses(folder: Path, name: str, output: Output, rows: Iterator[dict[str, Any]]) -> None:
    """Write the responses of a split, where there are any."""
    import pyarrow as pa

    text, message = pa.string(), pa.struct([("role", pa.string()), ("content", pa.string())])
    kinds = {"prompt": pa.list_(message), "tokens": pa.int64()}
    names = ("id", "prompt", "answer", "source", "licence", "response", "tokens", "step", "model")
    schema = pa.schema([(name, kinds.get(name, text)) for name in names])
    _write_rows(folder, name, output, schema, rows)


def _rejects(path: Path, steps: Path, funnel: Sequence[Mapping[str, Any]], ids: set[str]) -> None:
    """Every row that was dropped, once for each step that did; `in_data` where it came in by another way.

    Raises: CheckpointError where a row of a source has gone.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    names = ("id", "source", "step", "reason", "detail", "question", "answer", "solution", "licence", "facts")
    schema = pa.schema([*((name, text) for name in names), ("row", pa.int64()), ("in_data", pa.bool_())])
    told = set(ids)
    with pq.ParquetWriter(path, schema) as table:
        for step, dropped in _dropped(steps, funnel):
            group = []
            for row, reason, detail in dropped:
                told.add(row.id)
                facts = {"step": step, "reason": reason, "in_data": row.id in ids, "row": row.number}
                facts |= {name: getattr(row, name) for name in ("id", "source", "question", "solution", "licence")}
                shown = {"detail": detail, "answer": row.answer, "facts": row.facts}
                group.append(facts | {name: json.dumps(value, ensure_ascii=False) for name, value in shown.items()})
            if group:
                table.write_table(pa.Table.from_pylist(_encodable(group), schema))
    for node in funnel:
        if node["kind"] == "source":
            lost = next((row.id for row in Shards(steps / node["name"]).rows() if row.id not in told), None)
            if lost is not None:
                raise CheckpointError(f"{lost} of source {node['name']} is neither in the data nor among the rejects")


def _dropped(steps: Path, funnel: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Rejected]]]:
    """What each step has dropped, what it has kept and no other took, and what came to the end without an answer."""
    taken = {name for node in funnel for name in node["from"]}
    for node in funnel:
        shards, name = Shards(steps / node["name"]), node["name"]
        for number in shards.numbers():
            yield name, shards.rejected(number)
            if node is funnel[-1]:
                yield "output", [Rejected(row, "no_answer") for row in shards.kept(number) if row.answer is None]
            elif name not in taken:
                yield name, [Rejected(row, "not_taken") for row in shards.kept(number)]


def _encodable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the lone surrogates that JSON may hold and UTF-8 has no bytes for."""
    try:
        json.dumps(rows, ensure_ascii=False).encode()
        return rows
    except UnicodeEncodeError:
        return list(json.loads(json.dumps(rows, ensure_ascii=False).encode("utf-8", "replace")))
