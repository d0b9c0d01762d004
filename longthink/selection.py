"""Which groups and rollouts are trained on: dynamic sampling's band, truncated responses, STILL-3's QS and RS. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from longthink.tables import SelectionSettings
from longthink.types import Group

__all__ = ["in_band", "leave_out_truncated", "select"]


def in_band(group: Group, settings: SelectionSettings) -> bool:
    """Whether dynamic sampling keeps a group: its values differ by more than the tolerance, and low <= mean accuracy <= high.

    Values are the verifier's scores (`metric` accuracy) of the counted rollouts. With `metric` reward they are the rewards after
    shaping, and the mean does not matter: with a length or format part no group has equal rewards, so this keeps groups that
    teach nothing about the task. The tolerance is for verifiers that give wrong answers small scores.
    Source: DAPO, NVIDIA 3.1.3 (drop 0 and 1); PRIME's band is 0.2 to 0.8.

    >>> from longthink.types import Problem, Verdict
    >>> def of(*scores): return Group(Problem("p", (), 0), (), tuple(Verdict(s, "ok") for s in scores), scores)
    >>> [in_band(of(*scores), SelectionSettings()) for scores in ((0, 0), (0, 1), (1, 1))]
    [False, True, False]
    >>> in_band(of(0, 0, 0, 1), SelectionSettings(low=0.2)), in_band(of(0.01, 0.05, 0.05), SelectionSettings(tolerance=0.1))
    (True, False)
    """
    counted = group.counted or (True,) * len(group.rewards)
    rewards = [r for r, c in zip(group.rewards, counted, strict=True) if c]
    scores = [v.score or 0.0 for v, c in zip(group.verdicts, counted, strict=True) if c]
    if not scores or settings.metric == "reward":
        return bool(rewards) and max(rewards) - min(rewards) > settings.tolerance
    return max(scores) - min(scores) > settings.tolerance and settings.low <= sum(scores) / len(scores) <= settings.high


def leave_out_truncated(group: Group, rule: str) -> Group:
    """The group with `counted` and `trained` set where a response met the window.

    `rule` "exclude" takes it out of mean, std and loss (STILL-3's ORM), "mask" out of the loss alone (DAPO's overlong
    filtering); any other leaves the group as it is.
    """
    if rule not in ("exclude", "mask") or not any(r.truncated for r in group.rollouts):
        return group
    ended = tuple(not r.truncated for r in group.rollouts)
    return replace(group, trained=ended, counted=ended if rule == "exclude" else ())


def select(groups: Sequence[Group], settings: SelectionSettings) -> list[Group]:
    """The groups to train on after QS and RS, if set; a group of which nothing is left to train on is dropped."""
    kept = list(groups)
    if settings.questions == "longer_right":
        kept = [g for g in kept if _right_is_longer(g)]
    if settings.responses == "pair":
        kept = [pair for g in kept if (pair := _pair(g, settings.pair_advantage == "pair")) is not None]
    return [g for g in kept if not g.trained or any(g.trained)]


def _lengths(group: Group) -> tuple[dict[int, int], dict[int, int]]:
    """The lengths of the trained right and wrong rollouts, by their place in the group."""
    right: dict[int, int] = {}
    wrong: dict[int, int] = {}
    for i, (rollout, verdict) in enumerate(zip(group.rollouts, group.verdicts, strict=True)):
        if not group.trained or group.trained[i]:
            (right if (verdict.score or 0.0) >= 1.0 else wrong)[i] = rollout.num_tokens
    return right, wrong


def _right_is_longer(group: Group) -> bool:
    """STILL-3's QS: the mean length of the right responses is above that of the wrong ones; there must be both."""
    right, wrong = _lengths(group)
    return bool(right and wrong) and sum(right.values()) / len(right) > sum(wrong.values()) / len(wrong)


def _pair(group: Group, own_advantage: bool) -> Group | None:
    """STILL-3's RS: the longest right and the shortest wrong response, where the first is the longer one; else None.

    Of equal lengths the first is taken. Mean and std are of the whole group, or of the pair with `own_advantage`.
    """
    right, wrong = _lengths(group)
    if not right or not wrong or max(right.values()) <= min(wrong.values()):
        return None
    chosen = {max(right, key=lambda i: (right[i], -i)), min(wrong, key=lambda i: (wrong[i], i))}
    trained = tuple(i in chosen for i in range(len(group.rollouts)))
    return replace(group, trained=trained, counted=trained if own_advantage else group.counted)
