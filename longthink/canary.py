"""After each weight sync: do the samplers have the learner's weights, and do they use them?

Two questions, because each alone is blind. Digests of every tensor as it arrived find a corrupted or stale one however small the
last update was, and name it. Log-probs of a short probe, sampled with the new weights and computed again by the learner, find
weights that arrived and are not used, or are used in another dtype.
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longthink.types import Floats, Problem, Request, Rollout, RolloutId, Sampling

__all__ = ["TOLERANCE", "Sighting", "digest", "mismatch", "probe_request"]

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.25}  # of a log-prob, in nats
LENGTH = 16  # tokens of the probe's response, and of its prompt
NAMED = 5  # tensors that a message lists


class Sighting(NamedTuple):
    """What a sampler has after a sync: its version, the digests of its tensors, and its answer to the probe."""

    version: int
    digests: dict[str, int]
    rollout: Rollout


def digest(named: Iterable[tuple[str, Tensor]]) -> dict[str, int]:
    """CRC-32 of the bytes of each tensor."""
    return {name: zlib.crc32(t.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data) for name, t in named}


def probe_request(vocabulary: int) -> Request:
    """The probe: the same prompt and draws at every sync."""
    ids = np.arange(7, 7 + 13 * LENGTH, 13) % vocabulary
    problem = Problem("canary", ({"role": "text", "content": ""},), None)
    return Request(RolloutId(0, 0), problem, ids, LENGTH, Sampling(), seed=0)


def mismatch(seen: Sighting, version: int, digests: Mapping[str, int], logprobs: Floats, tolerance: float) -> tuple[str, float]:
    """What is wrong with what a sampler has, empty where nothing is, and the largest gap of a log-prob.

    `logprobs` are the learner's of the probe's tokens.
    """
    sampled = np.concatenate([s.logprobs for s in seen.rollout.segments if s.logprobs is not None])
    gap = float(np.abs(sampled - logprobs).max())
    stamped = {s.policy_version for s in seen.rollout.segments}
    odd = [name for name, own in digests.items() if seen.digests.get(name) != own]
    if odd:
        more = f" and {len(odd) - NAMED} more" if len(odd) > NAMED else ""
        return f"{len(odd)} of {len(digests)} tensors differ: {', '.join(odd[:NAMED])}{more}", gap
    if seen.version != version or stamped != {version}:
        return f"it samples from version {min(seen.version, *stamped)}, the learner has {version}", gap
    if not gap <= tolerance:
        said = f"every tensor arrived, and its log-probs are up to {gap:.2g} nats off (at most {tolerance:g})"
        return f"{said}: another dtype, or weights that are not used", gap
    return "", gap
