"""A run killed at any write, fsync or rename, or hit by a full disk, ends as the uninterrupted run did: bit for bit."""

import atexit
import json
import random
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from longthink.checkpoint import latest, verify
from longthink.errors import CheckpointError, RecipeError
from longthink.run import Run, _differences
from longthink.tasks.countdown import Countdown
from longthink.train import train

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def warm(warm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that solves some two-number problems, fine-tuned by the same loop, with a file of problems."""
    folder = tmp_path_factory.mktemp("warm") / "model"
    shutil.copytree(warm_folder, folder)
    task = Countdown(count=2, high=6, min_target=2, seed=1)
    rows = [{"prompt": p.prompt, "answer": p.gold} for p in (task.problem("test", i) for i in range(8))]
    (folder / "few.jsonl").write_text("".join(json.dumps(row, default=list) + "\n" for row in rows))
    return folder


@cache
def runner() -> subprocess.Popen[str]:
    """The process that forks the jobs; it ends with this one, whose pipe it reads."""
    command = [sys.executable, str(HERE / "kill_runner.py")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.__exit__, None, None, None)
    return process


def run_jobs(warm: Path, root: Path, fault: str, ks: list[int], variant: str = "stages") -> list[dict[str, int]]:
    process = runner()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps([str(warm), str(root), variant, fault, ks]) + "\n")
    process.stdin.flush()
    if not (line := process.stdout.readline()):
        runner.cache_clear()
        pytest.fail(f"the runner ended with {process.wait()}; what it said is above")
    found: list[dict[str, int]] = json.loads(line)
    assert [one["k"] for one in found] == ks
    return found


@pytest.fixture(scope="module")
def whole(warm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    root = tmp_path_factory.mktemp("whole")
    assert run_jobs(warm, root, "none", [0]) == [{"k": 0, "first": 0, "second": 0}]
    return root / "0"


def content(run: Path) -> dict[str, Any]:
    """Everything a run leaves, time keys aside."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {
        "metrics": [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows],
        "events": (run / "events.jsonl").read_text() if (run / "events.jsonl").exists() else "",
        "recipe": (run / "recipe.toml").read_text(),
        "best": (run / "best.json").read_text() if (run / "best.json").exists() else "",
    }
    for folder in ("rollouts", "checkpoints", "twins"):
        found |= {str(p.relative_to(run)): p.read_bytes() for p in sorted((run / folder).rglob("*")) if p.is_file()}
    return found


def assert_same(run: Path, whole: Path) -> None:
    ours, theirs = content(run), content(whole)
    assert sorted(ours) == sorted(theirs)
    for name in theirs:
        assert ours[name] == theirs[name], f"{run.name}: {name} differs from the uninterrupted run"


def all_calls(whole: Path) -> int:
    return int((whole / "calls").read_text())


def test_the_whole_run_learns_something(whole: Path) -> None:
    """The comparison below would mean nothing over a run without signal, stages or updates."""
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [0, 1, 2, 3, 4]
    assert any(0 < r["reward/mean"] < 1 and r["group/constant_share"] < 1 for r in rows[1:])
    assert [r["window"] for r in rows] == [24, 24, 24, 48, 48]
    assert all(r["learner/grad_norm/mean"] > 0 for r in rows[1:])
    assert all_calls(whole) > 60


def test_killed_at_seeded_points(warm: Path, whole: Path, tmp_path: Path) -> None:
    ks = [*sorted(random.Random(20).sample(range(1, all_calls(whole)), 4)), all_calls(whole)]
    for result in run_jobs(warm, tmp_path, "kill", ks):
        assert result["first"] == -9 and result["second"] == 0, result
        assert_same(tmp_path / str(result["k"]), whole)


def test_torn_writes_and_full_disks(warm: Path, whole: Path, tmp_path: Path) -> None:
    for fault, ends, k in (("torn", -9, random.Random(21).randrange(1, all_calls(whole))), ("full", 2, all_calls(whole))):
        for result in run_jobs(warm, tmp_path / fault, fault, [k]):
            assert result["first"] == ends and result["second"] == 0, (fault, result)
            assert_same(tmp_path / fault / str(result["k"]), whole)


@pytest.mark.full
@pytest.mark.parametrize("fault", ["kill", "torn", "full"])
def test_every_point(warm: Path, whole: Path, tmp_path: Path, fault: str) -> None:
    for result in run_jobs(warm, tmp_path, fault, list(range(1, all_calls(whole) + 1))):
        assert result["first"] == (2 if fault == "full" else -9) and result["second"] == 0, result
        assert_same(tmp_path / str(result["k"]), whole)


@pytest.fixture(scope="module", params=["schedules", "still", "rules", pytest.param("sharded", marks=pytest.mark.cluster)])
def mechanisms(request: pytest.FixtureRequest, warm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Uninterrupted runs of recipes that use every schedule and selection."""
    root = tmp_path_factory.mktemp(request.param)
    assert run_jobs(warm, root, "none", [0], request.param) == [{"k": 0, "first": 0, "second": 0}]
    return request.param, root / "0"


def test_the_runs_with_every_mechanism_use_them(mechanisms: tuple[str, Path]) -> None:
    variant, run = mechanisms
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][1:]
    assert any(r["learner/updates/sum"] > 0 for r in rows)
    if variant == "rules":
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        done = [e["action"].get("do", "next") for e in events]
        assert {do: done.count(do) for do in done} == {"next": 7, "reset": 2, "rollback": 1, "set": 2}
        assert [r["stage"] for r in rows] == sorted(r["stage"] for r in rows) and rows[-1]["stage"] == 7
        again = [e for e in events if "finalists" in e["evidence"]]
        for event in again:  # the best by fresh samples, and the latest among equals
            best = max(event["evidence"]["finalists"], key=lambda f: (f["accuracy"], f["step"]))
            assert event["action"]["from_step"] == best["step"]
        assert any(e["action"]["from_step"] < e["step"] == 4 for e in again) and (run / "best.json").exists()
        assert len(list((run / "twins" / "checkpoints").iterdir())) == len(events)
        assert {r["window"] for r in rows if r["stage"] == 7} <= {16, 21, 32, 36} and any("signal/16/gain" in r for r in rows)
        assert all(e["evidence"] for e in events) and len({e["step"] for e in events}) == len(events)
        shares = [sum(r["domain/few/groups"] for r in rows if r["stage"] in stages) for stages in ((0, 1, 2, 3), (4, 5, 6, 7))]
        counts = [4 * sum(r["stage"] in stages for r in rows) for stages in ((0, 1, 2, 3), (4, 5, 6, 7))]
        assert shares[0] / counts[0] == 0.5 and shares[1] / counts[1] > 0.7
        return
    assert any(r["select/discarded_share"] > 0 for r in rows)
    if variant in ("schedules", "sharded"):
        assert [r["window"] for r in rows] == [48, 48, 36, 24, 24]
        assert any(r["select/rounds"] > 1 for r in rows) and all("reward/part/cosine/mean" in r for r in rows)
        assert {r["domain/few/groups"] > 0 and r["domain/more/groups"] > 0 for r in rows} == {True}
    else:
        assert any(r["pool/resting"] > 0 for r in rows) and any("mismatch/ratio/mean" in r for r in rows)


def test_every_mechanism_resumes_to_the_same_bits(mechanisms: tuple[str, Path], warm: Path, tmp_path: Path) -> None:
    variant, run = mechanisms
    ks = sorted(random.Random(22).sample(range(1, all_calls(run)), 1 if variant == "rules" else 2))
    for result in run_jobs(warm, tmp_path, "kill", ks, variant):
        assert result["first"] == -9 and result["second"] == 0, result
        assert_same(tmp_path / str(result["k"]), run)


@pytest.mark.full
def test_every_mechanism_resumes_from_every_point(mechanisms: tuple[str, Path], warm: Path, tmp_path: Path) -> None:
    variant, run = mechanisms
    for result in run_jobs(warm, tmp_path, "kill", list(range(1, all_calls(run) + 1)), variant):
        assert result["first"] == -9 and result["second"] == 0, result
        assert_same(tmp_path / str(result["k"]), run)


def copy_of(whole: Path, folder: Path) -> Path:
    import shutil

    shutil.copytree(whole, folder)
    return folder


def test_a_torn_checkpoint_is_refused_and_the_one_before_used(whole: Path, tmp_path: Path) -> None:
    run = copy_of(whole, tmp_path / "run")
    newest = max((run / "checkpoints").glob("step_*"))
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is torn or changed"):
        verify(newest)
    stored = Run.open(run, None)
    found = latest(run, stored.id)
    assert found is not None
    assert found[0] < newest and "torn" in found[2][0]
    train(stored.recipe, run, resume=True)
    assert_same(run, whole)


def test_a_foreign_checkpoint_is_refused(whole: Path, tmp_path: Path) -> None:
    run = copy_of(whole, tmp_path / "run")
    with pytest.raises(CheckpointError, match="belongs to run"):
        latest(run, "another")


def test_a_changed_recipe_is_refused(warm: Path, whole: Path) -> None:
    stored = Run.open(whole, None).recipe
    changed = stored.model_copy(update={"learner": stored.learner.model_copy(update={"lr": 5.0})})
    with pytest.raises(RecipeError, match=r"learner\.lr was 0\.001, is 5\.0"):
        Run.open(whole, changed)


def test_a_run_of_a_version_with_fewer_keys_is_the_same_run(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run" / "recipe.toml"
    older = tomllib.loads(path.read_text())
    del older["cluster"]["patience_s"], older["engine"]["servers"], older["reference"]
    path.write_text(tomli_w.dumps(older))
    assert Run.open(tmp_path / "run", None).id == Run.open(whole, None).id


def test_what_the_machine_resolved_is_no_difference() -> None:
    there = {"model": {"dtype": "float32"}, "cluster": {"learners": 2, "threads": 1, "shard": False}}
    asked = {"model": {"dtype": "auto"}, "cluster": {"learners": 0, "threads": 0, "shard": False}}
    assert _differences(there, asked) == []
    assert _differences(there, {**asked, "cluster": {**asked["cluster"], "shard": True}}) == ["cluster.shard was False, is True"]


def test_resume_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run to resume"):
        Run.open(tmp_path, None)


def test_a_run_is_not_overwritten(whole: Path) -> None:
    with pytest.raises(CheckpointError, match="a run is already there"):
        train(Run.open(whole, None).recipe, whole)
