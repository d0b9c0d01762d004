"""A decision in words, for the terminal, the report and the results of a study."""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longthink.recipe import Recipe

__all__ = ["action_in_words", "evidence_in_words", "words"]

Evidence = dict[str, Any]


def action_in_words(action: Mapping[str, Any], before: "Recipe | None" = None) -> str:
    """What an event does; with what was in force before, the old values too.

    >>> action_in_words({"do": "rollback", "from_step": 4, "rule": 0, "set": {"learner": {"lr": 1e-4}}})
    'rollback to step 4; learner.lr = 0.0001'
    """
    what = f"stage {action['stage']}" if "stage" in action else str(action.get("do", "nothing"))
    way = "to" if what == "rollback" else "from"
    back = f" {way} step {action['from_step']}" if "from_step" in action else ""
    sets = [(t, k if isinstance(k, Mapping) else {"": k}) for t, k in action.get("set", {}).items()]
    changed = [f"{table}.{key} = {_change(before, table, key, value)}" for table, keys in sets for key, value in keys.items()]
    if what == "set":
        return ", ".join(changed).replace(". =", " =") or "nothing, see events.jsonl"
    what = "hard reset of reference and optimizer" if what == "reset" else what
    return what + back + (f"; {', '.join(changed)}" if changed else "").replace(". =", " =")


def _change(before: "Recipe | None", table: str, key: str, value: Any) -> str:
    old = getattr(getattr(before, table, None), key, None) if key else None
    return f"{words(value)} (was {words(old)})" if old is not None else words(value)


def evidence_in_words(evidence: Mapping[str, Any]) -> str:
    """Why an event happened; numbers that no clause knows are named as they are.

    >>> evidence_in_words({"held_steps": 3, "kl": 0.5, "median_before": 0.05})
    'after each of 3 steps in a row: KL 0.5, 10 times the median before it (0.05)'
    >>> evidence_in_words({"drop.0": {"best": 0.5, "best_step": 8, "accuracy": [0.4, 0.375], "error": [0.02, 0.02]}, "x": 1})
    'accuracy 40.0 %, 37.5 %, up to 6.2 standard errors (2.0 points) below the best of 50.0 % at step 8; x 1'
    """
    left = dict(evidence)
    inner = [evidence_in_words(left.pop(key)) for key in list(left) if re.fullmatch(r"[a-z_]+\.\d+", key)]
    chosen = [_finalists(left)] if "finalists" in left else []
    held = f"after each of {left.pop('held_steps')} steps in a row: " if "held_steps" in left else ""
    clauses = [clause(left) for needs, clause in CLAUSES if all(key in left for key in needs)]
    return held + "; ".join([*clauses, *inner, *chosen, *([words(left)] if left else [])])


def _lengthen(e: Evidence) -> str:
    first, *_, last = e.pop("steps")
    e.pop("accuracy"), e.pop("length"), e.pop("clip_ratio")
    rising = e.pop("rising")
    slopes = {"length": _slope(e.pop("length_slope"), "tokens"), "clip ratio": _slope(e.pop("clip_ratio_slope"), "points")}
    still = _still(e)
    risen = " and ".join(f"{name} rose by {slopes[name]}" for name in rising.split(" and "))
    return f"{still} while {risen}, in the validations of steps {first} to {last}"


def _plateau(e: Evidence) -> str:
    steps = e.pop("steps")
    return f"{_still(e)} from step {steps[0]} to {steps[-1]}"


def _still(e: Evidence) -> str:
    reward = f" and so did the reward ({_slope(e.pop('reward_slope'), 'points')})" if "reward_slope" in e else ""
    return f"accuracy stood still ({_slope(e.pop('accuracy_slope'), 'points')}){reward}"


def _drop(e: Evidence) -> str:
    now, errors, best = e.pop("accuracy"), e.pop("error"), e.pop("best")
    gap = max((best - accuracy) / error if error else 0.0 for accuracy, error in zip(now, errors, strict=True))
    below = f"up to {gap:.1f} standard errors ({100 * max(errors):.1f} points) below the best"
    return f"accuracy {', '.join(map(_share, now))}, {below} of {_share(best)} at step {e.pop('best_step')}"


def _spike(e: Evidence) -> str:
    kl, before = e.pop("kl"), e.pop("median_before")
    return f"KL {kl:.3g}, {kl / before:.3g} times the median before it ({before:.3g})" if before else f"KL {kl:.3g} after 0"


def _entropy(e: Evidence) -> str:
    now, first = e.pop("entropy"), e.pop("at_first")
    return f"entropy {now:.3g} nats, {100 * now / first:.0f} % of the {first:.3g} it began with"


def _finalists(e: Evidence) -> str:
    found, window = e.pop("finalists"), e.pop("window")
    luck = f"; the best first score was {100 * e.pop('selection_bias'):+.1f} points off" if "selection_bias" in e else ""
    best = max(found, key=lambda f: (f["accuracy"], f["step"]))
    order = [best, *(f for f in found if f is not best)]
    each = ", ".join(f"step {f['step']}: {_share(f['accuracy'])} (at first {_share(f['chosen_by'])})" for f in order)
    return f"kept {each}, scored again at window {window}{luck}"


def _start(e: Evidence) -> str:
    how = "directly at the full window" if e.pop("direct") else f"at {e.pop('recommended')} tokens"
    e.pop("recommended", None), e.pop("stage_windows")
    return f"begin {how}: {e.pop('reason')}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _slope(slope: Mapping[str, float], unit: str) -> str:
    factor = 100 if unit == "points" else 1
    mean, low, high = (f"{factor * slope[key]:+.2g}" for key in ("mean", "low", "high"))
    return f"{mean} {unit} a step, {low} to {high}"


def _apart(e: Evidence) -> str:
    return f"sampler and learner {e.pop('logprob_gap'):.3g} nats apart, in the mean of {_steps(e.pop('steps'))}"


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count != 1)}"


def _over(key: str, text: str) -> tuple[tuple[str, ...], Callable[[Evidence], str]]:
    return (key, "steps"), lambda e: text.format(_share(e.pop(key)), _steps(e.pop("steps")))


CLAUSES: tuple[tuple[tuple[str, ...], Callable[[Evidence], str]], ...] = (
    (("stage_windows",), _start),
    (("accuracy_slope", "rising"), _lengthen),
    (("accuracy_slope", "steps"), _plateau),
    (("length_slope",), lambda e: f"length rose by {_slope(e.pop('length_slope'), 'tokens')}"),
    (("clip_ratio_slope",), lambda e: f"clip ratio rose by {_slope(e.pop('clip_ratio_slope'), 'points')}"),
    (("training_length_slope",), lambda e: f"length rose by {_slope(e.pop('training_length_slope'), 'tokens')}"),
    (("training_clip_ratio_slope",), lambda e: f"clip ratio rose by {_slope(e.pop('training_clip_ratio_slope'), 'points')}"),
    (("best", "accuracy"), _drop),
    (("kl", "median_before"), _spike),
    (("entropy", "at_first"), _entropy),
    _over("constant_share", "{} of groups had one reward, in the mean of {}"),
    _over("unscored_share", "{} of rollouts had no score, in the mean of {}"),
    _over("looping_share", "{} of rollouts repeated themselves to the window, in the mean of {}"),
    _over("language", "{} in the language asked for, in the mean of {}"),
    (("logprob_gap", "steps"), _apart),
    (("skipped_updates",), lambda e: f"{e.pop('skipped_updates')} updates were not finite"),
    (("refused",), lambda e: f"not done: {e.pop('refused')}"),
    (("asked",), lambda e: f"asked by hand: {action_in_words(e.pop('asked'))}"),
    (("steps",), lambda e: f"its {words(e.pop('steps'))} steps were over"),
)


def words(value: Any) -> str:
    """A value of an event as a reader would say it.

    >>> words({"reward_slope": {"mean": 0.00012346, "low": -1e-3, "high": 2e-3}, "window": 128, "plateau": True})
    'reward slope 0.0001235 (-0.001 to 0.002), window 128, plateau yes'
    """
    match value:
        case None | bool():
            return {None: "none", True: "yes", False: "no"}[value]
        case float():
            return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        case int():
            return f"{value:,}"
        case {"mean": mean, "low": low, "high": high}:
            return f"{words(mean)} ({words(low)} to {words(high)})"
        case dict():
            return ", ".join(f"{re.sub('[_/]+', ' ', str(key))} {words(v)}" for key, v in value.items())
        case [first, second, _, _, _, _, *_, last]:
            return f"{words([first, second])}, … {words(last)} ({len(value)} values)"
        case list():
            return ", ".join(map(words, value))
    return str(value)
