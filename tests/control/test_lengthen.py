import copy
import json

import pytest
from pydantic import ValidationError

from longthink.control.base import Trigger
from longthink.control.lengthen import Lengthen
from longthink.errors import RecipeError
from longthink.part import load_part

RULE = Lengthen(validations=4, steps=5)
FLAT, RISING, FALLING = [100, 101, 99, 101, 100], [100, 111, 119, 131, 140], [140, 131, 119, 111, 100]
CLIP_FLAT, CLIP_RISING, CLIP_FALLING = (
    [0.042, 0.043, 0.041, 0.043, 0.042],
    [0.040, 0.047, 0.052, 0.058, 0.065],
    [0.065, 0.058, 0.052, 0.047, 0.040],
)
PLATEAU, BETTER, WORSE = [0.40, 0.41, 0.40, 0.41], [0.30, 0.36, 0.43, 0.49], [0.49, 0.43, 0.36, 0.30]


def history(accuracy, lengths=FLAT, clipped=CLIP_FLAT, first=1):
    """Validations at every second step, the last at the last step; lengths and clip ratios of the last steps."""
    steps = max(2 * len(accuracy), len(lengths))
    rows = [{"step": first + i, "length/mean": float(lengths[0]), "length/clip_ratio": clipped[0]} for i in range(steps)]
    for row, length, clip in zip(rows[-len(lengths) :], lengths, clipped, strict=True):
        row |= {"length/mean": float(length), "length/clip_ratio": clip}
    for i, value in enumerate(reversed(accuracy)):
        rows[-1 - 2 * i]["validation/accuracy"] = value
    return rows


@pytest.mark.parametrize(
    ("accuracy", "lengths", "clipped", "rising"),
    [
        # accuracy still rises: stay, whatever the lengths do
        (BETTER, FLAT, CLIP_FLAT, None),
        (BETTER, RISING, CLIP_RISING, None),
        # a plateau alone is no reason
        (PLATEAU, FLAT, CLIP_FLAT, None),
        (PLATEAU, FALLING, CLIP_FALLING, None),
        (PLATEAU, FALLING, CLIP_FLAT, None),
        # a plateau while responses press against the window is one
        (PLATEAU, RISING, CLIP_FLAT, "length"),
        (PLATEAU, RISING, CLIP_RISING, "length"),
        (PLATEAU, RISING, CLIP_FALLING, "length"),
        (PLATEAU, FLAT, CLIP_RISING, "clip ratio"),
        (PLATEAU, FALLING, CLIP_RISING, "clip ratio"),  # DeepScaleR's second switch
        # getting worse is no progress either
        (WORSE, RISING, CLIP_FLAT, "length"),
        (WORSE, FLAT, CLIP_FLAT, None),
        # no spread at all
        ([0.4] * 4, [100] * 5, [0.1] * 5, None),
        ([0.4] * 4, [100, 101, 102, 103, 104], [0.1] * 5, "length"),
        ([0.4] * 4, [100] * 5, [0.0, 0.25, 0.5, 0.75, 1.0], "clip ratio"),
        # too noisy to call a rise: 100 160 90 150 130 has slope 5 and an interval far below zero
        (PLATEAU, [100, 160, 90, 150, 130], CLIP_FLAT, None),
    ],
)
def test_fires_or_not(accuracy, lengths, clipped, rising):
    evidence = RULE.fires(history(accuracy, lengths, clipped))
    assert (evidence and evidence["rising"]) == rising


def test_nothing_fires_before_both_spans_are_full():
    rows = history(PLATEAU, RISING, CLIP_RISING)
    assert RULE.fires(rows) is not None
    assert RULE.fires([]) is None
    assert RULE.fires(rows[2:]) is None  # three validations
    assert Lengthen(validations=3, steps=9).fires(rows) is None  # eight steps
    assert Lengthen(validations=3, steps=8).fires(rows) is not None


def test_only_the_last_rows_count():
    early = history(BETTER, FALLING, CLIP_FALLING)
    late = history(PLATEAU, RISING, CLIP_FLAT, first=len(early) + 1)
    assert RULE.fires(early + late) == RULE.fires(late)
    assert RULE.fires(late + early) is None


def test_the_evidence_holds_the_numbers_the_decision_rests_on():
    rows = history([0.4] * 4, [100, 102, 104, 106, 108], [0.1, 0.1, 0.2, 0.1, 0.1])
    evidence = RULE.fires(rows)
    # both spans lie on lines: one validation each second step, two tokens a step
    assert evidence["accuracy_slope"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert evidence["length_slope"] == pytest.approx({"mean": 2.0, "low": 2.0, "high": 2.0})
    assert evidence["clip_ratio_slope"]["mean"] == pytest.approx(0.0)
    assert (evidence["accuracy"], evidence["length"], evidence["clip_ratio"]) == (0.4, 108.0, 0.1)
    assert json.loads(json.dumps(evidence, allow_nan=False)) == evidence


def test_a_slope_is_a_change_per_step_not_per_row():
    # the same eight rows ten steps apart: a tenth of the slope
    rows = history([0.4] * 4, [100, 102, 104, 106, 108])
    spread = [row | {"step": 10 * row["step"]} for row in rows]
    assert RULE.fires(spread)["length_slope"]["mean"] == pytest.approx(0.2)


def test_a_step_without_a_group_has_no_length_and_is_left_out():
    rows = history(PLATEAU, RISING, CLIP_FLAT)
    silent = {"step": rows[-1]["step"] + 1}
    assert RULE.fires([*rows, silent]) == RULE.fires(rows)
    only = [r if i < 4 else {k: v for k, v in r.items() if not k.startswith("length/")} for i, r in enumerate(rows)]
    assert RULE.fires(only) is None  # four lengths are left, five are needed


def test_deciding_is_pure():
    rows = history(PLATEAU, RISING, CLIP_RISING)
    before = copy.deepcopy(rows)
    assert RULE.fires(rows) == RULE.fires(rows) == RULE.fires(tuple(rows))
    assert rows == before


def test_a_recipe_names_it_by_its_file():
    assert load_part(Trigger, {"kind": "lengthen", "validations": 5}) == Lengthen(validations=5, steps=10)
    with pytest.raises(RecipeError, match="validations: Input should be greater than or equal to 3, got 2"):
        load_part(Trigger, {"kind": "lengthen", "validations": 2})
    with pytest.raises(ValidationError):
        RULE.steps = 7
