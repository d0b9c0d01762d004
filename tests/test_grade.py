"""`verify` and `longthink verify`: a verdict for every row, in order, whatever the rows are."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longthink import verify
from longthink.cli import main
from longthink.errors import RecipeError, TaskError
from longthink.grade import read_row
from longthink.rewards.base import Reward
from longthink.types import Verdict

RIGHT = {"kind": "countdown", "response": "</think> (3+7)*12", "gold": {"numbers": [3, 7, 12], "target": 120}}
WRONG = {**RIGHT, "response": "</think> 3+7*12"}
MATH = {"kind": "math", "response": r"\boxed{0.5}", "gold": r"\frac{1}{2}", "think": "optional"}
# fmt: off
NOT_ROWS = ["", "not json", "[1]", "3", '"x"', "{}", '{"kind": "math"}', '{"kind": "nonsense", "response": "", "gold": 1}',
            '{"kind": ["math"], "response": "", "gold": 1}', '{"kind": "math", "response": 3, "gold": 1}', "[" * 100_000,
            '{"kind": "math", "response": "", "gold": 1, "colour": "red"}',
            '{"kind": "pool", "response": "", "gold": 1}']
# fmt: on


def graded(tmp_path: Path, lines: list[str], *options: str) -> list[dict]:
    source, out = tmp_path / "rows.jsonl", tmp_path / "verdicts.jsonl"
    source.write_text("\n".join(lines) + "\n")
    assert main(["verify", "--in", str(source), "--out", str(out), *options]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_verdict_from_python() -> None:
    assert verify("countdown", RIGHT["response"], RIGHT["gold"]).score == 1.0
    assert verify("math", MATH["response"], MATH["gold"], think="optional").score == 1.0
    assert verify("math", MATH["response"], MATH["gold"], think="required").status == "no_answer"
    assert verify("countdown", "", None).score is None
    with pytest.raises(RecipeError, match="kind is 'nonsense', expected one of"):
        verify("nonsense", "", "")
    with pytest.raises(RecipeError, match="think"):
        verify("math", "", "1", think="sometimes")


def test_one_verdict_a_row_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [RIGHT, WRONG, MATH] * 100
    random.Random(0).shuffle(rows)
    found = graded(tmp_path, [json.dumps(row) for row in rows], "--workers", "2")
    assert [v["score"] for v in found] == [float(row is not WRONG) for row in rows]
    assert set(found[0]) == {"score", "status", "extracted", "detail"}
    told = capsys.readouterr().out
    assert "countdown" in told and "ok 200" in told and "300 verdicts in" in told and "a second" in told


def test_rows_that_are_none_get_a_verdict_too(tmp_path: Path) -> None:
    lines = [line for bad in NOT_ROWS for line in (json.dumps(RIGHT), bad)]
    found = graded(tmp_path, lines)
    assert len(found) == len(lines)
    assert all(v["score"] == 1.0 for v in found[::2])
    assert all(v["score"] is None and v["status"] == "verifier_error" and v["detail"]["why"] for v in found[1::2])


def test_bytes_that_are_no_text_are_read(tmp_path: Path) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "verdicts.jsonl"
    source.write_bytes(b"\xff\xfe\x00\n" + json.dumps(RIGHT).encode() + b"\n")
    assert main(["verify", "--in", str(source), "--out", str(out)]) == 0
    assert [json.loads(line)["score"] for line in out.read_text().splitlines()] == [None, 1.0]


def test_a_missing_file_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--in", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "rows").write_text("{}\n")
    for out, why in ((tmp_path, "is a folder"), (tmp_path / "rows", "is the file of --in")):
        assert main(["verify", "--in", str(tmp_path / "rows"), "--out", str(out)]) == 2
        assert why in capsys.readouterr().err
    assert (tmp_path / "rows").read_text() == "{}\n"
    assert main(["verify", "--in", str(tmp_path / "rows"), "--out", str(tmp_path / "new" / "out"), "--workers", "1"]) == 0
    assert "not graded, line 1: no 'response' in the row" in capsys.readouterr().out


def test_a_row_keeps_its_name(tmp_path: Path) -> None:
    named = [{"id": 7, **RIGHT}, {"id": "b", "kind": "nonsense", "response": "", "gold": 1}]
    assert [v["id"] for v in graded(tmp_path, [json.dumps(row) for row in named], "--workers", "1")] == [7, "b"]


def test_a_response_must_be_text() -> None:
    with pytest.raises(TaskError, match="response is int, expected text"):
        verify("math", 3, "3")  # type: ignore[arg-type]


def test_nothing_heavy_is_loaded_to_grade() -> None:
    """The processes that grade and confine must not pay for a tensor library."""
    code = "import sys, longthink, longthink.rewards.worker, longthink.sandbox.zygote; sys.exit('torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0


KEYS = st.sampled_from(["kind", "response", "gold", "think", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)
KINDS = st.sampled_from(["math", "code", "choice", "short_answer", "puzzle", "instructions", "countdown", "nonsense", 3, None])


@given(JSON | st.fixed_dictionaries({"kind": KINDS, "response": st.text(max_size=20), "gold": JSON}))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_no_row_raises(row: object) -> None:
    _, reward, response, gold, _ = read_row(row)
    verdict = reward if isinstance(reward, Verdict) else None
    assert verdict is None or (verdict.score is None and verdict.status == "verifier_error")
    if isinstance(reward, Reward) and reward.kind not in ("code", "puzzle"):
        assert reward.grade(response, gold).score in (0.0, 1.0, None)


def test_a_row_does_not_choose_a_file_to_run(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def score(response, gold):\n    return 1.0\n")
    row = read_row({"kind": "file", "path": str(path), "response": "7", "gold": 7})
    assert isinstance(row.reward, Verdict) and "cannot name a Python file" in row.reward.detail["why"]
    assert verify("file", "7", 7, path=str(path)).score == 1.0  # a program of the user's own may
