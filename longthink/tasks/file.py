"""File: problems from local JSON, JSON-lines, CSV and parquet files, in the column conventions of the common projects."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from longthink.errors import TaskError, nearest
from longthink.prompts import PROMPTS, dress
from longthink.reading import (
    FORMATS,
    GOLD_COLUMNS,
    MISSING,
    PROMPT_COLUMNS,
    RESPONSE_COLUMNS,
    Broken,
    clean_gold,
    lookup,
    read_rows,
)
from longthink.rng import rng
from longthink.tasks.base import Task
from longthink.tools.formats import Piece
from longthink.types import Ints, Problem

__all__ = ["File"]

SPLITS = ("train", "validation", "test")
SHAREGPT = {"human": "user", "gpt": "assistant"}  # what that format calls roles
MAX_FILES = 256  # kept in memory: the domains of a mixture are walked in turn


class Row(NamedTuple):
    """One row of a file, checked: its number in the file, chat messages, the gold answer, the columns kept, the response."""

    number: int
    messages: tuple[dict[str, str], ...]
    gold: Any
    kept: dict[str, Any]
    response: tuple[Piece, ...] | str


class File(Task):
    """Problems from local files, one path per split; relative paths start at the working directory.

    A prompt is text (it becomes one user message) or a list of chat messages. A gold is text, a number, a list
    of alternatives (a JSON list of strings inside a string counts as one) or a table for verifiers that take
    one; `#### 18` at the end of a text gives `18`. One column serves a whole file: the named one, else the
    first usual name that holds a value in some row.

    A response to fine-tune on is text, a list of parts with `text` and `learn` of which only those with `learn` are learnt, or
    the assistant's message at the end of a prompt that is a conversation.

    Train walks a fresh permutation each epoch unless `shuffle` is off; validation and test keep file order
    and wrap around. Rows count from 0 in ids, in meta["row"] and in messages.
    Raises: TaskError for anything wrong with a file, at its first use, wherever in the file it is.

    Example: `[task]` with `kind = "file"`, `train = "data/deepscaler.parquet"`, `validation = "data/aime24.json"`.
    """

    train: str = ""
    validation: str = ""
    test: str = ""
    prompt: str = Field("", description="a prompt of longthink/prompts.py by name; system and prompt_suffix come on top")
    prompt_suffix: str = Field("", description="put after the last user message, one space between, unless it ends so")
    system: str = Field("", description="system message put first, in place of one the row has")
    shuffle: bool = True
    seed: int = 0
    limit: int = Field(0, ge=0, description="use only the first rows of each file; 0 for all")
    empty_golds: Literal["error", "drop", "keep"] = Field(
        "error", description="what to do with a row without a gold; keep is for fine-tuning"
    )
    prompt_column: str = Field("", description="dotted for a nested column; empty looks for the usual names")
    gold_column: str = Field("", description="dotted for a nested column; empty looks for the usual names")
    response_column: str = Field("", description="what to fine-tune on; dotted for a nested column; empty looks for usual names")
    gold_fields: dict[str, str] = Field({}, description="a gold that is a table: its fields and the columns they are taken from")
    template: str = Field("", description="the prompt as a text with {column} in it, in place of a prompt column")
    choices: tuple[str, ...] = Field(
        (), description="columns of the options of a multiple choice, the right one first: shown in an order drawn for each row"
    )
    keep: tuple[str, ...] = Field((), description="columns that go into a problem's meta, where a row has them")

    @model_validator(mode="after")
    def _known_prompt(self) -> Self:
        if self.prompt and self.prompt not in PROMPTS:
            raise ValueError(f"prompt is {self.prompt!r}, {nearest(self.prompt, list(PROMPTS))}")
        if self.prompt and PROMPTS[self.prompt].text and (self.system or self.prompt_suffix):
            raise ValueError(f"prompt {self.prompt!r} is a whole text; expected no system and no prompt_suffix beside it")
        if bool(self.gold_column) + bool(self.gold_fields) + bool(self.choices) > 1:
            raise ValueError("a gold comes from gold_column, from gold_fields or from choices; expected one of them")
        if self.template and self.prompt_column:
            raise ValueError("template stands in place of a prompt column; expected one of them")
        return self

    def size(self, split: str) -> int | None:
        return len(self._rows(split))

    def problem(self, split: str, index: int) -> Problem:
        rows = self._rows(split)
        epoch, place = divmod(index, len(rows))
        if self.shuffle and split == "train":
            place = int(_order(self.seed, len(rows), epoch)[place])
        number, messages, gold, kept, response = rows[place]
        stem, meta = Path(getattr(self, split).removesuffix(".gz")).stem, {"row": number} | kept
        meta |= {"response": response} if response else {}
        return Problem(id=f"{stem}:{number}", prompt=self._prompt(messages), gold=gold, meta=meta)

    def trace(self, problem: Problem, draw: int) -> str | Sequence[Piece]:
        response: tuple[Piece, ...] | str = problem.meta.get("response", ())
        if isinstance(response, str):
            raise TaskError(response)
        if not response:
            raise TaskError(
                f"{problem.id} has no response to fine-tune on; expected a column {', '.join(RESPONSE_COLUMNS)} "
                "(task.response_column names another), or a conversation that ends with the assistant"
            )
        return response[0].text if len(response) == 1 and response[0].source == "policy" else response

    def _rows(self, split: str) -> tuple[Row, ...]:
        if split not in SPLITS:
            raise TaskError(f"task: there is no split {split!r}; expected one of {', '.join(SPLITS)}")
        given = getattr(self, split)
        if not given:
            raise TaskError(f"task.{split} is not set, so there are no {split} problems; set it to the path of a {FORMATS} file")
        path = Path(given)
        try:
            changed = path.stat().st_mtime_ns
        except OSError as e:
            raise TaskError(
                f"{path}: {e.strerror or e}; expected a {FORMATS} file (relative paths start at {Path.cwd()}), fix task.{split}"
            ) from None
        rows = _load(path, changed, self.model_dump_json(exclude=set(SPLITS)))
        if self.prompt and PROMPTS[self.prompt].text:
            talk = next((row.number for row in rows if sum(m["role"] != "system" for m in row.messages) > 1), None)
            if talk is not None:
                raise TaskError(f"{path}: row {talk} is a conversation; prompt {self.prompt!r} is a text around one question")
        return rows

    def _prompt(self, messages: tuple[dict[str, str], ...]) -> tuple[dict[str, str], ...]:
        """The row's messages with `prompt`, `system` and `prompt_suffix` put in."""
        prompt = dress(self.prompt or "bare", messages)
        if prompt[0]["role"] == "text":
            return tuple(prompt)
        suffix = self.prompt_suffix.strip()
        last = next(m for m in reversed(prompt) if m["role"] == "user")
        if suffix and not last["content"].rstrip().endswith(suffix):
            last["content"] += f" {suffix}"
        if self.system:
            prompt = [{"role": "system", "content": self.system}, *(m for m in prompt if m["role"] != "system")]
        return tuple(prompt)


@lru_cache(maxsize=MAX_FILES)
def _order(seed: int, size: int, epoch: int) -> Ints:
    return rng(seed, "file", "order", epoch).permutation(size)


@lru_cache(maxsize=MAX_FILES)
def _load(path: Path, changed: int, asked: str) -> tuple[Row, ...]:
    """The rows to use, by a task as JSON; `changed` only makes an edited file a new entry of the cache."""
    how = File.model_validate_json(asked)
    table: list[Any] = list(islice(read_rows(path), how.limit or None))
    if not table:
        raise TaskError(f"{path}: the data set is empty; expected at least one row")
    for number, row in enumerate(table):
        if isinstance(row, Broken):
            raise TaskError(f"{path}: {row.why}; expected one object a row")
        if not isinstance(row, Mapping):
            raise TaskError(f"{path}: row {number} is {_short(row)}; expected an object with named columns")
    prompts = _filled(path, table, how.template) if how.template else _column(path, table, how.prompt_column, "prompt")
    golds: list[Any]
    if how.choices:
        prompts, golds = _with_choices(path, table, prompts, how)
    elif how.gold_fields:
        columns = {field: _column(path, table, column, "gold") for field, column in how.gold_fields.items()}
        golds = [{field: values[i] for field, values in columns.items()} for i in range(len(table))]
    elif how.empty_golds == "keep" and not how.gold_column and not any(_has(table, name) for name in GOLD_COLUMNS):
        golds = [None] * len(table)
    else:
        golds = [clean_gold(gold) for gold in _column(path, table, how.gold_column, "gold", lacking=how.empty_golds == "keep")]
    rows = []
    responses = _responses(path, table, how)
    for number, (prompt, gold) in enumerate(zip(prompts, golds, strict=True)):
        where = f"{path}: row {number}"
        if gold is None and how.empty_golds == "drop":
            continue
        meta = {name: value for name in how.keep if (value := lookup(table[number], name)) is not MISSING}
        messages, answer = _messages(where, prompt)
        gold = gold if gold is None and how.empty_golds == "keep" else _checked_gold(where, gold)
        rows.append(Row(number, messages, gold, meta, (answer if not how.response_column else ()) or responses[number]))
    if odd := [name for name in how.keep if not any(name in row.kept for row in rows)] if rows else []:
        raise TaskError(
            f"{path}: no row has the column {odd[0]!r} that is to be kept; the first has {', '.join(map(str, table[0]))}"
        )
    if not rows:
        raise TaskError(f"{path}: the golds of all {len(table)} rows are empty; name another column in task.gold_column")
    return tuple(rows)


def _column(path: Path, table: Sequence[Mapping[str, Any]], named: str, what: str, *, lacking: bool = False) -> list[Any]:
    """The prompt or gold column, found once for the whole file. Raises: TaskError for the first row without it, unless it may."""
    usual = {"prompt": PROMPT_COLUMNS, "gold": GOLD_COLUMNS}.get(what, ())
    names = (named,) if named else usual
    held = (n for n in names if _has(table, n))
    present = (n for n in names if lookup(table[0], n) is not MISSING)
    name = next(held, None) or next(present, None)
    values = [lookup(row, name) if name else MISSING for row in table]
    if MISSING in values and not lacking:
        number = next(i for i, value in enumerate(values) if value is MISSING)
        raise TaskError(
            f"{path}: row {number} has no {what} column; got columns {', '.join(table[number])}; "
            f"expected {name or ' or '.join(names)} (task.{what}_column names another)"
        )
    return values


def _filled(path: Path, table: Sequence[Mapping[str, Any]], template: str) -> list[str]:
    """The template with each row's values in place of {column}; braces around anything else stay as they are."""
    names = dict.fromkeys(name for name in re.findall(r"\{([^{}]+)\}", template) if lookup(table[0], name) is not MISSING)
    if not names:
        raise TaskError(f"{path}: the template names no column; got columns {', '.join(table[0])}; expected one as {{column}}")
    columns = {name: _column(path, table, name, "prompt") for name in names}
    pattern = re.compile("|".join(re.escape(f"{{{name}}}") for name in names))
    return [pattern.sub(partial(_value, columns, i), template) for i in range(len(table))]


def _value(columns: Mapping[str, Sequence[Any]], row: int, found: re.Match[str]) -> str:
    return str(columns[found[0][1:-1]][row])


def _with_choices(path: Path, table: Sequence[Mapping[str, Any]], prompts: list[Any], how: File) -> tuple[list[str], list[str]]:
    """The questions with their options behind them, each as `A) …` on its own line, and the letters of the right ones."""
    columns = [_column(path, table, name, "choice") for name in how.choices]
    texts, golds = [], []
    for i, prompt in enumerate(prompts):
        order = rng(how.seed, "choices", i).permutation(len(columns)).tolist()
        options = "\n".join(f"{chr(65 + place)}) {str(columns[at][i]).strip()}" for place, at in enumerate(order))
        texts.append(f"{str(prompt).strip()}\n\n{options}")
        golds.append(chr(65 + order.index(0)))
    return texts, golds


def _has(table: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether some row holds something under this name."""
    return any(clean_gold(lookup(row, name)) is not None for row in table)


def _responses(path: Path, table: Sequence[Mapping[str, Any]], how: File) -> list[tuple[Piece, ...] | str]:
    """What is learnt of each row, where the file has it in a column of its own, or why it cannot be."""
    names = (how.response_column,) if how.response_column else RESPONSE_COLUMNS
    name = next((n for n in names if _has(table, n)), "")
    if not name and how.response_column:
        raise TaskError(f"{path}: no row has a response in a column {how.response_column!r}; fix task.response_column")
    given = [lookup(row, name) if name else None for row in table]
    found = [_response(value) for value in given]
    wrong = [
        f"{path}: row {number}: the response is {_short(value)}; expected text, or a list of parts with `text` and `learn`, "
        "one of them learnt"
        for number, value in enumerate(given)
        if found[number] is None
    ]
    if wrong and how.response_column:
        raise TaskError(wrong[0])
    told = iter(wrong)  # only fine-tuning minds what stands in a column of a usual name
    return [response if response is not None else next(told) for response in found]


def _response(value: Any) -> tuple[Piece, ...] | None:
    """A response as pieces; none for one that is empty, None for what is no response."""
    match value:
        case str():
            return (Piece(value, "policy"),) if value else ()
        case [{"role": "assistant", "content": str(text)}]:  # TRL's conversational form
            return (Piece(text, "policy"),)
        case list() if any(_is_part(p) and p.get("learn", True) for p in value) and all(map(_is_part, value)):
            return tuple(Piece(part["text"], "policy" if part.get("learn", True) else "prefix") for part in value)
    return () if value is None or value is MISSING else None


def _is_part(value: Any) -> bool:
    """Whether a value is a part of a response, as a list of them has it."""
    return isinstance(value, Mapping) and isinstance(value.get("text"), str) and isinstance(value.get("learn", True), bool)


def _messages(where: str, prompt: Any) -> tuple[tuple[dict[str, str], ...], tuple[Piece, ...]]:
    """Chat messages of a prompt column, role and content only, and what the assistant says at the end."""
    if isinstance(prompt, str) and prompt.strip():
        return ({"role": "user", "content": prompt},), ()
    if not isinstance(prompt, list) or not prompt:
        raise TaskError(f"{where}: the prompt is {_short(prompt)}; expected text or a list of chat messages")
    messages: list[dict[str, str]] = []
    for message in prompt:
        match message:
            case {"role": str(role), "content": str(content)} | {"from": str(role), "value": str(content)}:
                messages.append({"role": SHAREGPT.get(role, role), "content": content})
            case _:
                raise TaskError(
                    f"{where}: the prompt holds {_short(message)}; expected messages with `role` and `content` as text"
                )
    answer: tuple[Piece, ...] = ()
    if messages[-1]["role"] == "assistant":
        answer = (Piece(messages.pop()["content"], "policy"),)
    if not any(m["role"] == "user" for m in messages) or messages[-1]["role"] == "assistant":
        roles = ", ".join(m["role"] for m in messages)
        raise TaskError(f"{where}: the prompt's roles are {roles or 'the assistant alone'}; expected a user message")
    return tuple(messages), answer


def _checked_gold(where: str, gold: Any) -> Any:
    if gold is None:
        raise TaskError(
            f"{where}: the gold is empty; give it an answer, name another column in task.gold_column, "
            "or leave such rows out with task.empty_golds = 'drop'"
        )
    if not isinstance(gold, str | int | float | list | dict):
        raise TaskError(f"{where}: the gold is {_short(gold)}; expected text, a number or a list of alternatives")
    return gold


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
