"""After each weight sync: do the samplers have the learner's weights, and do they use them?

Two questions, because each alone is blind. Digests of every tensor as it was handed over find one that was changed on the way,
however little, and name it. Log-probs of a short probe, sampled with the new weights and computed again by the learner, find
weights that arrived and are not used, or are used in another dtype, once that shows beyond rounding.
"""

import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from longthink.types import Floats, Problem, Request, Rollout, RolloutId, Sampling

__all__ = ["digest", "misplaced", "misused", "probe_request"]

EXACT = 1e-4  # nats by which two programs may differ on average in the dtype of the weights
ROUNDED = 0.02  # and in a narrower one, where moreover
ROUNDING = 8.0  # times what the learner's own rounding moves the probe's log-probs on average is allowed for
LENGTH = 32  # tokens of the probe's response, and of its prompt
NAMED = 5  # tensors that a message lists


def digest(named: Iterable[tuple[str, Tensor]]) -> dict[str, int]:
    """CRC-32 of the bytes of each tensor."""
    return {name: zlib.crc32(t.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data) for name, t in named}


def probe_request(vocabulary: int) -> Request:
    """The probe: the same prompt and draws at every sync."""
    ids = np.arange(7, 7 + 13 * LENGTH, 13) % vocabulary
    problem = Problem("canary", ({"role": "text", "content": ""},), None)
    return Request(RolloutId(0, 0), problem, ids, LENGTH, Sampling(), seed=0)


def misplaced(there: int, digests: Mapping[str, int], version: int, own: Mapping[str, int]) -> str:
    """What is wrong with the version and the tensors a sampler has, against the learner's; empty where nothing is."""
    odd = [name for name in own if digests.get(name) != own[name]]
    if odd:
        more = f" and {len(odd) - NAMED} more" if len(odd) > NAMED else ""
        return f"{len(odd)} of {len(own)} tensors differ: {', '.join(odd[:NAMED])}{more}"
    return f"it samples from version {there}, the learner has {version}" if there != version else ""


def misused(rollout: Rollout, version: int, logprobs: Floats, unrounded: Floats) -> tuple[float, str]:
    """The largest gap between a probe's log-probs and the learner's, and what is wrong; empty where nothing is.

    `unrounded` are the learner's in the dtype of its weights: how far apart the two are says how far off a sampler may be. Means
    over the probe are compared, which vary far less than the largest gaps.
    """
    rounding = float(np.abs(logprobs - unrounded).mean())
    tolerance = EXACT + (ROUNDED + ROUNDING * rounding if rounding else 0.0)
    sampled = np.concatenate([s.logprobs for s in rollout.segments if s.logprobs is not None])
    gap, off = float(np.abs(sampled - logprobs).max()), float(np.abs(sampled - logprobs).mean())
    if stale := {s.policy_version for s in rollout.segments} - {version}:
        return gap, f"it samples from version {min(stale)}, the learner has {version}"
    if not off <= tolerance:
        said = f"every tensor arrived, and its log-probs are {off:.2g} nats off on average (at most {tolerance:.2g})"
        return gap, f"{said}: another dtype, or weights that are not used"
    return gap, ""
