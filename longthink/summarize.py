"""A step's groups as metrics: rewards, lengths, verdicts."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol, get_args

import numpy as np

from longthink.collect import Scored
from longthink.types import Group, Rollout, Status

__all__ = ["staleness", "summarize"]


class Counted(Protocol):
    """Who counts lengths on both sides of the way from samplers to training."""

    sampled: Counter[int]
    collected: Counter[int]


OF_VERDICTS = (
    *("reward/", "verdict/", "group/constant_share", "group/all_right_share", "group/all_wrong_share"),
    *("group/cap_teaches_share", "length/right_mean", "length/wrong_mean"),
)


def summarize(
    scored: Sequence[Scored], groups: Sequence[Group], generated_before: int, cap: int = 0, *, graded: bool = True
) -> dict[str, Any]:
    """The metrics of what was sampled (docs/metrics.md): tokens, lengths and verdicts of all, rewards of the groups."""
    lengths = np.array([r.num_tokens for r, _ in scored], np.float64)
    right = np.array([(v.score or 0.0) >= 1.0 for _, v in scored])
    statuses = Counter(v.status for _, v in scored)
    lenient = [float(v.detail.get("lenient") or v.score or 0.0) for _, v in scored]
    row: dict[str, Any] = {
        "tokens/generated": generated_before + int(lengths.sum()),
        "tokens/step": int(lengths.sum()),
        "group/count": len(groups),
        "length/mean": float(lengths.mean()),
        "length/min": float(lengths.min()),
        "length/max": float(lengths.max()),
        "length/clip_ratio": float(np.mean([r.truncated for r, _ in scored])),
        "length/looping_share": float(np.mean([looping(r) for r, _ in scored])),
        "reward/lenient_mean": float(np.mean(lenient)),
    }
    for name, values in parts(groups).items():
        row[f"reward/part/{name}/mean"] = float(np.mean(values))
    for domain in sorted({g.problem.domain for g in groups} - {""}):
        inside = [g for g in groups if g.problem.domain == domain]
        row[f"domain/{domain}/groups"] = len(inside)
        row[f"domain/{domain}/accuracy"] = float(np.mean([v.score or 0.0 for g in inside for v in g.verdicts]))
    if right.any():
        row["length/right_mean"] = float(lengths[right].mean())
    if not right.all():
        row["length/wrong_mean"] = float(lengths[~right].mean())
    if groups:
        spreads = [np.std(g.rewards, ddof=1) if len(g.rewards) > 1 else 0.0 for g in groups]
        row |= {
            "reward/mean": float(np.mean([r for g in groups for r in g.rewards])),
            "reward/group_std/mean": float(np.mean(np.array(spreads))),
            "group/constant_share": float(np.mean([g.constant for g in groups])),
            "group/all_right_share": float(np.mean([min(scores(g)) >= 1.0 for g in groups])),
            "group/all_wrong_share": float(np.mean([max(scores(g)) <= 0.0 for g in groups])),
            "group/cap_teaches_share": float(np.mean([cap_teaches(g, cap) for g in groups])),
        }
    row |= tool_use(scored)
    row["verdict/unscored_share"] = float(np.mean([v.score is None for _, v in scored]))
    row |= {f"verdict/{status}_share": statuses[status] / len(scored) for status in get_args(Status)}
    return row if graded else {key: value for key, value in row.items() if not key.startswith(OF_VERDICTS)}


def tool_use(scored: Sequence[Scored]) -> dict[str, float]:
    """How the tool was used, and how often an answer was right with and without it; nothing where nobody called it."""
    calls = [call for r, _ in scored for call in r.calls]
    if not calls:
        return {}
    with_, without = ([v.score or 0.0 for r, v in scored if bool(r.calls) is used] for used in (True, False))
    said = sum(len(s.token_ids) for r, _ in scored for s in r.segments if s.source == "tool")
    row = {
        "tool/calls/mean": len(calls) / len(scored),
        "tool/used_share": len(with_) / len(scored),
        "tool/error_share": sum(call.status != "ok" for call in calls) / len(calls),
        "tool/timeout_share": sum(call.status == "timeout" for call in calls) / len(calls),
        "tool/tokens_share": said / max(sum(r.num_tokens for r, _ in scored), 1),
        "time/tool_s": sum(call.seconds for call in calls) / len(calls),
        "tool/accuracy_with": sum(with_) / len(with_),
    }
    return row | ({"tool/accuracy_without": sum(without) / len(without)} if without else {})


def staleness(scored: Sequence[Scored], version: int, counts: Counted) -> dict[str, float]:
    """How old the tokens of a step are that trains the policy of this version, and whether lengths were lost on the way.

    `counts` has rollouts by their length, as they ended and as training got them: the largest difference between the two
    cumulative distributions (Kolmogorov-Smirnov) is 0 where nothing was left out, and grows where long rollouts are.
    """
    sampled, collected = counts.sampled, counts.collected
    ages = [(version - s.policy_version, len(s.token_ids)) for r, _ in scored for s in r.segments if s.source == "policy"]
    mixed = [{s.policy_version for s in r.segments if s.source == "policy"} for r, _ in scored]
    tokens = max(sum(count for _, count in ages), 1)
    gap, shares = 0.0, [0.0, 0.0]
    for length in sorted(sampled.keys() | collected.keys()):
        for i, counted in enumerate((sampled, collected)):
            shares[i] += counted[length] / max(counted.total(), 1)
        gap = max(gap, abs(shares[0] - shares[1]))
    return {
        "async/staleness/mean": sum(age * count for age, count in ages) / tokens,
        "async/staleness/max": max((age for age, _ in ages), default=0),
        "async/mixed_share": sum(len(versions) > 1 for versions in mixed) / max(len(scored), 1),
        "async/length_gap": gap,
    }


def scores(group: Group) -> list[float]:
    """The verifier's scores; 0 where it has none."""
    return [v.score or 0.0 for v in group.verdicts]


def parts(groups: Sequence[Group]) -> dict[str, list[float]]:
    """The values of each part of the reward, over the groups' rollouts."""
    found: dict[str, list[float]] = {}
    for group in groups:
        for verdict in group.verdicts:
            for name, value in verdict.detail.get("parts", {}).items():
                found.setdefault(name, []).append(float(value or 0.0))
    return found


def looping(rollout: Rollout) -> bool:
    """Whether a response met the window repeating itself: fewer than half of the 4-grams of its last 256 tokens are distinct."""
    if not rollout.truncated:
        return False
    tail = rollout.response_ids[-256:].tolist()
    grams = list(zip(*(tail[i:] for i in range(4)), strict=False))
    return len(grams) >= 16 and len(set(grams)) < len(grams) / 2


def cap_teaches(group: Group, cap: int) -> bool:
    """Whether a group has a right answer below the cap and a response above it: there capping can teach (SIRI 4.2).

    The cap is the window, or `cap` tokens where the verifier sees no more than those.
    """
    above = [r.truncated or 0 < cap < r.num_tokens for r in group.rollouts]
    return any(above) and any(s >= 1.0 and not a for s, a in zip(scores(group), above, strict=True))
