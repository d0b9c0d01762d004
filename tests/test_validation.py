"""Blends of sets, choosing among finalists, beginning by the window analysis, twins of decisions: real runs of a tiny model."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from support import scored_group

from longthink import storage
from longthink.cli import main
from longthink.errors import RecipeError
from longthink.evaluate import Evaluation
from longthink.recipe import Recipe, parse_recipe
from longthink.run import Run
from longthink.tables import ValidationSet
from longthink.train import Training, train
from longthink.validation import blend

TASK = {"kind": "countdown", "count": 2, "high": 12, "min_target": 2, "seed": 1}


def recipe(model: Path, **changes: Any) -> Recipe:
    table: dict[str, Any] = {
        "name": "validated",
        "model": {"path": str(model), "dtype": "float32"},
        "cluster": {"learners": 1, "threads": 1},
        "task": TASK,
        "reward": {"kind": "countdown"},
        "workers": 1,
        "rollout": {"prompts": 4, "group_size": 4, "window": 32},
        "loss": {"kl": 0.01},
        "learner": {"lr": 1e-3},
        "validation": {"every": 1, "problems": 6, "samples": 2},
        "budget": {"max_steps": 4},
        "checkpoint": {"every": 50, "keep": 1},
    }
    return parse_recipe(table | changes, "validated")


def evaluation(*scores: float) -> Evaluation:
    groups = [scored_group((score, 10)) for score in scores]
    return Evaluation(tuple((((g.rollouts[0], g.verdicts[0])),) for g in groups), 100)


def test_a_blend_by_hand() -> None:
    """Accuracies 1/2 and 1 with weights 1 and 3; half intervals from four problems and none."""
    easy, hard = evaluation(1, 0, 1, 0), evaluation(1, 1, 1, 1)
    row = blend([(ValidationSet(name="a", weight=1.0), easy), (ValidationSet(name="b", weight=3.0), hard)])
    assert row["validation/accuracy"] == pytest.approx(0.875)
    half = (row["validation/a/high"] - row["validation/a/low"]) / 2
    assert row["validation/b/low"] == row["validation/b/high"] == 1.0
    other = (row["validation/b/high"] - row["validation/b/low"]) / 2
    assert row["validation/high"] == pytest.approx(min(1.0, 0.875 + math.hypot(half, 3 * other) / 4))
    assert row["validation/low"] == pytest.approx(0.875 - math.hypot(half, 3 * other) / 4)


def test_one_set_without_a_name_is_the_run_s_own() -> None:
    row = blend([(ValidationSet(), evaluation(1, 0, 1, 0))])
    assert set(row) == {f"validation/{k}" for k in ("accuracy", "low", "high", "mean_tokens", "truncated_share")}
    assert row["validation/accuracy"] == 0.5


def test_sets_have_windows_and_problems_of_their_own(warm_folder: Path, tmp_path: Path) -> None:
    sets = [
        {"name": "narrow", "window": 20},
        {"name": "other", "weight": 0.0, "problems": 3, "task": TASK | {"high": 30}, "reward": {"kind": "countdown"}},
    ]
    made = recipe(warm_folder, validation={"every": 1, "problems": 4, "samples": 2, "sets": sets}, budget={"max_steps": 1})
    run = train(made, tmp_path / "run")
    row = run.rows[-1]
    assert row["validation/accuracy"] == row["validation/narrow/accuracy"] and row["validation/window"] == 20
    narrow, other = run.rollouts(1, "validation.narrow"), run.rollouts(1, "validation.other")
    assert (len(narrow), len(other)) == (8, 6)
    assert {r["window"] for r in narrow} == {20} and {r["window"] for r in other} == {32}
    assert any(int(n) > 12 for r in other for n in r["prompt"][0]["content"].split(" -> ")[0].split())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"validation": {"every": 1, "sets": [{"name": "a"}, {"name": "a"}]}}, "a different one for each"),
        ({"validation": {"every": 1, "sets": [{"name": "a", "weight": 0.0}]}}, "every weight is 0"),
        ({"validation": {"every": 1, "sets": [{"name": "a", "task": TASK}]}}, "a task without a reward"),
        ({"validation": {"every": 1, "window": 0}}, "validation.window"),
        ({"window": "auto"}, "add \\[\\[stage\\]\\] tables"),
        ({"window": "auto", "stage": [{"rollout": {"window": 9}, "max_steps": 1}, {"rollout": {"window": 9}}]}, "that grow"),
    ],
)
def test_what_cannot_be_is_refused(warm_folder: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        recipe(warm_folder, **changes)


def test_scores_at_different_windows_are_not_compared(warm_folder: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, recipe(warm_folder))
    for step, accuracy, window in ((0, 0.9, 64), (1, 0.5, 32), (2, 0.7, 32), (3, 0.6, 32)):
        run.rows.append({"step": step, "stage": 0, "validation/accuracy": accuracy, "validation/key": window})
    assert [r["step"] for r in run.finest(0, 2)] == [2, 3] and run.best(0) == run.rows[2]


def test_a_stage_begins_from_the_best_of_the_finalists_by_fresh_samples(warm_folder: Path, tmp_path: Path) -> None:
    stages = [{"max_steps": 3}, {"rollout": {"window": 40}}]
    validation = {"every": 1, "problems": 8, "samples": 2, "finalists": 3}
    run = train(
        recipe(warm_folder, stage=stages, validation=validation, learner={"lr": 3e-3}, budget={"max_steps": 5}), tmp_path / "run"
    )
    (event,) = run.events
    found = event["evidence"]["finalists"]
    rows = {r["step"]: r["validation/accuracy"] for r in run.rows if r["step"] <= 3}
    assert [f["step"] for f in found] == [r["step"] for r in sorted(run.rows[:4], key=lambda r: (-rows[r["step"]], -r["step"]))][
        :3
    ]
    assert all(f["chosen_by"] == rows[f["step"]] for f in found)
    best = max(found, key=lambda f: (f["accuracy"], f["step"]))
    assert event["action"]["from_step"] == best["step"] and event["evidence"]["window"] == 40
    assert "selection_bias" not in event["evidence"]  # at another window a lower score is no bias
    last = json.loads((run.folder / "best.json").read_text())
    assert last["window"] == 40 and [f["step"] for f in last["finalists"]] in ([4, 5], [5, 4])
    first = last["finalists"][0]
    assert last["selection_bias"] == pytest.approx(first["chosen_by"] - first["accuracy"])


def test_choosing_leaves_the_weights_as_they_were(warm_folder: Path, tmp_path: Path) -> None:
    with Training(recipe(warm_folder), tmp_path / "run", resume=False, parent=None) as training:
        training.loop()
        before = training.cluster.learner.decoder.state_dict()["model.embed_tokens.weight"].clone()
        rows = training.run.finest(0, 2)
        training.validator.choose([rows[0], training.run.rows[-1]], training.recipe.validation, 32)
        after = training.cluster.learner.decoder.state_dict()["model.embed_tokens.weight"]
        assert bool((before == after).all()) and not (tmp_path / "run" / ".held").exists()


def test_a_run_begins_in_the_stage_that_the_window_analysis_recommends(warm_folder: Path, tmp_path: Path) -> None:
    stages = [{"rollout": {"window": w}, "max_steps": 1} for w in (4, 8, 16, 64)]
    run = train(recipe(warm_folder, window="auto", stage=stages), tmp_path / "run")
    event = run.events[0]
    curve = json.loads((run.folder / "window_curve.json").read_text())
    stage = event["action"]["stage"]
    assert (event["kind"], event["step"]) == ("start", 0) and run.rows[0]["stage"] == stage > 0
    windows = event["evidence"]["stage_windows"]
    assert windows[stage] >= curve["recommended"] > windows[stage - 1]
    assert run.rows[1]["window"] == windows[stage]


def test_a_decision_leaves_a_twin_that_says_whether_it_helped(
    warm_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = {"when": {"kind": "constant_groups", "share": 0.01, "over": 2}, "do": "set", "set": {"learner": {"lr": 1e-9}}}
    made = recipe(
        warm_folder, rule=[rule], checkpoint={"every": 50, "twins": True}, budget={"max_steps": 6}, learner={"lr": 3e-3}
    )
    run = train(made, tmp_path / "run")
    (event,) = run.events
    assert main(["twins", str(run.folder), "--steps", "2"]) == 0
    (found,) = json.loads((run.folder / "twins.json").read_text())
    assert found["step"] == event["step"] == 2 and found["compared_at"] == 4
    said = capsys.readouterr().out
    surely = found["difference"]["low"] > 0 or found["difference"]["high"] < 0
    assert "step 2, constant_groups: " in said and ("not distinguishable" in said) is not surely
    twin = Run.open(run.folder / "twins" / "after_000002_to_000004", None)
    assert twin.recipe.learner.lr == 3e-3 and not twin.recipe.rule and twin.recipe.budget.max_steps == 2
    mine, theirs = run.rollouts(3), twin.rollouts(1)
    assert [r["prompt"] for r in mine] == [r["prompt"] for r in theirs]  # the same problems, in the same order
    assert [r["text"] for r in mine] == [r["text"] for r in theirs]  # and, the weights being the same still, the same rollouts
    rows = storage.read_lines(twin.folder / "metrics.jsonl")
    assert rows[1]["policy/entropy/mean"] == pytest.approx(run.rows[3]["policy/entropy/mean"])
    assert main(["twins", str(run.folder), "--steps", "2"]) == 0  # nothing is trained twice
    assert main(["twins", str(warm_folder.parents[1])]) == 2 and "checkpoint.twins" in capsys.readouterr().err


def test_begin_from_last_is_kept_though_it_is_the_best(warm_folder: Path, tmp_path: Path) -> None:
    stages = [{"max_steps": 2, "begin_from": "last"}, {"rollout": {"window": 40}, "begin_from": "last"}]
    validation = {"every": 2, "problems": 4, "samples": 1, "finalists": 3}
    run = train(recipe(warm_folder, stage=stages, validation=validation, budget={"max_steps": 2}), tmp_path / "run")
    (event,) = run.events
    assert event["action"] == {"stage": 1, "from_step": 2} and "finalists" not in event["evidence"]


def test_a_rollback_goes_back_and_its_step_is_no_candidate_later(warm_folder: Path, tmp_path: Path) -> None:
    rule = {"when": {"kind": "constant_groups", "share": 0.01, "over": 1}, "do": "rollback", "times": 1}
    validation = {"every": 1, "problems": 6, "samples": 2, "finalists": 2}
    made = recipe(warm_folder, rule=[rule], validation=validation, learner={"lr": 3e-3}, budget={"max_steps": 4})
    run = train(made, tmp_path / "run")
    (event,) = run.events
    step = event["step"]
    assert event["action"]["from_step"] < step and event["action"]["chosen"] == "best"
    assert step not in [r["step"] for r in run.finest(0, 9)]
    last = json.loads((run.folder / "best.json").read_text())
    assert step not in [f["step"] for f in last["finalists"]]


def test_a_checkpoint_of_other_windows_is_kept_for_when_they_return(warm_folder: Path, tmp_path: Path) -> None:
    """The window goes down and up again within a stage; then a rollback finds the best of before."""
    with Training(recipe(warm_folder, budget={"max_steps": 8}), tmp_path / "run", resume=False, parent=None) as training:
        finish, asked = training._finish_step, {2: {"do": "set", "set": {"rollout": {"window": 12}}}}
        asked |= {5: {"do": "set", "set": {"rollout": {"window": 32}}}, 6: {"do": "rollback"}}

        def ask_then_finish(step: int, *rest: Any) -> None:
            if step in asked:
                storage.append_lines(tmp_path / "run" / "requests.jsonl", [asked[step]])
            finish(step, *rest)

        training._finish_step = ask_then_finish  # type: ignore[method-assign]
        training.loop()
        run = training.run
    assert [e["step"] for e in run.events] == [2, 5, 6] and run.complete
    rows = {r["step"]: r for r in run.rows}
    origin = run.events[-1]["action"]["from_step"]
    assert origin < 6 and rows[origin]["window"] in (32,) and origin not in (3, 4, 5)


def test_a_twin_again_with_other_steps_and_settings_of_a_later_stage(warm_folder: Path, tmp_path: Path) -> None:
    stages = [{"max_steps": 2, "begin_from": "last"}, {"validation": {"problems": 5}}]
    made = recipe(warm_folder, stage=stages, checkpoint={"every": 50, "twins": True}, budget={"max_steps": 6})
    run = train(made, tmp_path / "run")
    for steps in ("2", "3"):
        assert main(["twins", str(run.folder), "--steps", steps]) == 0
        (found,) = json.loads((run.folder / "twins.json").read_text())
        assert found["compared_at"] == 2 + int(steps) and "difference" in found
