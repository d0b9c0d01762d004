"""The loop on a real tiny model: what it logs, how it stops, and how a branch finds its parent again."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import stopped_after_one

from longthink.checkpoint import Parent
from longthink.errors import LearnerError
from longthink.folder import ModelFolder, tiny_folder, write_weights
from longthink.metrics import ALIASES
from longthink.recipe import Recipe, parse_recipe
from longthink.run import Run
from longthink.tasks.countdown import WORDS
from longthink.train import train

TEMPLATE = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}<think>"
METRICS = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_folder(folder, WORDS, seed=0, template=TEMPLATE, hidden_size=32, num_hidden_layers=1, intermediate_size=32)
    return folder


def recipe(model: Path, **changes: Any) -> Recipe:
    table: dict[str, Any] = {
        "name": "loop",
        "model": {"path": str(model), "dtype": "float32"},
        "cluster": {"learners": 1, "threads": 1},
        "task": {"kind": "countdown"},
        "reward": {"kind": "countdown"},
        "workers": 1,
        "rollout": {"prompts": 2, "group_size": 2, "window": 12},
        "loss": {"kl": 0.01},
        "budget": {"max_steps": 2},
        "checkpoint": {"every": 1},
    }
    return parse_recipe(table | changes, "loop")


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_every_logged_key_is_documented_and_aliases_repeat_values(model: Path, tmp_path: Path) -> None:
    validation = {"every": 1, "problems": 2, "samples": 1}
    train(recipe(model, aliases=["verl", "trl"], tensorboard=True, validation=validation), tmp_path / "run")
    documented = set(re.findall(r"`([a-z0-9_]+(?:/[a-z0-9_/]+)?)`", METRICS.read_text()))
    theirs = {name for names in ALIASES.values() for name in names.values()}
    row = rows_of(tmp_path / "run")[-1]
    assert set(row) - theirs <= documented
    for names in ALIASES.values():
        assert all(row[alias] == row[ours] for ours, alias in names.items() if ours in row)
    assert len(set(row) & theirs) > 15
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_a_stop_is_saved_and_continued(model: Path, tmp_path: Path) -> None:
    whole = train(recipe(model, checkpoint={"every": 5}), tmp_path / "whole")
    stopped = stopped_after_one(recipe(model, checkpoint={"every": 5}), tmp_path / "stopped")
    assert (stopped.step, stopped.complete) == (1, False)
    resumed = train(Run.open(tmp_path / "stopped", None).recipe, tmp_path / "stopped", resume=True)
    assert resumed.complete
    for name in ("model.safetensors", "optimizer.tensors", "reference.tensors", "data.json"):
        assert (resumed.last_checkpoint / name).read_bytes() == (whole.last_checkpoint / name).read_bytes(), name


def test_broken_weights_end_in_one_message_and_keep_the_run(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    decoder = ModelFolder(broken).decoder()
    teacher = {"engine": {"kind": "teacher"}, "loss": {"kind": "nll"}, "rollout": {"prompts": 4, "group_size": 1, "window": 90}}
    with decoder.model.norm.weight.data.device:
        decoder.model.norm.weight.data[0] = float("inf")
    write_weights(broken, decoder.state_dict())
    with pytest.raises(LearnerError, match="not finite"):
        train(recipe(broken, **teacher), tmp_path / "run")
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [0]


def test_a_branch_killed_before_its_first_checkpoint_finds_its_parent(model: Path, tmp_path: Path) -> None:
    parent = train(recipe(model, loss={"entropy": 0.1}, learner={"lr": 0.1}), tmp_path / "parent").last_checkpoint
    branch = tmp_path / "branch"
    whole = train(recipe(model), branch, parent=Parent(parent))
    weights = (whole.last_checkpoint / "model.safetensors").read_bytes()
    shutil.rmtree(branch / "checkpoints")
    (branch / "checkpoints").mkdir()
    again = train(Run.open(branch, None).recipe, branch, resume=True)
    assert (again.last_checkpoint / "model.safetensors").read_bytes() == weights
    from_scratch = train(recipe(model), tmp_path / "other").last_checkpoint
    assert (from_scratch / "model.safetensors").read_bytes() != weights
