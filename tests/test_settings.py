import pytest

from longthink.errors import RecipeError
from longthink.recipe import parse_recipe
from longthink.settings import fold


def recipe(*stages, **rollout):
    return parse_recipe(
        {
            "name": "x",
            "model": {"path": "m"},
            "task": {"kind": "countdown"},
            "reward": {"kind": "countdown"},
            "rollout": {"window": 64, "group_size": 8, "temperature": 0.6, **rollout},
            "learner": {"lr": 1e-3},
            "stage": list(stages),
        },
        "x.toml",
    )


STAGED = recipe(
    {"rollout": {"window": 32}, "learner": {"lr": 2e-3}, "max_steps": 9},
    {"rollout": {"window": 128, "group_size": 16}, "max_steps": 9},
    {"rollout": {"window": 256, "temperature": 1.0}, "learner": {"lr": 5e-4}},
)


def begins(stage, after_step):
    return {"step": after_step, "kind": "stage", "rule": "lengthen", "action": {"stage": stage, "from_step": after_step}}


def facts(settings):
    r = settings.rollout
    return settings.stage, settings.begun, r.window, r.group_size, r.temperature, settings.recipe.learner.lr


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], (0, 0, 32, 8, 0.6, 2e-3)),
        ([begins(1, 20)], (1, 20, 128, 16, 0.6, 2e-3)),  # lr is inherited from the first stage
        ([begins(1, 20), begins(2, 50)], (2, 50, 256, 16, 1.0, 5e-4)),  # the group size from the second
        ([begins(2, 7)], (2, 7, 256, 16, 1.0, 5e-4)),  # a stage passed over still leaves its values
        ([begins(1, 20), {"step": 30, "kind": "note", "action": {"why": "nothing"}}], (1, 20, 128, 16, 0.6, 2e-3)),
        ([begins(1, 20), begins(2, 50), begins(0, 60)], (0, 60, 32, 8, 0.6, 2e-3)),  # the last event decides
    ],
)
def test_events_by_hand(events, expected):
    assert facts(fold(STAGED, events)) == expected


def test_without_stages_the_recipe_holds():
    settings = fold(recipe(), [])
    assert facts(settings) == (0, 0, 64, 8, 0.6, 1e-3)
    assert settings.current(recipe()) is None


def test_the_current_stage_is_its_table():
    assert fold(STAGED, []).current(STAGED) is STAGED.stage[0]
    assert fold(STAGED, [begins(1, 20)]).current(STAGED) is STAGED.stage[1]


def test_what_no_stage_can_name_is_the_recipes():
    kept = {"prompts": 5, "max_prompt_tokens": 99, "truncated": "as_graded"}
    staged = recipe({"rollout": {"window": 32}, "max_steps": 9}, {"rollout": {"window": 48}}, **kept)
    for events in ([], [begins(1, 3)]):
        rollout = fold(staged, events).rollout
        assert (rollout.prompts, rollout.max_prompt_tokens, rollout.truncated) == (5, 99, "as_graded")


def test_folding_is_pure():
    before = STAGED.model_dump()
    events = [begins(1, 20), begins(2, 50)]
    assert fold(STAGED, events) == fold(STAGED, iter(events))
    assert STAGED.model_dump() == before
    assert events == [begins(1, 20), begins(2, 50)]


def test_folding_in_two_pieces_is_folding_once():
    # resuming replays the recorded events; what was in force at each step must come back
    events = [begins(1, 20), begins(2, 50)]
    assert [fold(STAGED, events[:n]).stage for n in range(3)] == [0, 1, 2]


def test_a_stage_may_change_any_table():
    made = parse_recipe(
        {
            "name": "x",
            "model": {"path": "m"},
            "domain": [
                {"name": "a", "task": {"kind": "countdown"}, "reward": {"kind": "countdown"}},
                {"name": "b", "weight": 0.0, "task": {"kind": "countdown"}, "reward": {"kind": "countdown"}},
            ],
            "stage": [
                {"max_steps": 5},
                {
                    "rollout": {"truncated": "mask", "group_size": 4},
                    "loss": {"kl": 0.1, "clip_high": 0.4},
                    "selection": {"dynamic": "shrink"},
                    "advantage": {"whiten": True},
                    "reference": {"replace_every": 3},
                    "learner": {"epochs": 2},
                    "validation": {"every": 2},
                    "domain": {"b": {"weight": 3.0}},
                    "shape": [{"kind": "accuracy"}],
                    "reset": "reference",
                },
            ],
        },
        "x",
    )
    before, after = (fold(made, events).recipe for events in ([], [begins(1, 5)]))
    assert (before.loss.kl, before.validation.every, before.domain[1].weight, before.shape) == (0.0, 0, 0.0, ())
    assert (after.rollout.truncated, after.rollout.group_size, after.loss.kl, after.loss.clip_high) == ("mask", 4, 0.1, 0.4)
    assert (after.selection.dynamic, after.advantage.whiten, after.reference.replace_every) == ("shrink", True, 3)
    assert (after.learner.epochs, after.validation.every, after.domain[1].weight) == (2, 2, 3.0)
    assert after.shape == ({"kind": "accuracy"},) and after.stage == ()


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"loss": {"kl_in": "reward"}}, "stage.1: loss.kl_in = 'reward' needs loss.kl"),
        ({"rollout": {"group_size": "4"}}, "stage.1: rollout.group_size: Input should be a valid integer"),
        ({"domain": {"c": {"weight": 1.0}}}, "stage.1: domain: 'c' is no domain"),
        ({"learner": {"checkpoint_layers": True}}, "learner.checkpoint_layers cannot change in a run"),
        ({"reset": "reference"}, "without a KL"),
    ],
)
def test_what_would_be_in_force_is_checked_as_a_recipe(stage, words):
    with pytest.raises(RecipeError, match=words):
        recipe({"max_steps": 2}, stage)


def test_a_stage_may_take_all_parts_away():
    made = parse_recipe(
        {
            "name": "x",
            "model": {"path": "m"},
            "task": {"kind": "countdown"},
            "reward": {"kind": "countdown"},
            "shape": [{"kind": "accuracy"}],
            "stage": [{"max_steps": 3}, {"shape": []}],
        },
        "x",
    )
    assert [len(r.shape) for r in made.staged] == [1, 0]
