"""Rows of data files, one after another: JSON, JSON lines, CSV, parquet and what the `datasets` library saves."""

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from longthink.errors import TaskError

__all__ = [
    "FORMATS",
    "GOLD_COLUMNS",
    "MISSING",
    "PROMPT_COLUMNS",
    "RESPONSE_COLUMNS",
    "Broken",
    "after_hashes",
    "clean_gold",
    "lookup",
    "read_rows",
]

FORMATS = ".json, .jsonl, .csv, .json.gz, .jsonl.gz or .parquet"
PROMPT_COLUMNS = ("prompt", "problem", "question", "messages", "conversations")
RESPONSE_COLUMNS = ("response", "completion", "generation", "output")  # TRL's is completion
GOLD_COLUMNS = (
    "reward_model.ground_truth",  # verl, rLLM
    "reward_spec.ground_truth",  # SkyRL
    "gold",  # `longthink verify` and `longthink puzzles`
    "answer",  # DeepScaleR, TRL, GSM8K
    "final_answer",  # OlympiadBench
    "expected_answer",  # NeMo RL
    "ground_truth",  # open-instruct
    "solution",  # TRL, open-r1, STILL: last, because it is prose where an answer stands beside it
)
ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that were no UTF-8
MISSING = object()
MAX_LINE = 64 << 20  # bytes; a longer line is passed over without being held
BATCH = 1024  # rows of a parquet file that are held at a time
BOM = b"\xef\xbb\xbf"


class Broken(NamedTuple):
    """A row that cannot be read: why, with its line where it has one, and how it begins."""

    why: str
    text: str


def read_rows(path: Path) -> Iterator[Any]:
    """The rows of a file in order, each as it stands there, or Broken where it cannot be read.

    Lines without text are no rows. Raises: TaskError where the file as a whole cannot be read.
    """
    kind = Path(path.name.removesuffix(".gz")).suffix
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix == ".arrow":
        return _arrow(path)
    if kind not in (".json", ".jsonl", ".csv"):
        raise TaskError(f"{path}: unknown file type; expected {FORMATS}")
    return {".json": _json, ".jsonl": _lines, ".csv": _csv}[kind](path)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _unreadable(path: Path, error: Exception) -> TaskError:
    return TaskError(f"{path}: cannot be read ({error})")


# -- text ---------------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[Any]:
    """JSON lines. Cut at newlines alone: JSON strings may hold U+2028 and its like."""
    try:
        with _open(path) as file:
            for number, line in enumerate(_cut(file), 1):
                if line is None:
                    yield Broken(f"line {number} has more than {MAX_LINE >> 20} MiB", "")
                elif (line := line.removeprefix(BOM) if number == 1 else line).strip():
                    yield _parsed(line, number)
    except (OSError, EOFError, zlib.error) as e:
        raise _unreadable(path, e) from None


def _cut(file: IO[bytes]) -> Iterator[bytes | None]:
    """The lines of a file, None for one that is too long."""
    while line := file.readline(MAX_LINE):
        if len(line) < MAX_LINE or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE)
        yield None


def _parsed(line: bytes, number: int) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as e:
        return Broken(f"not UTF-8 at line {number}: {e.reason}", _head(line))
    except (ValueError, RecursionError) as e:
        said = e.msg if isinstance(e, json.JSONDecodeError) else str(e)
        return Broken(f"not JSON at line {number}: {said}", _head(line))


def _head(data: bytes) -> str:
    return data[:500].decode(errors="replace").strip()


def _json(path: Path) -> Iterator[Any]:
    """A list of rows, or one, or JSON lines: the `datasets` library writes those into files named .json."""
    try:
        with _open(path) as file:
            text = file.read().decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as e:
        raise _unreadable(path, e) from None
    try:
        found = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as e:
        if text.lstrip().startswith("{"):
            yield from _lines(path)
            return
        where = f" at line {e.lineno}: {e.msg}" if isinstance(e, json.JSONDecodeError) else f" ({e})"
        raise TaskError(f"{path}: not JSON{where}; expected a list of objects") from None
    yield from found if isinstance(found, list) else [found]


def _csv(path: Path) -> Iterator[Any]:
    csv.field_size_limit(MAX_LINE)
    try:
        with _open(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
            reader: csv.DictReader[Any] = csv.DictReader(text, strict=True)
            while True:
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except csv.Error as e:
                    yield Broken(f"not CSV at line {reader.line_num}: {e}", "")
                    continue
                if None in row:
                    yield Broken(f"line {reader.line_num} has more fields than the first line names columns", _shown(row))
                elif any(isinstance(value, str) and ESCAPED.search(value) for value in row.values()):
                    yield Broken(f"not UTF-8 at line {reader.line_num}", _shown(row))
                else:
                    yield row
    except (OSError, EOFError, zlib.error) as e:
        raise _unreadable(path, e) from None


def _shown(row: Mapping[Any, Any]) -> str:
    return repr(list(row.values()))[:500].encode(errors="replace").decode()


# -- columns of Arrow ---------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH):
                yield from _rows_of(batch)
    except (pa.ArrowException, OSError) as e:
        raise TaskError(f"{path}: not a readable parquet file ({e})") from None


def _arrow(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                for start in range(0, batch.num_rows, BATCH):
                    yield from _rows_of(batch.slice(start, BATCH))
    except (pa.ArrowException, OSError) as e:
        raise TaskError(f"{path}: not a readable Arrow stream ({e})") from None


def _rows_of(batch: Any) -> Iterator[Any]:
    import pyarrow as pa

    for at, field in enumerate(batch.schema):
        if pa.types.is_temporal(field.type):  # nanoseconds and far years have no Python form
            batch = batch.set_column(at, field.name, batch.column(at).cast(pa.string()))
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for number in range(batch.num_rows):
            try:
                yield from batch.slice(number, 1).to_pylist()
            except UnicodeDecodeError as e:
                yield Broken(f"a text of it is not UTF-8: {e.reason}", _head(e.object))
            except (ValueError, OverflowError) as e:
                yield Broken(f"a value of it cannot be read: {e}", "")


# -- columns ------------------------------------------------------------------------------------------------------------


def lookup(row: Mapping[str, Any], column: str) -> Any:
    """The value under a dotted name, or MISSING.

    >>> lookup({"reward_model": {"ground_truth": "7"}}, "reward_model.ground_truth")
    '7'
    """
    if column in row:
        return row[column]
    head, dot, rest = column.partition(".")
    inner = row.get(head)
    return lookup(inner, rest) if dot and isinstance(inner, Mapping) else MISSING


def clean_gold(value: Any) -> Any:
    r"""The gold without blanks and without its wrapping, None when nothing is left.

    >>> clean_gold("16 - 7 = 9\n#### 9"), clean_gold(["9.6\n", ""]), clean_gold(" ")
    ('9', ['9.6'], None)

    Only a JSON list of strings is a list of alternatives: `[12,28]` is an interval or a pair.

    >>> clean_gold('["1/2", "0.5"]'), clean_gold("[12,28]")
    (['1/2', '0.5'], '[12,28]')
    """
    match value:
        case str():
            text = after_hashes(value) or value.strip()
            listed = _listed(text)
            return (text or None) if listed is None else clean_gold(listed)
        case list():
            kept = [gold for gold in map(clean_gold, value) if gold is not None]
            return kept or None
        case Mapping():
            return dict(value) or None
        case float() if math.isnan(value):  # how pandas writes a missing value
            return None
    return None if value is MISSING else value


def after_hashes(text: str) -> str:
    """What GSM8K writes behind #### in its last line; nothing where that line does not begin so."""
    last = text.rstrip().rpartition("\n")[2]
    return last[4:].strip() if last.startswith("####") else ""


def _listed(text: str) -> list[str] | None:
    """The strings of a JSON list of strings, None for any other text."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if all(isinstance(item, str) for item in found) else None
