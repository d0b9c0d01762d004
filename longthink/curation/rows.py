"""Rows on their way, and where they lie: numbered shards, each there whole or not at all."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

from longthink import storage
from longthink.errors import CheckpointError

__all__ = ["Rejected", "Row", "Shards", "stored"]


@dataclass(frozen=True, slots=True)
class Row:
    """A question with its answer, where it came from and what steps have found out about it.

    `id` is the source's name and the row's number in it, or what its own column says. `answer` is text, a list of alternatives or
    a verifier's table; None where there is none yet. `kept` holds the columns that were asked for, `facts` what steps found, by
    their names.
    """

    id: str
    question: str
    answer: Any
    solution: str
    source: str
    number: int
    licence: str
    kept: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def found(self, step: str, facts: Mapping[str, Any]) -> "Row":
        """The row with what a step found out."""
        return replace(self, facts={**self.facts, step: dict(facts)})


class Rejected(NamedTuple):
    """A row that a step has dropped, in a word why, and what shows it."""

    row: Row
    reason: str
    detail: Mapping[str, Any] = {}


class Shards:
    """The rows a source or a step has kept and those it has dropped, in numbered files: `kept/00000.jsonl` and so on.

    A shard's kept rows are written last, so that a shard with them is whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, number: int, kept: Iterable[Row], rejected: Iterable[Rejected]) -> None:
        """Write a shard, whole or not at all."""
        for name, lines in (
            ("rejected", [{"row": asdict(r.row), "reason": r.reason, "detail": dict(r.detail)} for r in rejected]),
            ("kept", [asdict(row) for row in kept]),
        ):
            path = self._path(name, number)
            storage.make_folder(path.parent)
            data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            storage.replace_file(path, data.encode("utf-8", "surrogatepass"))

    def is_whole(self, number: int) -> bool:
        return self._path("kept", number).exists()

    def numbers(self) -> list[int]:
        """The shards that are there."""
        return sorted(int(path.stem) for path in (self.folder / "kept").glob("*.jsonl"))

    def kept(self, number: int) -> list[Row]:
        return [Row(**line) for line in _lines(self._path("kept", number))]

    def rejected(self, number: int) -> list[Rejected]:
        lines = _lines(self._path("rejected", number))
        return [Rejected(Row(**line["row"]), line["reason"], line["detail"]) for line in lines]

    def rows(self, rejected: bool = False) -> Iterator[Row]:
        """Every row, a shard at a time in memory; those that were dropped where `rejected`."""
        return chain.from_iterable(self.shard(number, rejected) for number in self.numbers())

    def shard(self, number: int, rejected: bool = False) -> Sequence[Row]:
        return [r.row for r in self.rejected(number)] if rejected else self.kept(number)

    def _path(self, name: str, number: int) -> Path:
        return self.folder / name / f"{number:05d}.jsonl"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            yield stored(path, partial(_line, line))


def _line(line: bytes, _: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line.decode("utf-8", "surrogatepass"))
    return found


def stored(path: Path, read: Callable[[Path], Any]) -> Any:
    """What is read of a file that a curation has written. Raises: CheckpointError where it is torn or changed."""
    try:
        return read(path)
    except (ValueError, KeyError, EOFError, OSError, BadZipFile) as e:
        said = f"{type(e).__name__}: {' '.join(str(e).split())[:120]}"
        raise CheckpointError(f"{path} is torn or changed ({said}); remove {path.parent.parent} and start again") from None
