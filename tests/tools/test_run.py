"""Reinforcement learning with the interpreter, with real programs: masks, ids, journals, hostile code, kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from support import PROGRAMS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kill_runner import TOOLS
from test_resume import all_calls, assert_same, run_jobs

from longthink.cli import main
from longthink.clusters.cluster import Cluster
from longthink.clusters.peers import LATE, Place
from longthink.folder import ModelFolder, Tokenizer
from longthink.recipe import parse_recipe
from longthink.tools.calls import Calls
from longthink.tools.formats import FORMATS
from longthink.tools.settings import ToolSettings
from longthink.train import train
from longthink.types import Batch, Problem, Request, Rollout, RolloutId, Sampling, Segment

ENDED = {"ok", "error", "timeout", "limit", "crash"}


def recipe(tool_folder: Path, **changes: Any) -> Any:
    table = TOOLS | {"model": {"path": str(tool_folder), "dtype": "float32"}, "cluster": {"learners": 2, "threads": 1}}
    return parse_recipe(table | changes, "tools")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tool_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Batch]]:
    """A run of two processes, and the batches its learner was given."""
    batches: list[Batch] = []
    update = Cluster.update

    def noted(self: Cluster, batch: Batch, *rest: Any) -> Any:
        batches.append(batch)
        return update(self, batch, *rest)

    before = Path.cwd()
    os.chdir(tool_folder)
    Cluster.update = noted  # type: ignore[method-assign]
    try:
        folder = tmp_path_factory.mktemp("run") / "run"
        rollout = TOOLS["rollout"] | {"prompts": 8, "group_size": 8}
        train(recipe(tool_folder, rollout=rollout), folder)
    finally:
        Cluster.update = update  # type: ignore[method-assign]
        os.chdir(before)
    return folder, batches


def answered(path: Path) -> list[dict[str, Any]]:
    """The calls of a journal, without the lines that say who was late."""
    return [row for row in lines(path) if not row.get("late")]


def test_hostile_code_ends_as_text_and_every_rollout_ends(run: tuple[Path, list[Batch]]) -> None:
    folder, _ = run
    rows = [row for path in sorted((folder / "rollouts").glob("*.jsonl")) for row in lines(path)]
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"} and len(rows) == 3 * 64 + 2 * 8
    calls = [call for row in rows for call in row.get("calls", [])]
    ended = Counter(call["status"] for call in calls)
    assert set(ended) == ENDED and ended.total() > 100, ended
    by_code: dict[str, set[str]] = {}
    for call in calls:
        by_code.setdefault(call["code"].strip(), set()).add(call["output"])
    assert by_code["6*7"] == {"42"} and by_code["1/0"] == {"ZeroDivisionError: division by zero"}
    assert by_code["exec('while(1):pass')"] == {"Timeout Error"}
    assert by_code["print(x)"] <= {"7", "NameError: name 'x' is not defined"} and len(by_code["print(x)"]) == 2
    for code in PROGRAMS["hostile"][5:]:
        assert all("Permission" in output or "not permitted" in output for output in by_code.get(code, ())), code


def test_calls_are_in_the_journal_and_the_slow_ones_are_late(run: tuple[Path, list[Batch]]) -> None:
    folder, _ = run
    late: list[dict[str, Any]] = []
    for path in sorted((folder / "rollouts").glob("*.jsonl")):
        told = answered(folder / "tool_calls" / path.name)
        key = ("code", "output", "status")
        written = {(row["group"], row["sample"], row["call"]): tuple(row[k] for k in key) for row in told}
        kept = {
            (row["group"], row["sample"], i): tuple(call[k] for k in key)
            for row in lines(path)
            for i, call in enumerate(row.get("calls", []))
        }
        assert written == kept and len(told) == len(written)
        behind = {
            (row["group"], row["sample"], row["after"]) for row in lines(folder / "tool_calls" / path.name) if row.get("late")
        }
        late += [row for row in told if (row["group"], row["sample"], row["after"]) in behind]
    assert any(row["status"] == "timeout" for row in late)
    assert all(row["seconds"] >= TOOLS["tool"]["patience_s"] for row in late)  # a busy machine may make others slow


def test_ids_in_are_ids_trained_on_and_a_tools_are_in_no_loss(tool_folder: Path, run: tuple[Path, list[Batch]]) -> None:
    """The batch holds the very ids of the journal; those of a tool are the format around its output, and masked."""
    folder, batches = run
    tokenizer, format = ModelFolder(tool_folder).tokenizer, FORMATS["tags"]
    seen = 0
    for step, batch in enumerate(batches, 1):
        rows = [r for r in lines(folder / "rollouts" / f"step_{step:06d}.jsonl") if r["trained"]]
        assert len(rows) == len(batch)
        for at, row in enumerate(rows):
            where = slice(int(batch.offsets[at]), int(batch.offsets[at + 1]))
            assert batch.tokens[where].tolist() == row["prompt_ids"] + row["response_ids"]
            sources = row.get("sources", [["policy", len(row["response_ids"])]])
            mask = [False] * len(row["prompt_ids"])
            begun, told = 0, iter(row.get("calls", []))
            for source, count in sources:
                mask += [source == "policy"] * count
                if source == "tool":
                    seen += 1
                    before, output, after = format.shown("", next(told)["output"])
                    ids = np.concatenate(
                        [tokenizer.encode(before), tokenizer.encode(output, plain=True), tokenizer.encode(after)]
                    )
                    assert row["response_ids"][begun : begun + count] == ids[:count].tolist()
                begun += count
            assert batch.loss_mask[where].tolist() == mask
    assert seen > 100


def test_the_metrics_say_how_the_tool_was_used(run: tuple[Path, list[Batch]]) -> None:
    folder, _ = run
    for step, row in enumerate(lines(folder / "metrics.jsonl")[1:], 1):
        rollouts = lines(folder / "rollouts" / f"step_{step:06d}.jsonl")
        calls = [call for r in rollouts for call in r.get("calls", [])]
        assert row["tool/calls/mean"] == len(calls) / 64
        assert row["tool/error_share"] == sum(call["status"] != "ok" for call in calls) / len(calls)
        with_ = [r["verdict"]["score"] for r in rollouts if r.get("calls")]
        assert row["tool/accuracy_with"] == sum(with_) / len(with_)
        said = sum(count for r in rollouts for source, count in r.get("sources", []) if source == "tool")
        assert row["tool/tokens_share"] == said / sum(len(r["response_ids"]) for r in rollouts)
        assert row["reward/part/calls/mean"] == pytest.approx(
            np.mean([r["verdict"]["detail"]["parts"]["calls"] for r in rollouts]), abs=1e-12
        )


# -- resume ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tool_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    root = tmp_path_factory.mktemp("whole")
    assert run_jobs(tool_folder, root, "none", [0], "tools") == [{"k": 0, "first": 0, "second": 0}]
    return root / "0"


def test_killed_at_seeded_points_it_resumes_to_the_same_bits(tool_folder: Path, whole: Path, tmp_path: Path) -> None:
    ks = sorted(random.Random(22).sample(range(1, all_calls(whole)), 1))
    for result in run_jobs(tool_folder, tmp_path, "kill", ks, "tools"):
        assert result["first"] == -9 and result["second"] == 0, result
        assert_same(tmp_path / str(result["k"]), whole)


@pytest.mark.full
@pytest.mark.parametrize("fault", ["kill", "torn", "full"])
def test_every_point(tool_folder: Path, whole: Path, tmp_path: Path, fault: str) -> None:
    for result in run_jobs(tool_folder, tmp_path, fault, list(range(1, all_calls(whole) + 1)), "tools"):
        assert result["first"] == (2 if fault == "full" else -9) and result["second"] == 0, result
        assert_same(tmp_path / str(result["k"]), whole)


def test_killed_in_a_call_it_resumes_to_the_same_bits(tool_folder: Path, whole: Path, tmp_path: Path) -> None:
    """SIGKILL to all of it while an endless loop runs: its rollout is the last of its step, and its call not written down."""
    slow = next(p for p in sorted((whole / "tool_calls").iterdir()) if any(row.get("late") for row in lines(p)))
    marks = sum(bool(row.get("late")) for row in lines(slow))
    folder = tmp_path / "run"
    job = "import sys; sys.path.insert(0, sys.argv[1]); from kill_runner import job; from pathlib import Path; "
    job += "import torch; torch.set_num_threads(1); sys.exit(job(sys.argv[2], 'tools', Path(sys.argv[3]), None))"
    command = [sys.executable, "-c", job, str(Path(__file__).resolve().parents[1]), str(tool_folder), str(folder)]
    process = subprocess.Popen(command, cwd=tool_folder, stdout=subprocess.DEVNULL, start_new_session=True)
    journal, before = folder / "tool_calls" / slow.name, len(lines(slow)) - marks  # each mark has an answer behind it
    while not journal.exists() or len(journal.read_bytes().splitlines()) < before:
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(lines(journal)) < len(lines(slow)) and not (folder / "rollouts" / slow.name).exists()
    assert subprocess.run(command, cwd=tool_folder, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert_same(folder, whole)


def calling(tokenizer: Tokenizer, code: str) -> tuple[Request, Rollout]:
    """A request whose rollout has ended with a call of this code."""
    text = tokenizer.encode(f"<code> {code} </code>")
    request = Request(RolloutId(3, 1), Problem("p", (), None), np.zeros(2, np.int64), 40, Sampling(), 5, calls=FORMATS["tags"])
    return request, Rollout(request.id, request.problem, request.prompt_ids, (Segment("policy", text),), "call", Sampling(), 40)


def test_who_was_late_is_late_again(tool_folder: Path, tmp_path: Path) -> None:
    """The journal says that others went on without a call that nobody knows the answer of; next time it is quick, and waits."""
    tokenizer, journal = ModelFolder(tool_folder).tokenizer, tmp_path / "calls" / "step.jsonl"
    request, rollout = calling(tokenizer, "__import__('time').sleep(0.2)")
    for patience_s in (0.0, 60.0):
        place = Place("here", lambda: None, None)  # type: ignore[arg-type, return-value]
        place.calling[False], place.open[False] = {request.id: 0}, {RolloutId(9, 9): request}
        calls = Calls(ToolSettings(format="tags", patience_s=patience_s), tokenizer)
        try:
            calls.open(journal)
            calls.begin(False, request, rollout)
            assert calls.go_on(place, False, wait=False) == [] and place.calling[False] == {request.id: LATE}
            (row,) = lines(journal)
            assert row["late"] and "output" not in row
            if patience_s:
                place.open[False] = {}
                assert calls.go_on(place, False, wait=True) == [] and [r.id for r in place.fresh[False]] == [request.id]
        finally:
            calls.close()
    assert ["status" in row for row in lines(journal)] == [False, True]


def test_check_says_that_a_tokenizer_cannot_write_a_call(tool_folder: Path, tmp_path: Path, capsys: Any) -> None:
    table = TOOLS | {"model": {"path": str(tool_folder)}, "tool": {"format": "still"}}
    table["task"] = {"kind": "file", "train": str(tool_folder / "few.jsonl"), "validation": str(tool_folder / "few.jsonl")}
    (tmp_path / "r.toml").write_text(tomli_w.dumps(table))
    assert main(["check", str(tmp_path / "r.toml")]) == 2
    assert "the tokenizer of the model cannot write '```python" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "r.toml"), "--set", "tool.format=tags"]) == 0


def test_what_the_journal_has_is_not_run_again(tool_folder: Path, tmp_path: Path) -> None:
    """A call's output is what was written down, though running it again would say something else."""
    tokenizer = ModelFolder(tool_folder).tokenizer
    request, rollout = calling(tokenizer, "__import__('random').random()")
    text = rollout.response_ids
    outputs = []
    for _ in range(2):
        calls = Calls(ToolSettings(format="tags"), tokenizer)
        try:
            calls.open(tmp_path / "calls" / "step.jsonl")
            calls.begin(False, request, rollout)
            assert calls.ready(False, [request.id], 60.0) == [request.id]
            (again,), over = calls.answers(False, [request.id])
            outputs.append(again.segments[-1].call.output)  # type: ignore[union-attr]
            assert not over and again.num_generated == len(text) + len(again.segments[-1].token_ids)
        finally:
            calls.close()
        path = tmp_path / "calls" / "step.jsonl"
        (row,) = lines(path)
        path.write_text(json.dumps(row | {"output": "42"}) + "\n" + '{"torn')
    assert outputs[0] != outputs[1] == "42"
