"""A step's groups as metrics: rewards, lengths, verdicts."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from longthink.types import Group, Status

__all__ = ["summarize"]


def summarize(groups: Sequence[Group], generated_before: int) -> dict[str, Any]:
    """The metrics of what was sampled (docs/metrics.md); no groups give the token count alone."""
    rollouts = [r for g in groups for r in g.rollouts]
    tokens = sum(r.num_tokens for r in rollouts)
    row: dict[str, Any] = {"tokens/generated": generated_before + tokens, "tokens/step": tokens, "group/count": len(groups)}
    if not rollouts:
        return row
    rewards = np.array([r for g in groups for r in g.rewards])
    lengths = np.array([r.num_tokens for r in rollouts], np.float64)
    right = np.array([(v.score or 0.0) >= 1.0 for g in groups for v in g.verdicts])
    constant = np.array([g.constant for g in groups])
    statuses = Counter(v.status for g in groups for v in g.verdicts)
    row |= {
        "reward/mean": float(rewards.mean()),
        "reward/group_std/mean": float(np.mean([np.std(g.rewards, ddof=1) if len(g.rewards) > 1 else 0.0 for g in groups])),
        "group/constant_share": float(constant.mean()),
        "group/all_right_share": float(np.mean([min(g.rewards) >= 1.0 for g in groups])),
        "group/all_wrong_share": float(np.mean([max(g.rewards) <= 0.0 for g in groups])),
        "length/mean": float(lengths.mean()),
        "length/min": float(lengths.min()),
        "length/max": float(lengths.max()),
        "length/clip_ratio": float(np.mean([r.truncated for r in rollouts])),
    }
    if right.any():
        row["length/right_mean"] = float(lengths[right].mean())
    if not right.all():
        row["length/wrong_mean"] = float(lengths[~right].mean())
    return row | {f"verdict/{status}_share": statuses[status] / len(rollouts) for status in get_args(Status)}
