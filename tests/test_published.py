"""The recipes of published runs take real steps on a tiny model that solves some problems; sizes shrunk by --set alone."""

import json
from pathlib import Path

import pytest

from longthink.recipe import Recipe, load_recipe, load_study
from longthink.train import train

ROOT = Path(__file__).resolve().parents[1]
COUNTDOWN = '{kind="countdown", count=2, high=6, min_target=2, seed=1}'
SMALL = [
    "model.device=cpu",
    "model.dtype=float32",
    "cluster.learners=1",
    "cluster.threads=1",
    "workers=1",
    "engine.cache_gb=1.0",
    "rollout.prompts=8",
    "rollout.group_size=8",
    "rollout.max_prompt_tokens=64",
    "learner.lr=1e-4",
    "learner.warmup_updates=0",
    "learner.minibatch_prompts=4",
    "budget.max_steps=2",
    "validation.every=2",
    "validation.problems=2",
    "validation.samples=1",
    "validation.window=32",
]
ALL = [
    (path.stem, arm) for path in sorted((ROOT / "recipes").glob("*.toml")) if (study := load_study(path)) for arm in study.arms
]
FIRST = {name: arm for name, arm in reversed(ALL)}  # the others only with everything
CASES = [pytest.param(name, arm, marks=() if FIRST[name] == arm else pytest.mark.full) for name, arm in ALL]


def shrunk(recipe: Recipe, model: Path) -> list[str]:
    """The overrides that make a recipe's sizes small: another model and task, narrow windows, one step a stage."""
    taught = recipe.engine.kind == "teacher"
    sets = [f"model.path={model}", *(text for text in SMALL if not (taught and text.startswith("rollout.group_size")))]
    sets += ["tool.run=false"] if recipe.tool else []  # it has no such tokens
    sets += ["budget.max_epochs=0", "learner.total_updates=9"] if taught else []
    parts = (("task", COUNTDOWN), ("reward", '{kind="countdown"}'))
    where = [f"domain.{i}." for i in range(len(recipe.domain))] or [""]
    sets += [f"{at}{key}={value}" for at in where for key, value in parts]
    if recipe.rollout.cycle:
        sets.append(f'rollout.cycle={{shape="{recipe.rollout.cycle.shape}", low=24, high=32, period=2}}')
    elif recipe.rollout.signal:
        sets.append(f'rollout.signal={{low=24, high=32, aim="{recipe.rollout.signal.aim}"}}')
    else:
        sets.append("rollout.window=32")
    sets += [f"shape.{i}.max_length=32" for i, part in enumerate(recipe.shape) if "max_length" in part]
    sets += [
        f"shape.{i}.style=answer" for i, part in enumerate(recipe.shape) if part.get("style") == "still"
    ]  # it has no such tags
    for i, stage in enumerate(recipe.stage):
        sets.append(f"stage.{i}.max_steps=1")
        sets += [f"stage.{i}.rollout.window={24 + 4 * min(i, 2)}"] if "window" in stage.rollout else []
        sets += [f"stage.{i}.rollout.group_size=8"] if "group_size" in stage.rollout else []
        sets += [f"stage.{i}.validation.window=32"] if "window" in stage.validation else []
    return sets


def test_every_recipe_but_those_of_the_quickstart_has_arms() -> None:
    names = {p.stem for p in (ROOT / "recipes").glob("*.toml")} - {name for name, _ in ALL}
    assert names == {"countdown_grpo_cpu", "countdown_sft_cpu", "still3_1.5b"}


@pytest.mark.parametrize(("name", "arm"), [*CASES, ("still3_1.5b", "")])
def test_two_real_steps(name: str, arm: str, warm_folder: Path, tmp_path: Path) -> None:
    path = ROOT / "recipes" / f"{name}.toml"
    recipe = load_recipe(path, shrunk(load_recipe(path, arm=arm), warm_folder), arm)
    train(recipe, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][1:]
    assert len(rows) == 2
    taught = recipe.engine.kind == "teacher"
    assert any((taught or r["group/constant_share"] < 1) and r.get("learner/grad_norm/mean", 0.0) > 0 for r in rows)
    if len(recipe.stage) > 1:
        assert [r["stage"] for r in rows] == [0, 1]
