"""Reading row by row: what is broken is named and passed over, the rest comes as it stands."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longthink import reading
from longthink.errors import TaskError
from longthink.reading import Broken, read_rows


def told(path: Path) -> list[Any]:
    return [row.why if isinstance(row, Broken) else row for row in read_rows(path)]


def test_broken_lines_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    deep = b"[" * 100_000
    lines = [b'{"a": 1}', b'{"a": ', b"", b'{"a": "\xff"}', deep, b"3", b'{"a": 2}']
    (tmp_path / "d.jsonl").write_bytes(b"\n".join(lines))
    first, cut, bytes_, nested, three, last = told(tmp_path / "d.jsonl")
    assert (first, three, last) == ({"a": 1}, 3, {"a": 2})
    assert cut == "not JSON at line 2: Expecting value" and bytes_ == "not UTF-8 at line 4: invalid start byte"
    assert nested.startswith("not JSON at line 5: ")
    assert [row.text for row in read_rows(tmp_path / "d.jsonl") if isinstance(row, Broken)][:2] == ['{"a":', '{"a": "\ufffd"}']


@pytest.mark.parametrize("ending", [b"\n", b""])
def test_a_line_that_is_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: bytes) -> None:
    monkeypatch.setattr(reading, "MAX_LINE", 1 << 20)
    for length, whole in ((1 << 20, ending == b"\n"), ((1 << 20) + 1, False), (5 << 20, False)):
        line = json.dumps("x" * (length - 2 - len(ending))).encode() + ending
        assert len(line) == length
        rest = [b'{"b": 2}\n'] if ending else []
        (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(b"".join([b'{"a": 1}\n', line, *rest])))
        first, long, *after = told(tmp_path / "d.jsonl.gz")
        assert first == {"a": 1} and after == ([{"b": 2}] if rest else [])
        assert (isinstance(long, str) and long.startswith("xxx")) if whole else long == "line 2 has more than 1 MiB"


def test_csv_rows_that_do_not_fit_or_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(b'a,b\n1,2\n3,4,5\n"x\ny",\xff\n6,"7"\n')
    assert told(tmp_path / "d.csv") == [
        {"a": "1", "b": "2"},
        "line 3 has more fields than the first line names columns",
        "not UTF-8 at line 5",
        {"a": "6", "b": "7"},
    ]


def test_a_text_of_parquet_that_is_not_utf8(tmp_path: Path) -> None:
    column = pa.array([b"good", b"bad \xff", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"a": column, "b": [1, 2, 3]}), tmp_path / "d.parquet")
    first, bad, last = told(tmp_path / "d.parquet")
    assert (first, last) == ({"a": "good", "b": 1}, {"a": "fine", "b": 3})
    assert bad == "a text of it is not UTF-8: invalid start byte"


def test_what_the_datasets_library_saves(tmp_path: Path) -> None:
    table = pa.table({"a": list(range(3000)), "b": ["x"] * 3000})
    with pa.OSFile(str(tmp_path / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    rows = list(read_rows(tmp_path / "data.arrow"))
    assert [row["a"] for row in rows] == list(range(3000)) and rows[0] == {"a": 0, "b": "x"}
    (tmp_path / "bad.arrow").write_bytes(b"nothing of the kind")
    with pytest.raises(TaskError, match="not a readable Arrow stream"):
        list(read_rows(tmp_path / "bad.arrow"))
