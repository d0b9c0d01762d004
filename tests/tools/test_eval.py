"""Evaluation with the interpreter and without, greedy and sampled."""

import json
from pathlib import Path
from typing import Any

import pytest

from longthink.cli import main


def evaluate(model: Path, out: Path, *sets: str, n: int = 6, status: int = 0) -> dict[str, Any]:
    fixed = ["--window", "50", "--top-p", "1", "--reward", "countdown", "--temperature", "1" if n > 1 else "0", "-n", str(n)]
    given = [part for text in ("model.dtype=float32", "cluster.learners=1", *sets) for part in ("--set", text)]
    assert main(["eval", str(model), "--on", str(model / "few.jsonl"), "--out", str(out), *fixed, *given]) == status
    return {} if status else json.loads((out / "summary.json").read_text())["benchmarks"]["few"]


def test_with_the_tool_without_it_and_greedily(tool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = evaluate(tool_folder, tmp_path / "run", "tool.format=tags", "tool.call_s=0.5")
    said = capsys.readouterr().out
    assert "calls of the tool a sample" in said and run["tool"]["used"] > 0.5 and 0.0 < run["tool"]["failed"] <= 1.0
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    calls = [status for row in rows for status in row.get("calls", ())]
    assert run["tool"]["calls"] == len(calls) / len(rows) == len(calls) / 12
    scores = [row["score"] for row in rows if row.get("calls")]
    assert run["tool"]["score_with"] == pytest.approx(sum(scores) / len(scores))
    assert all(("<output>" in row["text"]) >= bool(row.get("calls")) for row in rows)
    not_run = evaluate(tool_folder, tmp_path / "not_run", "tool.format=tags", "tool.run=false")
    assert "tool" not in not_run and not_run["samples"] == 12
    assert evaluate(tool_folder, tmp_path / "greedy", "tool.format=tags", "tool.call_s=0.5", n=1)["samples"] == 2
    # the folder remembers how it was sampled
    evaluate(tool_folder, tmp_path / "run", "tool.format=tags", "tool.call_s=0.4", status=2)
    assert "another tool.call_s (0.5, now 0.4)" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "run"), str(tmp_path / "not_run")]) == 0


def test_mistakes(tool_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(tool_folder, tmp_path / "a", "tool.format=tgs", status=2)
    assert "tool.format: Input should be 'still', 'tora' or 'tags'" in capsys.readouterr().err
    assert main(["eval", "http://127.0.0.1:9/v1", "--on", str(tool_folder / "few.jsonl"), "--set", "tool.calls=2"]) == 2
    assert "the interpreter goes with the folder of a model" in capsys.readouterr().err
