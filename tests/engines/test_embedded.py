"""Engines: what every one of them must do (`build` is given an entry of ENGINES), then what only the embedded one promises."""

import functools
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import VllmProcess, vllm_process
from torch import Tensor

from longthink.attention import Layout
from longthink.engines.base import Engine
from longthink.engines.cache import SlotCache
from longthink.engines.embedded import EmbeddedEngine, draw_tokens
from longthink.errors import EngineError
from longthink.folder import write_weights
from longthink.model import Decoder, ModelConfig
from longthink.rng import uniforms
from longthink.tools.formats import CallFormat, Watch
from longthink.types import Problem, Request, Rollout, RolloutId, Sampling, Segment

STOPS = frozenset({1, 7, 20})
VOCABULARY = 64
PROBLEM = Problem("p", ({"role": "user", "content": "?"},), None)
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 40}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 1},
    "llama": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "rope_scaling": YARN},
}

Build = Callable[..., Engine]


class Letters:
    """A tokenizer of one character a token, whose calls are opened by one of two of them and closed by one of two others."""

    inner: "Letters"

    def __init__(self) -> None:
        self.inner = self

    def __len__(self) -> int:
        return VOCABULARY

    def batch_decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return ["".join("([" if i % 9 == 3 else "])" if i % 5 == 2 else chr(97 + i) for i in row) for row in rows]

    def decode(self, ids: Any) -> str:
        return self.batch_decode([ids.tolist()])[0]


WATCH, CALLS = Watch(Letters()), CallFormat("([", ")", "<", ">")


def embedded(decoder: Decoder, *, dtype: torch.dtype = torch.float32, version: int = 0, **limits: Any) -> Engine:
    engine = EmbeddedEngine(dtype=dtype, stop_ids=STOPS, watch=WATCH, **limits)
    engine.load(decoder, version)
    return engine


@contextmanager
def vllm_folder(family: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = {**SHAPE, **FAMILIES[family], "architectures": [f"{family.capitalize()}ForCausalLM"], "torch_dtype": "float32"}
        (folder / "config.json").write_text(json.dumps(raw))
        write_weights(folder, random_decoder(0, family).state_dict())
        yield folder


@functools.cache
def vllm_engine(family: str, dtype: torch.dtype, max_rows: int) -> Any:
    """vLLM takes seconds to start, and other weights at any time: one engine serves many tests."""
    from longthink.engines.vllm.inside import VllmEngine

    with vllm_folder(family) as folder:
        return VllmEngine(folder, dtype=dtype, stop_ids=STOPS, longest=160, max_rows=max_rows, cache_gb=1.0, watch=WATCH)


def vllm(
    decoder: Decoder, *, dtype: torch.dtype = torch.float32, version: int = 0, max_rows: int = 64, cache_gb: float = 1.0
) -> Engine:
    return emptied(vllm_engine(decoder.config.family, dtype, 2 if max_rows < 3 else 64), decoder, version)


def emptied(engine: Any, decoder: Decoder, version: int) -> Engine:
    """An engine of vLLM without what another test left, and with these weights."""
    engine._take_back()
    engine._waiting.clear()
    engine._done.clear()
    engine.load(decoder, version)
    return engine  # type: ignore[no-any-return]


SERVERS: list[VllmProcess] = []  # one, of a qwen3 in float32, while its tests run


@functools.cache
def vllm_client(max_rows: int) -> Any:
    from longthink.engines.vllm.server import VllmServer

    limits: Any = {"stop_ids": STOPS, "max_rows": max_rows, "watch": WATCH}
    return VllmServer(SERVERS[0].address, DECODER.config, dtype=torch.float32, **limits)


def vllm_server(
    decoder: Decoder, *, dtype: torch.dtype = torch.float32, version: int = 0, max_rows: int = 64, cache_gb: float = 1.0
) -> Engine:
    if decoder.config.family != "qwen3" or dtype != torch.float32:
        pytest.skip("a server has one model and one dtype")
    return emptied(vllm_client(2 if max_rows < 3 else 64), decoder, version)


# decoder, dtype, version, max_rows, cache_gb
ENGINES: dict[str, Build] = {"embedded": embedded, "vllm": vllm, "vllm_server": vllm_server}
VLLM = (vllm, vllm_server)
OTHERS = [pytest.param(name, marks=pytest.mark.cluster) for name in ("vllm", "vllm_server")]


@pytest.fixture(scope="module", params=["embedded", *OTHERS])
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    if request.param != "embedded":
        pytest.importorskip("vllm")
    if request.param != "vllm_server":
        yield ENGINES[request.param]
        return
    with vllm_folder("qwen3") as folder, vllm_process(folder, tmp_path_factory.mktemp("server") / "said") as server:
        SERVERS[:] = [server]
        server.wait()
        yield vllm_server
    vllm_client.cache_clear()


def random_decoder(seed: int = 0, family: str = "qwen3") -> Decoder:
    """A decoder sure enough of itself that distributions are far from uniform."""
    decoder = Decoder(ModelConfig.from_dict({**SHAPE, **FAMILIES[family]}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in decoder.named_parameters():
            draw = torch.randn(p.shape, generator=generator)
            p.copy_(draw * 0.125 if p.ndim == 2 else draw * 0.2 + (0.0 if name.endswith("bias") else 1.0))
    return decoder


DECODER = random_decoder()
WHOLE = Sampling()


def make_request(group: int, sample: int = 0, *, max_tokens: int = 40, sampling: Sampling = WHOLE, prompt: int = 0) -> Request:
    """A request whose prompt depends on the group (`prompt` tokens, by default 1 to 23) and whose seed on both numbers."""
    length = prompt or 1 + 7 * group % 23
    ids = np.random.default_rng(group).integers(0, VOCABULARY, length)
    return Request(RolloutId(group, sample), PROBLEM, ids, max_tokens, sampling, seed=1000 * group + sample)


def make_requests(groups: int, samples: int = 2, **fields: Any) -> list[Request]:
    return [make_request(g, s, **fields) for g in range(groups) for s in range(samples)]


def run(engine: Engine, requests: Iterable[Request]) -> dict[RolloutId, Rollout]:
    for request in requests:
        engine.submit(request)
    return {rollout.id: rollout for rollout in engine.finished()}


def logprobs_of(rollout: Rollout) -> Any:
    return np.concatenate([np.zeros(0), *(s.logprobs for s in rollout.segments if s.logprobs is not None)])


def check_equal(found: Rollout, expected: Rollout) -> None:
    """The same response: tokens bitwise, log-probs within rounding, however they are cut into segments."""
    assert found.id == expected.id and found.finish_reason == expected.finish_reason
    np.testing.assert_array_equal(found.response_ids, expected.response_ids)
    np.testing.assert_allclose(logprobs_of(found), logprobs_of(expected), atol=1e-5, rtol=1e-5)


def reference_logprobs(decoder: Decoder, rollout: Rollout, temperature: float) -> Tensor:
    """[response, V] the learner's whole distribution before each response token."""
    tokens = torch.from_numpy(np.concatenate([rollout.prompt_ids, rollout.response_ids]))
    with torch.no_grad():
        logits = decoder(tokens, Layout.of([[len(tokens)]])) @ decoder.head_weight.T
    return torch.log_softmax(logits[len(rollout.prompt_ids) - 1 : -1] / temperature, dim=-1)


# -- conformance: what every engine must do -------------------------------------------------------------------------


def test_every_request_ends_once_and_carries_its_own_facts(build: Build) -> None:
    requests = make_requests(10)
    engine = build(DECODER, version=7)
    for request in reversed(requests):
        engine.submit(request)
    rollouts = list(engine.finished())
    assert sorted(r.id for r in rollouts) == [r.id for r in requests]
    by_id = {r.id: r for r in rollouts}
    for request in requests:
        rollout = by_id[request.id]
        assert rollout.problem is request.problem and rollout.sampling is request.sampling
        assert rollout.window == request.max_tokens
        np.testing.assert_array_equal(rollout.prompt_ids, request.prompt_ids)
        (segment,) = rollout.segments
        assert segment.source == "policy" and segment.policy_version == 7
        assert segment.token_ids.dtype == np.int64 and segment.logprobs is not None and segment.logprobs.dtype == np.float32
        assert len(segment.token_ids) == len(segment.logprobs) and (segment.logprobs <= 0).all()
    assert list(engine.finished()) == []


def test_stop_and_length_mean_what_they_say(build: Build) -> None:
    rollouts = run(build(DECODER), make_requests(15)).values()
    assert {r.finish_reason for r in rollouts} == {"stop", "length"}
    for rollout in rollouts:
        ids = rollout.response_ids.tolist()
        assert not STOPS & set(ids[:-1])
        assert (rollout.finish_reason == "stop") == (ids[-1] in STOPS)
        assert len(ids) == 40 if rollout.finish_reason == "length" else len(ids) <= 40
        assert rollout.truncated == (rollout.finish_reason == "length")


def test_every_stop_token_stops(build: Build) -> None:
    rollouts = run(build(DECODER), make_requests(40)).values()
    assert {int(r.response_ids[-1]) for r in rollouts if r.finish_reason == "stop"} == STOPS


def test_every_request_has_its_own_limit(build: Build) -> None:
    """A response of n tokens is cut at n - 1, and is whole at n: a stop token in the last place still stops."""
    requests = make_requests(12)
    full = run(build(DECODER), requests)
    for less, reason in ((0, "stop"), (1, "length")):
        tight = [replace(r, max_tokens=max(1, full[r.id].num_tokens - less)) for r in requests]
        cut = run(build(DECODER), tight)
        for request in tight:
            rollout, whole = cut[request.id], full[request.id]
            np.testing.assert_array_equal(rollout.response_ids, whole.response_ids[: request.max_tokens])
            if whole.finish_reason == "stop" and whole.num_tokens > 1:
                assert rollout.finish_reason == reason


def test_the_same_request_gives_the_same_tokens_and_another_seed_others(build: Build) -> None:
    request, engine = make_request(3), build(DECODER)
    first, second = (run(engine, [request])[request.id] for _ in range(2))
    np.testing.assert_array_equal(first.response_ids, second.response_ids)
    np.testing.assert_array_equal(logprobs_of(first), logprobs_of(second))
    group = run(engine, [make_request(3, sample) for sample in range(8)]).values()
    assert len({tuple(r.response_ids) for r in group}) == 8


def test_the_order_of_submission_changes_nothing(build: Build) -> None:
    requests = make_requests(10)
    expected = run(build(DECODER), requests)
    for seed in range(3):
        shuffled = [requests[i] for i in np.random.default_rng(seed).permutation(len(requests))]
        found = run(build(DECODER), shuffled)
        assert sorted(found) == sorted(expected)
        for id, rollout in found.items():
            np.testing.assert_array_equal(rollout.response_ids, expected[id].response_ids)
            np.testing.assert_array_equal(logprobs_of(rollout), logprobs_of(expected[id]))


@given(
    st.permutations(range(20)),
    st.integers(1, 20),
    st.sampled_from([1, 2, 3, 5, 17, 32, 256]),
    st.sampled_from([0.0005, 0.0013, 1.0]),
)
@settings(max_examples=10)
def test_a_response_does_not_depend_on_what_else_is_in_the_batch(
    build: Build, order: list[int], count: int, max_rows: int, cache_gb: float
) -> None:
    requests = make_requests(10)
    engine = build(DECODER, max_rows=max_rows, cache_gb=cache_gb)
    for id, rollout in run(engine, [requests[i] for i in order[:count]]).items():
        check_equal(rollout, alone(build, id))


ALONE: dict[tuple[Build, RolloutId], Rollout] = {}


def alone(build: Build, id: RolloutId) -> Rollout:
    """The response to this request when nothing else runs."""
    if (build, id) not in ALONE:
        ALONE[build, id] = run(build(DECODER, max_rows=1), [make_request(*id)])[id]
    return ALONE[build, id]


def test_thirty_requests_in_four_rows_equal_the_unconstrained_run(build: Build) -> None:
    requests = [make_request(g, max_tokens=5 + 9 * g % 50) for g in range(30)]
    few, many = (run(build(DECODER, max_rows=rows), requests) for rows in (4, 64))
    assert sorted(few) == sorted(many) == [r.id for r in requests]
    for id, rollout in few.items():
        check_equal(rollout, many[id])


def test_requests_may_come_while_others_run(build: Build) -> None:
    requests = make_requests(10)
    expected = run(build(DECODER), requests)
    engine, coming = build(DECODER, max_rows=6), iter(requests[4:])
    for request in requests[:4]:
        engine.submit(request)
    found = {}
    for rollout in engine.finished():
        found[rollout.id] = rollout
        for request in (next(coming, None), next(coming, None)):
            if request is not None:
                engine.submit(request)
    assert sorted(found) == sorted(expected)
    for id, rollout in found.items():
        check_equal(rollout, expected[id])


def test_a_call_ends_what_an_engine_does_and_the_rollout_goes_on_behind_its_output(build: Build) -> None:
    """It ends with the first token that completes a call, not before and not later; the log-probs behind it see the output."""
    requests = make_requests(15, max_tokens=60)
    plain, asked = run(build(DECODER), requests), [replace(r, calls=CALLS) for r in requests]
    found = run(build(DECODER), asked)
    reasons = [r.finish_reason for r in found.values()]
    assert reasons.count("call") > 5 and set(reasons) >= {"call", "stop"}
    for id, rollout in found.items():
        prefixes = [WATCH.tokenizer.decode(rollout.response_ids[:n]) for n in range(1, rollout.num_tokens + 1)]
        assert not any(map(CALLS.called, prefixes[:-1]))
        stopped = int(rollout.response_ids[-1]) in STOPS
        called = CALLS.called(prefixes[-1]) is not None and not stopped and rollout.num_tokens < 60
        assert (rollout.finish_reason == "call") == called
        if build is embedded:  # vLLM draws afresh behind what might have been a call
            np.testing.assert_array_equal(rollout.response_ids, plain[id].response_ids[: rollout.num_tokens])
    tool = Segment("tool", np.array([3, 5, 8], np.int64))
    again = [
        replace(request, segments=(*found[request.id].segments, tool), calls=None)
        for request in asked
        if found[request.id].finish_reason == "call" and found[request.id].num_tokens < 57
    ]
    for id, rollout in run(build(DECODER), again).items():
        assert rollout.response_ids[: found[id].num_tokens].tolist() == found[id].response_ids.tolist()
        assert rollout.finish_reason in ("stop", "length") and rollout.num_tokens <= 60
        expected = reference_logprobs(DECODER, rollout, 1.0)
        chosen = expected.gather(1, torch.from_numpy(rollout.response_ids).unsqueeze(1)).squeeze(1).numpy()
        mine = np.concatenate([np.full(len(s.token_ids), s.source == "policy") for s in rollout.segments])
        np.testing.assert_allclose(logprobs_of(rollout), chosen[mine], atol=1e-5, rtol=0)
        assert rollout.segments[len(found[id].segments)] is tool


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(0.6), Sampling(1.7), Sampling(top_p=0.5), Sampling(top_k=3), Sampling(0.8, top_p=0.9, top_k=10)],
    ids=str,
)
def test_logprobs_are_the_learners_over_the_whole_distribution(build: Build, family: str, sampling: Sampling) -> None:
    decoder = random_decoder(5, family)
    if build in VLLM and (sampling.top_p < 1 or sampling.top_k):
        assert all(
            s.logprobs is None for r in run(build(decoder), [make_request(0, sampling=sampling)]).values() for s in r.segments
        )
        return
    for rollout in run(build(decoder), make_requests(4, max_tokens=90, sampling=sampling)).values():
        expected = reference_logprobs(decoder, rollout, sampling.temperature)
        chosen = expected.gather(1, torch.from_numpy(rollout.response_ids).unsqueeze(1)).squeeze(1)
        np.testing.assert_allclose(logprobs_of(rollout), chosen.numpy(), atol=1e-5, rtol=0)


def test_a_restriction_is_kept_to(build: Build) -> None:
    """Every token is among the top_k, and less than top_p of the mass is more likely than it."""
    sampling = Sampling(1.3, top_p=0.7, top_k=5)
    requests = make_requests(8, sampling=sampling) + make_requests(8, samples=4)[2:3]
    rollouts = [r for r in run(build(DECODER), requests).values() if r.sampling == sampling]
    ranks = []
    for rollout in rollouts:
        probs = reference_logprobs(DECODER, rollout, 1.3).exp()
        chosen = probs.gather(1, torch.from_numpy(rollout.response_ids).unsqueeze(1))
        above = probs > chosen
        assert above.sum(1).max() < 5 and torch.where(above, probs, 0.0).sum(1).max() < 0.7
        ranks += above.sum(1).tolist()
    assert set(range(4)) <= set(ranks) <= set(range(5))


def test_greedy_takes_the_most_likely_token_and_reports_it_at_temperature_one(build: Build) -> None:
    requests = make_requests(8, sampling=Sampling(0.0))
    for rollout in run(build(DECODER), requests).values():
        expected = reference_logprobs(DECODER, rollout, 1.0)
        np.testing.assert_array_equal(rollout.response_ids, expected.argmax(1).numpy())
        np.testing.assert_allclose(logprobs_of(rollout), expected.max(1).values.numpy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "narrow", [Sampling(1.4, top_k=1), Sampling(1.4, top_p=1e-9), Sampling(1.4, top_p=0.0), Sampling(1e-4)], ids=str
)
def test_the_narrowest_restrictions_are_greedy(build: Build, narrow: Sampling) -> None:
    greedy = run(build(DECODER), make_requests(8, sampling=Sampling(0.0)))
    for id, rollout in run(build(DECODER), make_requests(8, sampling=narrow)).items():
        np.testing.assert_array_equal(rollout.response_ids, greedy[id].response_ids)


def test_requests_of_one_batch_keep_their_own_sampling(build: Build) -> None:
    kinds = [Sampling(), Sampling(0.0), Sampling(0.5), Sampling(top_k=2), Sampling(2.0, top_p=0.3)]
    requests = [make_request(g, sampling=kinds[g % 5]) for g in range(20)]
    for id, rollout in run(build(DECODER, max_rows=7), requests).items():
        check_equal(rollout, run(build(DECODER), [requests[id.group]])[id])


# -- conformance: aborting, going on, refusing ----------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 3, 10, 31])
def test_an_aborted_rollout_goes_on_as_if_nothing_had_happened(build: Build, cut: int) -> None:
    """Both the running and the waiting one, with a new version between: draws belong to positions, not to calls."""
    if build is vllm_server:
        pytest.skip("how far it is when it is taken out depends on the moment: test_vllm_server.py")
    victim, other = long_requests(build)
    clock, waits = replace(other, max_tokens=cut), make_request(92)
    expected = run(build(DECODER), [victim, waits])
    engine = build(DECODER, version=3, max_rows=2)
    for request in (victim, clock, waits):
        engine.submit(request)
    stream = engine.finished()
    ended = next(stream)
    assert ended.id == clock.id and ended.num_tokens == cut
    partial, untouched = engine.abort(victim.id), engine.abort(waits.id)
    assert untouched.finish_reason == partial.finish_reason == "aborted"
    assert untouched.segments == () and len(untouched.response_ids) == 0
    assert partial.num_tokens == cut and partial.window == victim.max_tokens
    assert list(stream) == []
    engine.load(DECODER, 4)
    rest = run(engine, [replace(victim, segments=partial.segments), waits])
    for request in (victim, waits):
        check_equal(rest[request.id], expected[request.id])
    assert [s.policy_version for s in rest[victim.id].segments] == [3, 4]
    assert rest[victim.id].segments[0] is partial.segments[0]


def long_requests(build: Build) -> list[Request]:
    """The first two requests whose responses are longer than any limit a test here sets: greedy where draws begin anew."""
    sampling = Sampling(0.0) if build in VLLM else WHOLE
    asked = [make_request(g, sampling=sampling) for g in range(60)]
    found = run(build(DECODER), asked)
    return [r for r in asked if found[r.id].num_tokens > 35][:2]


def test_a_rollout_may_be_aborted_again_and_again(build: Build) -> None:
    if build is vllm_server:
        pytest.skip("how far it is when it is taken out depends on the moment: test_vllm_server.py")
    (victim, other), engine = long_requests(build), build(DECODER)
    expected, segments = run(engine, [victim])[victim.id], ()
    for version in range(5):
        engine.load(DECODER, version)
        for request in (replace(victim, segments=segments), replace(other, max_tokens=1 + version)):
            engine.submit(request)
        next(engine.finished())
        segments = engine.abort(victim.id).segments
    check_equal(run(engine, [replace(victim, segments=segments)])[victim.id], expected)
    assert [(s.policy_version, len(s.token_ids)) for s in segments] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]


def test_everything_is_taken_out_at_once(build: Build) -> None:
    requests, engine = make_requests(4), build(DECODER, max_rows=2)
    expected = run(engine, requests)
    for request in requests:
        engine.submit(request)
    assert [r.num_tokens for r in engine.abort_all()] == [0] * 8
    for request in requests:
        engine.submit(request)
    taken = {r.id: r for r in (*engine.advance(), *engine.abort_all())}
    assert sorted(taken) == [r.id for r in requests] and engine.abort_all() == [] == list(engine.finished())
    for id, rollout in taken.items():
        if rollout.finish_reason == "aborted":
            np.testing.assert_array_equal(rollout.response_ids, expected[id].response_ids[: rollout.num_tokens])
        else:
            check_equal(rollout, expected[id])


def test_what_goes_on_is_reproducible(build: Build) -> None:
    whole = next(r for r in run(build(DECODER), make_requests(20)).values() if r.num_tokens > 20)
    (segment,) = whole.segments
    assert segment.logprobs is not None
    part = Segment("policy", segment.token_ids[:9], segment.logprobs[:9], 0)
    request = replace(make_request(*whole.id), segments=(part,))
    first, again = (run(build(DECODER), [request])[request.id] for _ in range(2))
    check_equal(first, again)
    np.testing.assert_array_equal(first.response_ids[:9], whole.response_ids[:9])


def test_a_request_goes_on_after_an_inserted_segment(build: Build) -> None:
    request = long_requests(build)[0]
    before = run(build(DECODER), [replace(request, max_tokens=6)])[request.id].segments
    tool = Segment("tool", np.array([40, 7, 41, 42]))  # a stop token of another's does not stop
    rollout = run(build(DECODER, version=2), [replace(request, segments=(*before, tool), max_tokens=30)])[request.id]
    assert rollout.segments[0] is before[0] and rollout.segments[1] is tool and len(rollout.segments) == 3
    assert rollout.segments[2].source == "policy" and rollout.segments[2].policy_version == 2
    assert rollout.num_tokens == 30 if rollout.finish_reason == "length" else rollout.num_tokens <= 30
    expected = reference_logprobs(DECODER, rollout, 1.0)[10:]
    chosen = expected.gather(1, torch.from_numpy(rollout.segments[2].token_ids).unsqueeze(1)).squeeze(1)
    np.testing.assert_allclose(rollout.segments[2].logprobs, chosen.numpy(), atol=1e-5, rtol=0)


def test_rollouts_that_ended_together_are_not_lost(build: Build) -> None:
    """A consumer that has enough stops listening: what ended meanwhile comes later, or can be aborted."""
    engine = build(DECODER)
    requests = [make_request(g, max_tokens=1) for g in range(6)]
    for request in requests:
        engine.submit(request)
    first = next(engine.finished())
    with pytest.raises(EngineError, match="submitted twice"):
        engine.submit(requests[1])
    taken = engine.abort(requests[1].id)
    assert taken.num_tokens == 1 or (build is vllm_server and taken.num_tokens == 0)  # a server may not have begun it
    assert {first.id, taken.id, *(r.id for r in engine.finished())} == {r.id for r in requests}


def test_new_weights_are_sampled_from_and_stamped(build: Build) -> None:
    other, requests = random_decoder(9), make_requests(6)
    engine = build(DECODER, version=1)
    old = run(engine, requests)
    engine.load(other, 2)
    for id, rollout in run(engine, requests).items():
        check_equal(rollout, run(build(other), [make_request(*id)])[id])
        assert rollout.segments[0].policy_version == 2 and old[id].segments[0].policy_version == 1


def test_the_learner_may_change_its_weights_while_the_engine_samples(build: Build) -> None:
    decoder, requests = random_decoder(5, "llama"), make_requests(4)
    expected, engine = run(build(decoder), requests), build(decoder)
    with torch.no_grad():
        for p in decoder.parameters():
            p.mul_(-2.0)
    for id, rollout in run(engine, requests).items():
        check_equal(rollout, expected[id])


def test_weights_do_not_change_under_running_rollouts(build: Build) -> None:
    if build is vllm_server:
        pytest.skip("how far it is when it is taken out depends on the moment: test_vllm_server.py")
    engine, (victim, other) = build(DECODER), long_requests(build)
    engine.submit(victim)
    engine.submit(replace(other, max_tokens=2))
    stream = engine.finished()
    next(stream)
    with pytest.raises(EngineError, match="weights cannot change under running rollouts: abort them and submit"):
        engine.load(DECODER, 1)
    (rest,) = stream
    check_equal(rest, run(engine, [victim])[victim.id])


def test_what_makes_no_sense_is_refused(build: Build) -> None:
    engine, request = build(DECODER, max_rows=1), make_request(1)
    engine.submit(request)
    with pytest.raises(EngineError, match=r"rollout \(1, 0\) was submitted twice"):
        engine.submit(request)
    full = Segment("policy", np.arange(40), np.zeros(40, np.float32))
    with pytest.raises(EngineError, match=r"rollout \(2, 0\) has 40 of 40 tokens: nothing left"):
        engine.submit(replace(make_request(2), segments=(full,)))
    with pytest.raises(EngineError, match=r"rollout \(5, 5\) is not running"):
        engine.abort(RolloutId(5, 5))
    engine.abort(request.id)
    with pytest.raises(EngineError, match=r"rollout \(1, 0\) is not running"):
        engine.abort(request.id)
    check_equal(run(engine, [request])[request.id], alone(build, request.id))


def test_a_running_request_is_not_taken_twice(build: Build) -> None:
    if build is vllm_server:
        pytest.skip("how far it is when it is taken out depends on the moment: test_vllm_server.py")
    engine, (victim, other) = build(DECODER), long_requests(build)
    engine.submit(victim)
    engine.submit(replace(other, max_tokens=2))
    next(engine.finished())
    with pytest.raises(EngineError, match="was submitted twice"):
        engine.submit(victim)


def test_a_context_beyond_the_models_positions_is_refused(build: Build) -> None:
    engine = build(DECODER)
    fits, beyond = make_request(1, prompt=20, max_tokens=140), make_request(2, prompt=20, max_tokens=141)
    engine.submit(beyond)
    with pytest.raises(EngineError, match="a rollout may reach 161 tokens, the model has 160 positions"):
        next(engine.finished())
    engine.abort(beyond.id)
    assert run(engine, [fits])[fits.id].num_tokens <= 140


def test_a_cache_too_small_for_one_row_is_refused(build: Build) -> None:
    if build in VLLM:
        pytest.skip("vLLM counts its cache itself")
    request, needed = make_request(1, prompt=20, max_tokens=80), 100 * SlotCache.bytes_per_token(DECODER.config, torch.float32)
    assert needed == 100 * 2 * 2 * 2 * 32 * 4  # keys and values, layers, heads, size, bytes
    engine = build(DECODER, cache_gb=(needed - 1) / 2**30)
    engine.submit(request)
    with pytest.raises(EngineError, match=r"one rollout of 100 tokens needs 0.0 GiB of cache, engine.cache_gb allows 0.0"):
        next(engine.finished())
    assert len(run(build(DECODER, cache_gb=(needed + 0.5) / 2**30), [request])) == 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_weights_are_an_error_and_leave_no_trace(build: Build, value: float) -> None:
    broken = random_decoder()
    with torch.no_grad():
        broken.layers[1].self_attn.v_proj.weight[3, 5] = value
    engine, requests = build(broken), make_requests(4, prompt=60)
    for request in requests:
        engine.submit(request)
    with pytest.raises(EngineError, match="the model's logits are not finite: the weights are broken or overflowed"):
        next(engine.finished())
    assert [engine.abort(r.id).num_tokens for r in requests] == [0] * 8
    engine.load(DECODER, 1)
    for id, rollout in run(engine, make_requests(4)).items():
        check_equal(rollout, alone(build, id))


def test_another_model_may_follow(build: Build) -> None:
    """Positions, head sizes and rope of the old one are forgotten, also when a rollout of it was cut off."""
    if build in VLLM:
        with pytest.raises(EngineError, match="was started for another model"):
            build(random_decoder(5, "llama")).load(DECODER, 1)
        return
    engine, victim = build(random_decoder(5, "llama")), make_request(1, max_tokens=100)
    engine.submit(victim)
    engine.submit(make_request(91, max_tokens=1))
    next(engine.finished())
    engine.abort(victim.id)
    engine.load(DECODER, 1)
    for id, rollout in run(engine, make_requests(4)).items():
        check_equal(rollout, alone(build, id))


def of_response(decoder: Decoder, rollout: Rollout) -> Tensor:
    """[response] the learner's log-probs of a response's own tokens."""
    whole = reference_logprobs(decoder, rollout, 1.0)
    return whole.gather(1, torch.from_numpy(rollout.response_ids).unsqueeze(1)).squeeze(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(build: Build, dtype: torch.dtype) -> None:
    """float64 may differ from the learner's by the roundings of the float32 it is kept in. bf16 rounds in another order than
    the learner's bf16: what is compared is how far each is from float32, over all tokens.
    """
    decoder = random_decoder().to(torch.float64 if dtype == torch.float64 else torch.float32)
    decoder.compute_dtype = dtype
    requests = make_requests(8)
    if build is vllm and dtype == torch.float64:
        with pytest.raises(EngineError, match="vLLM has no float64"):
            build(decoder, dtype=dtype)
        return
    rollouts = run(build(decoder, dtype=dtype, max_rows=5), requests)
    assert sorted(rollouts) == [r.id for r in requests]
    assert all((r.finish_reason == "stop") == (int(r.response_ids[-1]) in STOPS) for r in rollouts.values())
    found = np.concatenate([logprobs_of(r) for r in rollouts.values()])
    learner, exact = (torch.cat([of_response(d, r) for r in rollouts.values()]).numpy() for d in (decoder, DECODER))
    if dtype == torch.float64:
        np.testing.assert_allclose(found, learner, atol=1e-6, rtol=0)
    else:
        distances = [float(np.sqrt(np.mean((x - exact) ** 2))) for x in (found, learner)]
        assert 0.005 < distances[1] < 0.05 and 0.5 < distances[0] / distances[1] < 2.0


# -- the embedded engine's own promises -----------------------------------------------------------------------------


def test_rollouts_come_when_they_end_and_together_in_the_order_of_their_ids() -> None:
    rollouts = list(run(embedded(DECODER), make_requests(10)).values())
    assert [(r.num_tokens, r.id) for r in rollouts] == sorted((r.num_tokens, r.id) for r in rollouts)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.5), Sampling(1.2, top_p=0.8), Sampling(1.2, top_p=0.9, top_k=4)], ids=str
)
def test_tokens_invert_the_cumulative_distribution_at_the_draws_of_their_positions(sampling: Sampling) -> None:
    """The sampler again, in numpy and double precision, from the learner's distribution and the request's seed."""
    requests = make_requests(6, sampling=sampling)
    rollouts = run(embedded(DECODER), requests)
    for request in requests:
        rollout = rollouts[request.id]
        probs = reference_logprobs(DECODER, rollout, sampling.temperature).double().exp().numpy()
        draws = uniforms(request.seed, 0, rollout.num_tokens)
        expected = [invert(p, draw, sampling) for p, draw in zip(probs, draws, strict=True)]
        assert rollout.response_ids.tolist() == expected


def invert(probs: Any, draw: float, sampling: Sampling) -> int:
    ranked = sorted(range(len(probs)), key=lambda token: -probs[token])
    kept, mass = set(), 0.0
    for rank, token in enumerate(ranked):
        if mass >= sampling.top_p or (sampling.top_k and rank >= sampling.top_k):
            break
        kept.add(token)
        mass += probs[token]
    reached = 0.0
    for token, p in enumerate(probs):
        reached += p if token in kept else 0.0
        if reached > draw * mass:
            return token
    raise AssertionError("the draw lies beyond the distribution")


def draw(probs: Sequence[float], draws: Any, *, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> tuple[Any, Any]:
    """Tokens and log-probs for these draws from one distribution."""
    at = torch.as_tensor(draws, dtype=torch.float32)
    logits = torch.tensor(probs).log().repeat(len(at), 1)
    restrictions = [(slot, top_p, top_k) for slot in range(len(at))] if top_p < 1 or top_k else []
    tokens, logprobs = draw_tokens(logits, torch.full((len(at),), temperature), at, restrictions)
    return tokens.tolist(), logprobs.tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (0.05, 0.3, 0.0, 0.1, 0.25, 0.2, 0.1)),
        # temperature 0.5 squares and normalizes: .0025 .09 0 .01 .0625 .04 .01 over their sum .215
        ({"temperature": 0.5}, (0.0025 / 0.215, 0.09 / 0.215, 0.0, 0.01 / 0.215, 0.0625 / 0.215, 0.04 / 0.215, 0.01 / 0.215)),
        # .3 and .25 make .55 < .7, so .2 still belongs
        ({"top_p": 0.7}, (0.0, 0.3 / 0.75, 0.0, 0.0, 0.25 / 0.75, 0.2 / 0.75, 0.0)),
        ({"top_k": 2}, (0.0, 0.3 / 0.55, 0.0, 0.0, 0.25 / 0.55, 0.0, 0.0)),
    ],
)
def test_frequencies_match_probabilities(settings: dict[str, Any], expected: tuple[float, ...]) -> None:
    count = 20_000
    tokens, logprobs = draw((0.05, 0.3, 0.0, 0.1, 0.25, 0.2, 0.1), uniforms(11, 0, count), **settings)
    observed = np.bincount(tokens, minlength=7)
    possible = np.array(expected) > 0
    assert observed[~possible].sum() == 0
    chi_square = ((observed - count * np.array(expected))[possible] ** 2 / (count * np.array(expected)[possible])).sum()
    # the 99.9 % quantile of chi-square for 1 to 5 degrees of freedom
    assert chi_square < (10.83, 13.82, 16.27, 18.47, 20.52)[possible.sum() - 2]
    whole = np.array((0.05, 0.3, 0.0, 0.1, 0.25, 0.2, 0.1)) ** (1 / settings.get("temperature", 1.0))
    np.testing.assert_allclose(np.exp(logprobs), (whole / whole.sum())[tokens], rtol=1e-5)


def test_draws_at_the_edges() -> None:
    """0 takes the first token with mass, the last number below 1 and its rounding to 1 the last one; a bound goes up."""
    last = float(np.nextafter(1.0, 0.0))
    draws = (0.0, 0.2499, 0.25, 0.7499, 0.75, float(np.nextafter(np.float32(1), np.float32(0))), last, 1.0)
    assert draw((0.0, 0.25, 0.0, 0.5, 0.25, 0.0), draws)[0] == [1, 1, 3, 3, 4, 4, 4, 4]
    assert draw((0.0, 0.25, 0.0, 0.5, 0.25, 0.0), draws, top_k=1)[0] == [3] * 8
    assert draw((0.0, 0.0, 1.0), draws)[0] == [2] * 8
    assert draw((1.0, 0.0, 0.0), draws)[0] == [0] * 8


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50), st.floats(0, 1), st.floats(0.01, 1), st.integers(0, 5))
@settings(max_examples=100)
def test_a_token_without_probability_is_never_drawn(weights: list[float], at: float, top_p: float, top_k: int) -> None:
    weights[len(weights) // 2] = 0.5  # one has mass
    kept = [w if w > 1e-6 else 0.0 for w in weights]
    (token,), (logprob,) = draw([w / sum(kept) for w in kept], [at], top_p=top_p, top_k=top_k)
    assert kept[token] > 0 and logprob == pytest.approx(np.log(kept[token] / sum(kept)), abs=1e-5)


def test_of_equals_the_first_tokens_are_kept() -> None:
    for top in ({"top_k": 128}, {"top_p": 0.25}):
        assert set(draw((1 / 512,) * 512, np.linspace(0, 1, 1024), **top)[0]) == set(range(128))


def test_the_cache_keeps_to_its_budget_when_longer_requests_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for eight rollouts of 30 tokens or two of 120; the long ones come while short ones run."""
    asked, per_token = [], SlotCache.bytes_per_token(DECODER.config, torch.float32)
    reserve = SlotCache.reserve

    def watched(cache: SlotCache, rows: int, length: int) -> None:
        reserve(cache, rows, length)
        asked.append(max(rows, cache.keys[0].shape[0]) * length * per_token)

    monkeypatch.setattr(SlotCache, "reserve", watched)
    short = [make_request(g, max_tokens=3 if g < 5 else 22, prompt=8) for g in range(8)]
    long = [make_request(g, max_tokens=100, prompt=20) for g in range(20, 25)]
    engine, found = embedded(DECODER, cache_gb=240.5 * per_token / 2**30), {}
    for request in short:
        engine.submit(request)
    for rollout in engine.finished():
        if not found:
            for request in long:
                engine.submit(request)
        found[rollout.id] = rollout
    assert max(asked) <= 240 * per_token
    for request in (*short, *long):
        check_equal(found[request.id], run(embedded(DECODER), [request])[request.id])


def test_prompts_of_a_group_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from longthink.engines import embedded as module

    sizes: list[int] = []
    run_layers = module.run_layers
    monkeypatch.setattr(module, "run_layers", lambda layers, x, *a, **k: sizes.append(len(x)) or run_layers(layers, x, *a, **k))
    run(embedded(DECODER), [make_request(g, s, prompt=10, max_tokens=1) for g in range(3) for s in range(5)])
    # 3 prompts but for their last token, then one step of 15 rows
    assert sizes == [3 * 9, 15]


def test_rows_that_ended_are_soon_no_longer_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt token each, so every call is a step; up to 15 idle rows fill the shape, one in twenty waits to be dropped."""
    from longthink.engines import embedded as module

    sizes: list[int] = []
    run_layers = module.run_layers
    monkeypatch.setattr(module, "run_layers", lambda layers, x, *a, **k: sizes.append(len(x)) or run_layers(layers, x, *a, **k))
    lengths = [r.num_tokens for r in run(embedded(DECODER), [make_request(g, prompt=1) for g in range(100)]).values()]
    assert len(sizes) == max(lengths) and all(later <= earlier for earlier, later in pairwise(sizes))
    for step, size in enumerate(sizes):
        alive = sum(length > step for length in lengths)
        assert alive <= size <= max(alive + 15, alive / 0.95)
