"""A scripted endpoint as a process, and curations of a few rows that ask it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
import tomli_w

from longthink.cli import main

__all__ = ["Endpoint", "curated", "endpoint", "products"]


class Endpoint(NamedTuple):
    address: str
    log: Path

    def asked(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    log = tmp_path / "asked"
    command = [sys.executable, str(Path(__file__).parent / "curation" / "endpoint.py"), str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield Endpoint(process.stdout.readline().strip(), log)
        process.kill()


def curated(folder: Path, rows: list[dict[str, Any]], steps: list[dict[str, Any]], status: int = 0) -> dict[str, dict[str, Any]]:
    """Curate these rows; the data and the rejects by row number, each with its facts, and the funnel."""
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = {"name": "asked", "source": [{"name": "a", "path": str(folder / "a.jsonl")}], "step": steps}
    (folder / "r.toml").write_text(tomli_w.dumps(table))
    assert main(["curate", str(folder / "r.toml"), "--out", str(folder / "out"), "--workers", "1"]) == status
    if status == 2:
        return {}
    data = pq.read_table(folder / "out" / "data" / "train.parquet").to_pylist()
    rejects = pq.read_table(folder / "out" / "data" / "rejects.parquet").to_pylist()
    kept = {row["row"]: row | {"facts": json.loads(row["facts"])} for row in data}
    dropped = {row["row"]: row | {"facts": json.loads(row["facts"]), "detail": json.loads(row["detail"])} for row in rejects}
    return {"kept": kept, "dropped": dropped, "funnel": json.loads((folder / "out" / "funnel.json").read_text())}


def products(*notes: str) -> list[dict[str, Any]]:
    return [
        {"problem": f"{note} What is {7 + i} times {11 + i}?", "answer": str((7 + i) * (11 + i))} for i, note in enumerate(notes)
    ]
