"""The canary: a corrupted tensor, a stale sampler and a dtype mix-up are found and named, mended or stopped at."""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from longthink.canary import digest, misplaced, misused, probe_request
from longthink.clusters import cluster as cluster_module
from longthink.clusters.cluster import Cluster
from longthink.errors import EngineError
from longthink.recipe import Recipe, parse_recipe
from longthink.types import Rollout, Segment

NAMED = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3)}


def judged(shift: float, version: int = 4, rounding: float = 0.0) -> tuple[float, str]:
    request = probe_request(100)
    segment = Segment("policy", np.arange(3), np.array([-1.0, -2.0, -3.0 + shift], np.float32), version)
    rollout = Rollout(request.id, request.problem, request.prompt_ids, (segment,), "length", request.sampling, 16)
    own = np.array([-1.0, -2.0, -3.0], np.float32)
    return misused(rollout, 4, own, own + np.float32(rounding))


def test_each_kind_of_mismatch_is_said() -> None:
    assert judged(0.0) == (0.0, "") and judged(2e-4)[1] == ""
    assert "0.0033 nats off on average (at most 0.0001): another dtype" in judged(0.01)[1]
    assert judged(0.5, rounding=0.02)[1] == "" and "at most 0.18" in judged(0.6, rounding=0.02)[1]
    assert "nan nats off on average" in judged(float("nan"))[1]
    assert judged(0.0, version=3)[1] == "it samples from version 3, the learner has 4"
    own, broken = digest(NAMED.items()), NAMED["b"].clone()
    broken[1] = float(np.nextafter(np.float32(1.0), np.float32(2.0)))
    assert misplaced(4, own, 4, own) == ""
    assert misplaced(4, own | digest([("b", broken)]), 4, own) == "1 of 2 tensors differ: b"
    assert misplaced(3, own, 4, own) == "it samples from version 3, the learner has 4"


def test_digests_see_every_bit_of_every_dtype() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        whole = torch.zeros(4, 3, dtype=dtype)
        other = whole.clone()
        other[3, 2] = -0.0
        assert digest([("w", whole)]) != digest([("w", other)]) == digest([("w", other.T.contiguous().T)])


def recipe(model: Path, **cluster: Any) -> Recipe:
    table = {
        "name": "canary",
        "model": {"path": str(model), "dtype": "float32"},
        "cluster": {"learners": 1, "threads": 1, "samplers": 2, **cluster},
        "task": {"kind": "countdown"},
        "reward": {"kind": "countdown"},
    }
    return parse_recipe(table, "test")


@pytest.mark.cluster
def test_what_arrives_once_more_goes_on_and_what_never_does_stops(warm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Cluster(recipe(warm_folder))) as cluster:
        assert cluster.gap < 1e-4 and cluster.resyncs == 0
        made = cluster.samplers[0].make
        assert isinstance(made, partial)
        places, ask, left, asks = dict(made.args[1].views()), cluster._all, 0, True

        def corrupting(peers: Any, name: str, *args: Any) -> list[Any]:
            nonlocal left
            if name == "load" and left:  # between the learner's writing and the samplers' reading
                left -= 1
                places["model.layers.1.mlp.up_proj.weight"][3, 5] += 1e-3
            return ask(peers, name, *args) if name != "load" or asks else []

        monkeypatch.setattr(cluster, "_all", corrupting)
        left = 1
        cluster.sync(1)
        assert cluster.resyncs == 1 and cluster.gap < 1e-4
        left = 99
        said = r"sampler 0: 1 of \d+ tensors differ: model.layers.1.mlp.up_proj.weight; sampler 1: .*nothing was sampled"
        with pytest.raises(EngineError, match=said):
            cluster.sync(2)
        left, asks = 0, False
        with pytest.raises(EngineError, match="it samples from version 2, the learner has 3"):
            cluster.sync(3)


@pytest.mark.cluster
def test_a_sampler_of_another_dtype_is_found_before_it_samples(warm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = cluster_module.make_sampler
    asked = recipe(warm_folder, samplers=1, resyncs=0)
    other = asked.model_copy(update={"model": asked.model.model_copy(update={"dtype": "bfloat16"})})
    monkeypatch.setattr(cluster_module, "partial", lambda f, *args: partial(f, *((other, *args[1:]) if f is sampler else args)))
    with pytest.raises(EngineError, match=r"sampler 0: every tensor arrived, .* another dtype"):
        Cluster(asked)


@pytest.mark.cluster
def test_the_learner_s_own_arithmetic_is_what_samplers_are_held_to(warm_folder: Path) -> None:
    """In bf16 on both sides the gap is that of bf16, and is measured against the learner's own rounding."""
    made = recipe(warm_folder, samplers=1)
    with closing(Cluster(made.model_copy(update={"model": made.model.model_copy(update={"dtype": "bfloat16"})}))) as cluster:
        rollout = cluster._all(cluster.samplers, "probe", cluster._vocabulary)[0]
        own, unrounded = cluster._all(cluster.ranks, "probed", rollout)[0]
        gap = np.abs(np.concatenate([s.logprobs for s in rollout.segments]) - own)
        assert 0.0 < gap.mean() <= 0.02 + 8 * np.abs(own - unrounded).mean() and cluster.gap == pytest.approx(float(gap.max()))
