"""Rules and requests by hand: what they decide, that a paused run goes on, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from longthink.cli import main
from longthink.errors import LearnerError, RecipeError
from longthink.folder import tiny_folder
from longthink.recipe import parse_recipe
from longthink.run import Run
from longthink.settings import fold
from longthink.stages import Triggers, decision
from longthink.tasks.countdown import WORDS
from longthink.train import train

TEMPLATE = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}<think>"
ALWAYS = {"kind": "constant_groups", "share": 0.5, "over": 1}


def recipe(model: str = "m", **changes: Any) -> Any:
    base = {
        "name": "rules",
        "model": {"path": model, "dtype": "float32"},
        "cluster": {"learners": 1, "threads": 1},
        "task": {"kind": "countdown"},
        "reward": {"kind": "countdown"},
        "workers": 1,
        "rollout": {"prompts": 2, "group_size": 2, "window": 8},
        "learner": {"lr": 1e-3},
        "budget": {"max_steps": 4},
    }
    return parse_recipe(base | changes, "rules")


class Past(Run):
    """A run in memory: rows of constant groups, and events."""

    def __init__(self, made: Any, steps: int, events: list[dict[str, Any]], asked: list[dict[str, Any]]) -> None:
        self.recipe, self.step, self.events, self.recorded, self.asked = made, steps, events, {}, asked
        stage = fold(made, events).stage
        self.rows = [{"step": s, "stage": stage, "group/constant_share": 1.0} for s in range(steps + 1)]

    def request(self) -> dict[str, Any] | None:
        done = sum(e["kind"] == "hand" for e in self.events)
        return self.asked[done] if len(self.asked) > done else None


def decided(made: Any, steps: int, events: tuple[dict[str, Any], ...] = (), asked: tuple[dict[str, Any], ...] = ()) -> Any:
    run = Past(made, steps, list(events), list(asked))
    return decision(made, fold(made, run.events, run.rows), run, Triggers(made), lambda made: None)


def acted(step: int, rule: int = 0, **action: Any) -> dict[str, Any]:
    return {"step": step, "kind": "rule", "rule": "x", "action": {"do": "set", "rule": rule, "set": {}, **action}, "evidence": {}}


def test_a_rule_acts_with_its_evidence_and_numbers_worked_out() -> None:
    made = recipe(rule=[{"when": ALWAYS, "do": "set", "scale": {"learner": {"lr": 0.5}}, "set": {"loss": {"kl": 0.1}}}])
    event = decided(made, 3)
    assert event == {
        "step": 3,
        "kind": "rule",
        "rule": "constant_groups",
        "action": {"do": "set", "rule": 0, "set": {"loss": {"kl": 0.1}, "learner": {"lr": 0.0005}}},
        "evidence": {"constant_share": 1.0, "steps": 1},
    }
    after = fold(made, [event]).recipe
    assert (after.learner.lr, after.loss.kl) == (0.0005, 0.1)


def test_times_and_cooldown() -> None:
    made = recipe(rule=[{"when": ALWAYS, "do": "set", "set": {"loss": {"entropy": 0.1}}, "times": 2, "cooldown": 3}])
    assert decided(made, 5, (acted(2),)) is None  # three steps after 2 are 3, 4 and 5
    assert decided(made, 6, (acted(2),))["action"]["do"] == "set"
    assert decided(made, 20, (acted(2), acted(6))) is None


def test_scaling_twice_scales_what_is_in_force() -> None:
    made = recipe(rule=[{"when": ALWAYS, "do": "set", "scale": {"learner": {"lr": 0.5}}, "times": 2}])
    first = decided(made, 3)
    second = decided(made, 4, (first,))
    assert second["action"]["set"] == {"learner": {"lr": 0.00025}}


def test_the_first_rule_that_fires_acts_and_triggers_see_only_what_came_after() -> None:
    long = {"kind": "constant_groups", "share": 0.5, "over": 4}
    made = recipe(rule=[{"when": long, "do": "reset"}, {"when": ALWAYS, "do": "stop"}])
    assert decided(made, 4)["action"]["do"] == "reset"
    assert decided(made, 6, (acted(3, rule=5, do="reset"),))["action"]["do"] == "stop"  # three rows since 3


def test_rollback_names_the_best_checkpoint() -> None:
    made = recipe(rule=[{"when": ALWAYS, "do": "rollback"}], validation={"every": 1})
    run = Past(made, 4, [], [])
    for row, accuracy in zip(run.rows, (0.1, 0.5, 0.3, 0.2, 0.1), strict=True):
        row["validation/accuracy"] = accuracy
    event = decision(made, fold(made, [], run.rows), run, Triggers(made), lambda made: None)
    assert event is not None and event["action"]["from_step"] == 1


def test_what_is_asked_by_hand_comes_first_and_once() -> None:
    made = recipe(rule=[{"when": ALWAYS, "do": "stop"}], stage=[{"max_steps": 9}, {"rollout": {"window": 16}}])
    asked = ({"do": "next"}, {"do": "set", "set": {"loss": {"kl": 0.2}}}, {"do": "next"})
    first = decided(made, 2, (), asked)
    assert (first["kind"], first["action"]) == ("hand", {"stage": 1, "from_step": 2})
    second = decided(made, 3, (first,), asked)
    assert second["action"] == {"do": "set", "set": {"loss": {"kl": 0.2}}}
    third = decided(made, 4, (first, second), asked)
    assert third["evidence"]["refused"] == "there is no next stage" and third["action"] == {"do": "set"}
    assert decided(made, 5, (first, second, third), asked)["action"]["do"] == "stop"


def test_what_would_not_go_with_a_later_stage_is_refused_and_changes_nothing() -> None:
    made = recipe(loss={"kl": 0.1}, stage=[{"max_steps": 9}, {"loss": {"kl_in": "reward"}}])
    event = decided(made, 2, (), ({"do": "set", "set": {"loss": {"kl": 0.0}}},))
    assert event["action"] == {"do": "set"} and "stage 1" in event["evidence"]["refused"]
    assert fold(made, [event]).recipe.loss.kl == 0.1


def test_scaling_past_what_is_allowed_is_refused() -> None:
    made = recipe(rule=[{"when": ALWAYS, "do": "set", "scale": {"loss": {"clip_low": 2.0}}, "times": 9}])
    events: list[dict[str, Any]] = []
    for step in range(3, 7):
        events.append(decided(made, step, tuple(events)))
    assert [e["action"].get("set") for e in events] == [{"loss": {"clip_low": c}} for c in (0.4, 0.8)] + [None, None]
    assert "less than 1" in events[-1]["evidence"]["refused"]


def test_scaling_a_window_that_has_become_a_cycles_is_refused() -> None:
    made = recipe(
        rule=[{"when": ALWAYS, "do": "rollback", "scale": {"rollout": {"window": 2.0}}}], validation={"every": 1, "window": 8}
    )
    cycle = {"shape": "stair", "low": 4, "high": 8, "period": 2}
    event = decided(made, 3, (acted(2, rule=7, set={"rollout": {"cycle": cycle}}),))
    assert event["action"] == {"do": "set", "rule": 0} and "a cycle is in force" in event["evidence"]["refused"]


def test_going_on_may_change_keys_too() -> None:
    stages = [{"max_steps": 9}, {"learner": {"lr": 0.5}}]
    made = recipe(rule=[{"when": ALWAYS, "do": "next", "scale": {"learner": {"lr": 0.5}}}], stage=stages)
    event = decided(made, 2)
    assert event["action"] == {"stage": 1, "from_step": 2, "rule": 0, "set": {"learner": {"lr": 0.25}}}
    assert fold(made, [event]).recipe.learner.lr == 0.25


def test_a_pause_forgets_nothing() -> None:
    long = {"kind": "constant_groups", "share": 0.5, "over": 4}
    made = recipe(rule=[{"when": long, "do": "reset"}])
    paused = {"step": 3, "kind": "hand", "rule": "by hand", "action": {"do": "pause"}, "evidence": {}}
    assert decided(made, 4, (paused,))["action"]["do"] == "reset"
    assert decided(made, 4, (acted(3, rule=7, set={"loss": {"entropy": 0.1}}),)) is None


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"do": "next"}, "there is none"),
        ({"do": "rollback"}, "set validation.every above 0"),
        ({"do": "set"}, "sets nothing"),
        ({"do": "set", "set": {"loss": {"kll": 0.1}}}, "rule.0: unknown key loss.kll; did you mean kl"),
        ({"do": "set", "scale": {"learner": {"schedule": 2.0}}}, "scale.learner.schedule is no number"),
        ({"do": "reset", "set": {"loss": {"kl_in": "reward"}}}, "needs loss.kl above 0"),
        ({"do": "set", "set": {"budget": {"max_steps": 1}}}, "budget cannot change in a run"),
        ({"do": "set", "set": {"foo": {"a": 1}}}, "foo cannot change in a run"),
        ({"do": "set", "set": {"rollout": {"max_prompt_tokens": 1}}}, "rollout.max_prompt_tokens cannot change"),
    ],
)
def test_rules_that_cannot_be_are_refused(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        recipe(rule=[{"when": ALWAYS, **rule}])


# -- budgets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "minutes", "complete"),
    [
        ({"max_hours": 1.0}, [20, 20], False),  # a third of 20 fits
        ({"max_hours": 1.0}, [20, 20, 20], True),
        ({"max_hours": 1.0}, [10, 30], True),  # a second of 30 would not fit
        ({"max_gpu_hours": 4.0}, [20, 20], False),  # four processes: 4 hours with the next
        ({"max_gpu_hours": 3.9}, [20, 20], True),
        ({"max_cost": 8.0, "price": 2.0}, [20, 20], False),
        ({"max_cost": 7.9, "price": 2.0}, [20, 20], True),
        ({}, [600] * 3, False),
    ],
)
def test_a_run_ends_before_the_step_that_would_go_beyond(budget: dict[str, float], minutes: list[int], complete: bool) -> None:
    made = recipe(budget={"max_steps": 100, **budget})
    made = made.model_copy(update={"cluster": made.cluster.model_copy(update={"learners": 4})})
    run = Past(made, len(minutes), [], [])
    for row, spent in zip(run.rows[1:], minutes, strict=True):
        row["time/step_s"] = 60.0 * spent
        row["tokens/generated"] = 0
    assert run.complete is complete


def test_money_needs_a_price() -> None:
    with pytest.raises(RecipeError, match=r"needs budget\.price"):
        recipe(budget={"max_cost": 5.0})


# -- with a real run -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_folder(folder, WORDS, seed=0, template=TEMPLATE, hidden_size=16, num_hidden_layers=1, intermediate_size=32)
    return str(folder)


def events_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def test_a_kl_and_a_shape_may_come_by_hand(model: str, tmp_path: Path) -> None:
    """Neither was in the recipe: the reference is the policy of that day, and the parts are graded from then on."""
    run = tmp_path / "run"
    train(recipe(model, rule=[{"when": ALWAYS, "do": "pause"}]), run)
    assert main(["set", str(run), "loss.kl=0.1", "shape=[{kind='accuracy'}, {kind='length'}]"]) == 0
    assert main(["train", "--out", str(run), "--resume"]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert ["reward/part/length/mean" in r for r in rows] == [False, False, False, True, True]
    assert rows[3]["loss/kl/mean"] < 1e-6 and "loss/kl/mean" not in rows[2]


def test_silence_ends_a_run_only_where_no_rule_acts(model: str, tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match="no group had two different rewards"):
        train(recipe(model, max_constant_steps=2), tmp_path / "silent")
    acting = {
        "when": {"kind": "constant_groups", "share": 0.5, "over": 2},
        "do": "set",
        "set": {"loss": {"entropy": 0.1}},
        "times": 9,
    }
    assert train(recipe(model, max_constant_steps=2, rule=[acting]), tmp_path / "acting").complete


def test_a_paused_run_takes_requests_and_goes_on(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    done = train(recipe(model, rule=[{"when": ALWAYS, "do": "pause"}]), run)
    assert (done.step, done.complete) == (1, False) and events_of(run)[0]["action"]["do"] == "pause"
    assert "step 1: pause, because 100.0 % of groups had one reward" in capsys.readouterr().out
    assert main(["set", str(run), "learner.lr=0.5", "rollout.window=12"]) == 0
    assert main(["stage", str(run), "stop"]) == 0
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert "done" in capsys.readouterr().out
    assert [e["kind"] for e in events_of(run)] == ["rule", "hand", "hand"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["window"] for r in rows] == [8, 8, 8, 12]  # asked for after step 1, taken after step 2, stopped after step 3


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("set", "learner.lrr=1.0"), "did you mean lr"),
        (("set", "model.path=x"), "model cannot change in a run"),
        (("set", "learner=3"), "expected a table of keys"),
        (("set", "rollout.window=100000"), "1024 positions"),
        (("set", "shape=[{kind='nope'}]"), "kind is 'nope'"),
        (("stage", "rollback"), "no best checkpoint"),
        (("set", "loss.kl_in=reward"), "needs loss.kl above 0"),
        (("stage", "next"), "there is no next one"),
    ],
)
def test_requests_that_cannot_be_are_refused_at_once(
    model: str, tmp_path: Path, command: tuple[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(recipe(model, budget={"max_steps": 1}), run)
    assert main([command[0], str(run), command[1]]) == 2
    assert words in capsys.readouterr().err and not (run / "requests.jsonl").exists()
