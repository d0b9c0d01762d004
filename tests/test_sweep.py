"""A grid of real runs: every combination and seed once, resumed where it was, skipped where it is done."""

import json
from pathlib import Path

import pytest

from longthink.cli import main
from longthink.errors import RecipeError
from longthink.folder import tiny_folder
from longthink.sweep import cells
from longthink.tasks.countdown import WORDS

TEMPLATE = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}<think>"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    tiny_folder(tmp_path / "tiny", WORDS, seed=0, template=TEMPLATE, hidden_size=16, num_hidden_layers=1, intermediate_size=32)
    path = tmp_path / "small.toml"
    path.write_text(
        f"""name = "small"
model = {{ path = "{tmp_path}/tiny", dtype = "float32", processes = 1, threads = 1 }}
task.kind = "countdown"
reward.kind = "countdown"
workers = 1
rollout = {{ prompts = 2, group_size = 2, window = 8 }}
validation = {{ every = 1, problems = 2, samples = 1 }}
budget.max_steps = 2
"""
    )
    return path


def test_every_combination_once_and_again_for_nothing(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    command = ["sweep", str(recipe), "--grid", "learner.lr=1e-3,1e-4", "--seeds", "2", "--out", str(out)]
    assert main(command) == 0
    first = capsys.readouterr().out
    rows = json.loads((out / "sweep.json").read_text())
    assert [r["settings"] for r in rows] == [["learner.lr=1e-3"], ["learner.lr=1e-4"]]
    assert all(r["seeds"] == 2 and len(r["accuracy"]["each"]) == 2 for r in rows)
    runs = sorted(p.parent for p in out.rglob("recipe.toml"))
    assert [str(p.relative_to(out)) for p in runs] == [f"learner.lr={lr}/seed_{s}" for lr in ("1e-3", "1e-4") for s in (0, 1)]
    written = {p: p.stat().st_mtime_ns for p in out.rglob("model.safetensors")}
    assert main(command) == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("model.safetensors")} == written
    lines = [line for line in first.splitlines() if "seed(s)" in line]
    assert lines == [line for line in capsys.readouterr().out.splitlines() if "seed(s)" in line] and len(lines) == 2


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (["loss.kl"], "expected key=value,value"),
        (["loss.kl="], "expected key=value,value"),
        (["loss.kl=0,,1"], "expected key=value,value"),
        (["loss.kl=0,0"], "a value is there twice"),
    ],
)
def test_grids_that_cannot_be_are_refused(grid: list[str], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        cells(grid)


def test_a_cell_that_cannot_run_is_refused_before_any_work(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    assert main(["sweep", str(recipe), "--grid", "rollout.group_size=2,1", "--out", str(out)]) == 2
    assert "a group of one has no advantage" in capsys.readouterr().err and not out.exists()


def test_one_seed_has_no_interval(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    assert main(["sweep", str(recipe), "--out", str(out)]) == 0
    (row,) = json.loads((out / "sweep.json").read_text())
    assert row["settings"] == [] and set(row["accuracy"]) == {"mean", "each"}
    assert "the recipe as it is" in capsys.readouterr().out
