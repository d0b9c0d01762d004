import copy
import json

import pytest
from pydantic import ValidationError

from longthink.control.base import Trigger
from longthink.control.lengthen import Lengthen
from longthink.errors import RecipeError
from longthink.part import load_part

RULE = Lengthen(validations=5, rising_over=5)
PLATEAU, BETTER, WORSE = [0.40, 0.41, 0.40, 0.41, 0.40], [0.30, 0.36, 0.43, 0.49, 0.55], [0.55, 0.49, 0.43, 0.36, 0.30]
FLAT, RISING, FALLING = [100, 101, 99, 101, 100], [100, 111, 119, 131, 140], [140, 131, 119, 111, 100]
CLIP_FLAT, CLIP_RISING, CLIP_FALLING = (
    [0.042, 0.043, 0.041, 0.043, 0.042],
    [0.042, 0.047, 0.052, 0.058, 0.065],
    [0.065, 0.058, 0.052, 0.047, 0.042],
)


def history(accuracy, lengths=FLAT, clipped=CLIP_FLAT, first=1):
    """Metrics of a stage that validates at every second step, first at step `first` + 1."""
    rows = []
    for i, (a, n, c) in enumerate(zip(accuracy, lengths, clipped, strict=True)):
        # what training itself measured points the other way: it must not matter
        rows.append({"step": first + 2 * i, "length/mean": 900.0 - 100 * i, "length/clip_ratio": 0.9 - 0.1 * i})
        checked = {"validation/accuracy": a, "validation/mean_tokens": float(n), "validation/truncated_share": c}
        rows.append({"step": first + 2 * i + 1, "length/mean": 850.0 - 100 * i, "length/clip_ratio": 0.85 - 0.1 * i} | checked)
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
        (PLATEAU, FLAT, CLIP_FALLING, None),
        # a plateau while responses press against the window is one
        (PLATEAU, RISING, CLIP_FLAT, "length"),
        (PLATEAU, RISING, CLIP_RISING, "length and clip ratio"),
        (PLATEAU, RISING, CLIP_FALLING, "length"),
        (PLATEAU, FLAT, CLIP_RISING, "clip ratio"),
        (PLATEAU, FALLING, CLIP_RISING, "clip ratio"),  # DeepScaleR's second switch
        # getting worse is no progress either
        (WORSE, RISING, CLIP_FLAT, "length"),
        (WORSE, FLAT, CLIP_FLAT, None),
        # no spread at all
        ([0.4] * 5, [100] * 5, [0.1] * 5, None),
        ([0.4] * 5, [100, 101, 102, 103, 104], [0.1] * 5, "length"),
        ([0.4] * 5, [100] * 5, [0.0, 0.25, 0.5, 0.75, 1.0], "clip ratio"),
        # too noisy to call a rise: per validation the slope is 5, its standard error 11
        (PLATEAU, [100, 160, 90, 150, 130], CLIP_FLAT, None),
        # too noisy to deny a plateau: accuracy went up, yet not surely
        ([0.40, 0.44, 0.39, 0.45, 0.42], RISING, CLIP_FLAT, "length"),
    ],
)
def test_fires_or_not(accuracy, lengths, clipped, rising):
    evidence = RULE.fires(history(accuracy, lengths, clipped))
    assert (evidence and evidence["rising"]) == rising


def test_nothing_fires_before_the_stage_has_had_its_validations():
    rows = history(PLATEAU, RISING, CLIP_RISING)
    assert RULE.fires([]) is None
    assert RULE.fires(rows[1:]) is not None
    assert RULE.fires(rows[2:]) is None  # four validations
    assert RULE.fires(rows[:-1]) is None
    assert Lengthen(validations=4).fires(rows[2:]) is not None


def test_only_the_last_validations_count():
    early = history(BETTER, FALLING, CLIP_FALLING)
    late = history(PLATEAU, RISING, CLIP_FLAT, first=len(early) + 1)
    assert RULE.fires(early + late) == RULE.fires(late)
    assert RULE.fires(late + early) is None


def test_the_evidence_holds_the_numbers_the_decision_rests_on():
    evidence = RULE.fires(history([0.4] * 5, [100, 102, 104, 106, 108], [0.1, 0.1, 0.2, 0.1, 0.1]))
    assert evidence["steps"] == [2, 4, 6, 8, 10]
    assert evidence["accuracy"] == [0.4] * 5
    assert evidence["length"] == [100, 102, 104, 106, 108]
    assert evidence["clip_ratio"] == [0.1, 0.1, 0.2, 0.1, 0.1]
    # points on lines have slopes of width 0: two tokens in two steps
    assert evidence["accuracy_slope"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert evidence["length_slope"] == pytest.approx({"mean": 1.0, "low": 1.0, "high": 1.0})
    # deviations 0, 0, 0.08 and four times -0.02: squares sum to 0.008, over 3 and 40, times t(0.975, 3) = 3.1824
    assert evidence["clip_ratio_slope"] == pytest.approx({"mean": 0, "low": -0.02598, "high": 0.02598}, abs=1e-5)
    assert json.loads(json.dumps(evidence, allow_nan=False)) == evidence


def test_a_slope_is_a_change_per_step_not_per_validation():
    # the same validations ten times as far apart: a tenth of the slope
    rows = history([0.4] * 5, [100, 102, 104, 106, 108])
    spread = [row | {"step": 10 * row["step"]} for row in rows]
    assert RULE.fires(spread)["length_slope"]["mean"] == pytest.approx(0.1)


def test_rows_without_a_validation_change_nothing():
    rows = history(PLATEAU, RISING, CLIP_FLAT)
    assert RULE.fires([*rows, {"step": rows[-1]["step"] + 1}]) == RULE.fires(rows)
    assert RULE.fires([r for r in rows if "validation/accuracy" in r]) == RULE.fires(rows)


def test_deciding_is_pure():
    rows = history(PLATEAU, RISING, CLIP_RISING)
    before = copy.deepcopy(rows)
    assert RULE.fires(rows) == RULE.fires(rows) == RULE.fires(tuple(rows))
    assert rows == before


def test_a_recipe_names_it_by_its_file():
    assert load_part(Trigger, {"kind": "lengthen", "validations": 5, "rising_over": 5}) == RULE
    assert load_part(Trigger, {"kind": "lengthen"}) == Lengthen()
    with pytest.raises(RecipeError, match="validations: Input should be greater than or equal to 3, got 2"):
        load_part(Trigger, {"kind": "lengthen", "validations": 2})
    with pytest.raises(ValidationError):
        RULE.validations = 7


def test_a_rise_that_ended_before_the_plateau_still_counts():
    early = history(BETTER, RISING, CLIP_RISING)
    late = history(PLATEAU, [140] * 5, [0.065] * 5, first=len(early) + 1)
    assert RULE.fires(early + late) is None
    assert Lengthen(validations=5, rising_over=10).fires(early + late)["rising"] == "length and clip ratio"
