"""The recipes of published runs take real steps on a tiny model that solves some problems; sizes shrunk by --set alone."""

import json
from pathlib import Path

import pytest
from support import warm_model

from longthink.recipe import load_recipe, load_study
from longthink.train import train

ROOT = Path(__file__).resolve().parents[1]
COUNTDOWN = '{kind="countdown", count=2, high=6, min_target=2, seed=1}'
SMALL = [
    "model.device=cpu",
    "model.dtype=float32",
    "model.processes=1",
    "model.threads=1",
    "workers=1",
    "engine.cache_gb=1.0",
    "rollout.prompts=8",
    "rollout.group_size=8",
    "rollout.max_prompt_tokens=64",
    "learner.lr=1e-4",
    "learner.warmup_updates=0",
    "learner.minibatch_prompts=4",
    "budget.max_steps=2",
    "validation.every=0",
    "validation.window=training",
]
ONE = [f"task={COUNTDOWN}", 'reward={kind="countdown"}']
PUBLISHED = {
    "deepscaler_1.5b": [*ONE, 'stage=[{rollout={window=24}, max_steps=1}, {rollout={window=32}, reset="hard"}]'],
    "open_rs3_1.5b": [*ONE, "rollout.window=32", "shape.0.max_length=32"],
    "still3_1.5b": [*ONE, "rollout.window=32", "reference.replace_every=1"],
    "siri_1.5b": [*ONE, 'rollout.cycle={shape="cosine", low=24, high=32, period=2}'],
    "nvidia_1.5b": [
        f"domain.{i}.{key}={value}" for i in range(5) for key, value in (("task", COUNTDOWN), ("reward", '{kind="countdown"}'))
    ]
    + ["rollout.window=32", 'stage=[{max_steps=1}, {domain={instructions={weight=100.0}}, reset="hard"}]'],
}


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return warm_model(tmp_path_factory.mktemp("warm"))


def test_every_published_run_is_here() -> None:
    recipes = {p.stem for p in (ROOT / "recipes").glob("*.toml") if "countdown" not in p.stem and not p.stem.endswith("_mini")}
    assert recipes == set(PUBLISHED)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_two_real_steps(name: str, warm: Path, tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.toml", [f"model.path={warm}", *SMALL, *PUBLISHED[name]])
    train(recipe, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][1:]
    assert len(rows) == 2
    assert any(r["group/constant_share"] < 1 and r.get("learner/grad_norm/mean", 0.0) > 0 for r in rows)
    if recipe.stage:
        assert [r["stage"] for r in rows] == [0, 1]


MINIATURES = sorted(p.stem for p in (ROOT / "recipes").glob("*_mini.toml"))


@pytest.mark.parametrize("name", MINIATURES)
def test_every_arm_of_a_miniature_takes_real_steps(name: str, warm: Path, tmp_path: Path) -> None:
    path = ROOT / "recipes" / f"{name}.toml"
    study = load_study(path)
    assert study is not None and study.claim
    for arm in study.arms:
        one = [text for i in (0, 1) for text in (f"domain.{i}.task={COUNTDOWN}", f"domain.{i}.reward.kind=countdown")]
        sets = [
            f"model.path={warm}",
            *SMALL,
            *(one if name == "prolonged_mini" else ONE),
            "validation.every=2",
            "validation.problems=2",
        ]
        recipe = load_recipe(path, sets, arm)
        train(recipe, tmp_path / arm)
        rows = [json.loads(line) for line in (tmp_path / arm / "metrics.jsonl").read_text().splitlines()][1:]
        assert len(rows) == 2
        assert any(r["group/constant_share"] < 1 and r.get("learner/grad_norm/mean", 0.0) > 0 for r in rows), arm
