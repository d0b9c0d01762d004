"""A grid of real runs: every combination and seed once, resumed where it was, skipped where it is done."""

import json
from pathlib import Path

import pytest

from longthink.cli import main
from longthink.errors import RecipeError
from longthink.folder import tiny_folder
from longthink.recipe import load_recipe
from longthink.run import Run
from longthink.sweep import area, grid_cells
from longthink.tasks.countdown import WORDS

TEMPLATE = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}<think>"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    tiny_folder(tmp_path / "tiny", WORDS, seed=0, template=TEMPLATE, hidden_size=16, num_hidden_layers=1, intermediate_size=32)
    path = tmp_path / "small.toml"
    path.write_text(
        f"""name = "small"
model = {{ path = "{tmp_path}/tiny", dtype = "float32" }}
cluster = {{ learners = 1, threads = 1 }}
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
    parts = json.loads((out / "sweep.json").read_text())["parts"]
    assert list(parts) == [f"learner.lr={lr}/seed_{s}" for s in (0, 1) for lr in ("1e-3", "1e-4")]
    assert all(p["steps"] == 2 and len(p["curve"]) == 3 and 0 <= p["accuracy"] <= 1 for p in parts.values())
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
        grid_cells(grid)


def test_a_cell_that_cannot_run_is_refused_before_any_work(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    assert main(["sweep", str(recipe), "--grid", "rollout.group_size=2,1", "--out", str(out)]) == 2
    assert "a group of one has no advantage" in capsys.readouterr().err and not out.exists()


def test_one_seed_has_no_interval(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    assert main(["sweep", str(recipe), "--out", str(out)]) == 0
    assert list(json.loads((out / "sweep.json").read_text())["parts"]) == ["as it is/seed_0"]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "seed(s)" in line]
    assert line.startswith("as it is  1 seed(s)  accuracy") and "[" not in line


STUDY = """
[study]
seeds = 2
seeded = ["seed", "task.seed"]
problems = 3
samples = 2

[study.arms.plain]

[study.arms.wide]
rollout.window = 12
stage = [{ max_steps = 1 }, { rollout.window = 16 }]
"""


def test_a_study_runs_its_arms_tests_them_alike_and_keeps_what_is_done(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text() + STUDY)
    tiny = tmp_path / "tiny"
    tiny.rename(tmp_path / "tiny_0")
    (tmp_path / "tiny_1").symlink_to(tmp_path / "tiny_0")
    out, sets = tmp_path / "sweep", [f"--set=model.path={tmp_path}/tiny_{{seed}}"]
    assert main(["sweep", str(recipe), "--out", str(out), "--arm", "wide", *sets]) == 0
    parts = json.loads((out / "sweep.json").read_text())["parts"]
    assert list(parts) == ["wide/seed_0", "wide/seed_1"]
    for name, part in parts.items():
        assert len(part["right"]) == 3 and part["events"][0][1] == "max_steps" and part["steps"] == 2
        run = Run.open(out / name, None)
        assert run.recipe.task["seed"] == run.recipe.seed == int(name[-1]) and run.recipe.model.path.endswith(name[-1])
    written = (out / "sweep.json").read_bytes()
    for folder in out.glob("wide*"):
        folder.rename(out / "gone")  # what is done is known from the results, not from the runs
    assert main(["sweep", str(recipe), "--out", str(out), *sets]) == 0
    assert list(json.loads((out / "sweep.json").read_text())["parts"])[:2] == list(json.loads(written)["parts"])
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["gone", "plain"]


def test_an_arm_is_a_recipe_and_an_unknown_one_is_refused(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text(recipe.read_text() + STUDY)
    assert [s.rollout.window for s in load_recipe(recipe, arm="wide").staged] == [12, 16]
    assert load_recipe(recipe).rollout.window == 8
    assert main(["check", str(recipe), "--arm", "wid"]) == 2 and "did you mean wide?" in capsys.readouterr().err
    assert main(["sweep", str(recipe), "--arm", "wid", "--out", "never"]) == 2
    assert "expected one of plain, wide" in capsys.readouterr().err
    recipe.write_text(recipe.read_text().replace("problems = 3", "problem = 3"))
    assert main(["check", str(recipe)]) == 2 and "study: unknown key problem; did you mean problems?" in capsys.readouterr().err


def test_the_area_is_the_mean_accuracy_over_generated_tokens() -> None:
    curve = [[0, 0.25, 1], [100, 0.5, 1], [300, 0.75, 1]]
    assert area(curve) == pytest.approx((100 * 0.375 + 200 * 0.625) / 300)
    assert area(curve, 200) == pytest.approx((100 * 0.375 + 100 * 0.5625) / 200)
    assert area(curve, 400) == pytest.approx((100 * 0.375 + 200 * 0.625 + 100 * 0.75) / 400)
    assert area(curve[:1]) is None and area([]) is None


def test_results_of_another_recipe_are_not_taken_for_these(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", str(recipe), "--out", str(tmp_path / "sweep")]
    assert main(command) == 0 and main([*command, "--set", "learner.lr=1e-5"]) == 2
    assert "holds as it is/seed_0 of other settings" in capsys.readouterr().err
    (tmp_path / "sweep" / "sweep.json").write_text("{")
    assert main(command) == 2 and "not JSON" in capsys.readouterr().err


def test_a_run_that_cannot_learn_is_kept_as_failed_and_the_others_run(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    grid = ["--grid", "max_constant_steps=1,9", "--set", "rollout.window=2"]
    assert main(["sweep", str(recipe), *grid, "--out", str(out)]) == 1
    parts = json.loads((out / "sweep.json").read_text())["parts"]
    assert (
        "nothing to learn from" in parts["max_constant_steps=1/seed_0"]["failed"]
        and parts["max_constant_steps=9/seed_0"]["steps"] == 2
    )


@pytest.mark.parametrize(
    ("study", "words"),
    [
        ("[study]\narms = {}", "arms"),
        ('[study.arms.".."]\nname = "x"', "arms"),
        ('[study]\nreward = { kind = "countdwn" }\n[study.arms.a]', "countdown"),
        ("[study]\nwindow = 100000\n[study.arms.a]", "study.window is 100000"),
    ],
)
def test_studies_that_cannot_be_are_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], study: str, words: str
) -> None:
    recipe.write_text(recipe.read_text() + "\n" + study + "\n")
    assert main(["sweep", str(recipe), "--out", str(tmp_path / "sweep")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "sweep").exists()
