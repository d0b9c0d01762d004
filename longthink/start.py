"""Where a run begins: in the stage whose window the window analysis recommends."""

from typing import Any

from longthink.errors import TaskError
from longthink.evaluate import Evaluation
from longthink.recipe import Recipe
from longthink.window import Recommendation, WindowCurve, geometric_cutoffs, recommend, window_curve

__all__ = ["SAMPLES", "begin_where", "curve_file", "measured_curve"]

SAMPLES = 4  # of each validation problem, sampled once at the widest window


def begin_where(recipe: Recipe, found: Evaluation) -> tuple[dict[str, Any], dict[str, Any]]:
    """The event that begins a run in the recommended stage, and the curve it is read off, for window_curve.json.

    The stage is the first whose window is no smaller than the recommended one; the last for direct training.
    Source: DeepScaleR 3.3, principle 1 and its converse.
    """
    full, windows = recipe.last_window, [made.rollout.window for made in recipe.staged]
    curve = measured_curve(found, max(1, windows[0] // 4))
    plan = recommend(curve, full)
    stage = next(i for i, window in enumerate(windows) if window >= plan.window)
    evidence = {"recommended": plan.window, "direct": plan.direct, "reason": plan.reason, "stage_windows": windows}
    event = {
        "step": 0,
        "kind": "start",
        "rule": "window",
        "action": {"stage": stage, "from_step": 0},
        "evidence": evidence,
    }
    return event, curve_file(curve, plan)


def measured_curve(found: Evaluation, lowest: int) -> WindowCurve:
    """The curve of an evaluation at the widest window, from `lowest` tokens on. Raises: TaskError without one graded sample."""
    measured = [
        [(found.window + 1 if r.truncated else r.num_tokens, v.score) for r, v in row if v.score is not None]
        for row in found.samples
    ]
    if not any(measured):
        raise TaskError("the window analysis has not one graded sample: every verdict is our own failure; look at the verifier")
    return window_curve([row for row in measured if row], geometric_cutoffs(lowest, found.window))


def curve_file(curve: WindowCurve, plan: Recommendation) -> dict[str, Any]:
    """What window_curve.json holds; the report draws it."""
    return {
        "cutoffs": list(curve.cutoffs),
        "accuracy": [i.mean for i in curve.accuracy],
        "low": [i.low for i in curve.accuracy],
        "high": [i.high for i in curve.accuracy],
        "coverage": list(curve.coverage),
        "truncated": list(curve.truncated),
        "recommended": plan.window,
        "direct": plan.direct,
        "reason": plan.reason,
    }
