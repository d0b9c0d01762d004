"""The learner against a naive one (full logits, Python loops, autograd), and against itself cut otherwise.

Everything runs in float64, so "exact" means 1e-12.
"""

import copy
import functools
import itertools
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from longthink.advantage import advantages
from longthink.attention import Layout
from longthink.errors import LearnerError
from longthink.learners import local, packing
from longthink.learners.local import LocalLearner
from longthink.model import Decoder, ModelConfig
from longthink.schedules import learning_rate
from longthink.tables import AdvantageSettings, LearnerSettings, LossSettings
from longthink.types import Batch, Group, Problem, Rollout, RolloutId, Sampling, Segment, Verdict

VOCAB, TEMPERATURE = 20, 0.8
AGGREGATIONS = ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum")
SETTINGS = LearnerSettings(lr=1e-3, weight_decay=0.1, minibatch_prompts=2, epochs=2, grad_clip=1e6, microbatch_tokens=64)
LOSSES = [
    LossSettings(kind="grpo", aggregation=aggregation, kl=kl, entropy=entropy, clip_low=0.2, clip_high=0.28)
    for aggregation, kl, entropy in itertools.product(AGGREGATIONS, (0.0, 0.2), (0.0, 0.05))
] + [LossSettings(kind="nll", aggregation=aggregation) for aggregation in AGGREGATIONS]
LOSSES += [
    LossSettings(ratio="sequence", aggregation="seq_mean_token_mean"),
    LossSettings(ratio="sequence_mean", aggregation="token_mean", kl=0.2, kl_estimator="k2", clip_high=0.28),
    LossSettings(dual_clip=1.1, aggregation="constant", normalizer=7),
    LossSettings(kl=0.2, kl_estimator="k1", kl_schedule="cosine", kl_horizon=4),
    LossSettings(kl=0.2, kl_level="sequence"),
    LossSettings(kl=0.2, kl_level="sequence_mean", old_logprobs="learner", correction="truncate", correction_high=1.1),
    LossSettings(
        old_logprobs="learner", correction="mask", correction_low=0.9, correction_high=1.1, correction_level="sequence_mean"
    ),
    LossSettings(kl=0.2, kl_in="reward", entropy=0.05, entropy_target=3.0),
]
NAMES = ["-".join(f"{k}={v}" for k, v in x.model_dump(exclude_defaults=True).items()) or "default" for x in LOSSES]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=NAMES)


# -- a small model, a ragged batch ------------------------------------------------------------------------------


def tiny(seed=0, tied=False):
    raw = {
        "model_type": "qwen3",
        "vocab_size": VOCAB,
        "hidden_size": 12,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 6,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
    }
    decoder = Decoder(ModelConfig.from_dict(raw))
    decoder.init_weights(seed, std=0.4)
    with torch.no_grad():
        for name, p in decoder.named_parameters():
            if "norm" in name:
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + 1)))
    decoder.compute_dtype = torch.float64
    return decoder.to(torch.float64)


def learner(settings=SETTINGS, *, seed=0, tied=False, reference=None, **sharing):
    """A learner over a fresh copy of the tiny model, with a reference part of the way to the model of another seed."""
    made = LocalLearner(tiny(seed, tied), settings, dtype=torch.float64, **sharing)
    if reference is not None:
        made.freeze_reference()
        with torch.no_grad():
            for p, q in zip(made.reference.parameters(), tiny(reference, tied).parameters(), strict=True):
                p.lerp_(q, 0.3)
    return made


def rollout(rng, group, sample, prompt, *shape):
    """Random tokens; shape is a row of (source, length)."""
    segments = tuple(
        Segment(source, rng.integers(0, VOCAB, n), np.zeros(n, np.float32) if source == "policy" else None) for source, n in shape
    )
    return Rollout(RolloutId(group, sample), Problem(str(group), (), None), prompt, segments, "stop", Sampling(TEMPERATURE), 64)


SHAPES = [
    [[("policy", 3)], [("policy", 9)], [("policy", 4), ("tool", 3), ("policy", 2)]],
    [[("policy", 5)], [("policy", 1)]],  # equal rewards: no advantage
    [[("policy", 17)], [("tool", 4)], [("policy", 2)]],  # the second has no loss token
    [[("prefix", 2), ("policy", 6)], [("policy", 7)]],
    [[("policy", 2), ("tool", 1)], [("policy", 12)], [("policy", 1)], [("policy", 8)]],
]
REWARDS = [[1, 0, 0], [1, 1], [0, 1, 1], [0.5, 0], [0, 1, 0, 1]]


def make_batch(shapes=SHAPES, rewards=REWARDS, seed=3, noise=0.3):
    """A batch sampled by a policy `noise` away from the tiny model in its log-probs, so that clips are met."""
    rng = np.random.default_rng(seed)
    groups = []
    for g, (members, rs) in enumerate(zip(shapes, rewards, strict=True)):
        prompt = rng.integers(0, VOCAB, 2 + g)
        rollouts = tuple(rollout(rng, g, k, prompt, *shape) for k, shape in enumerate(members))
        groups.append(Group(rollouts[0].problem, rollouts, tuple(Verdict(float(r), "ok") for r in rs), tuple(map(float, rs))))
    batch = Batch.of(groups)
    with torch.no_grad():
        own = np.concatenate([token_logprobs(tiny(), ids)[0].numpy() for ids in rows_of(batch)])
    drawn = np.where(batch.loss_mask, own + noise * rng.standard_normal(len(own)), 0.0).astype(np.float32)
    return advantages(batch.with_(sampler_logprobs=drawn), AdvantageSettings())


def rows_of(batch):
    return [batch.tokens[a:b] for a, b in itertools.pairwise(batch.offsets)]


# -- the naive learner ------------------------------------------------------------------------------------------


def token_logprobs(decoder, tokens, temperature=TEMPERATURE):
    """Log-prob of each token and entropy of the distribution it came from, [T]; 0 for the first. All logits at once."""
    hidden = decoder(torch.from_numpy(tokens), Layout.of([[len(tokens)]]))
    table = torch.log_softmax(hidden @ decoder.head_weight.T / temperature, dim=-1)[:-1]
    first = torch.zeros(1, dtype=torch.float64)
    return torch.cat([first, table[range(len(table)), tokens[1:]]]), torch.cat([first, -(table.exp() * table).sum(-1)])


def token_loss(loss, logprob, entropy, advantage, log_ratio, away, drift, kl):
    """The loss of one token, branch by branch, and what is measured of it.

    `log_ratio` is to the old policy, `away` to the reference, `drift` from the sampler to the old policy, each at its level.
    """
    if loss.kind == "nll":
        return -logprob, {}
    ratio = log_ratio.exp()
    clipped = (advantage > 0 and ratio > 1 + loss.clip_high) or (advantage < 0 and ratio < 1 - loss.clip_low)
    bound = 1 + loss.clip_high if advantage > 0 else 1 - loss.clip_low
    policy = -bound * advantage * torch.ones((), dtype=torch.float64) if clipped else -ratio * advantage
    if loss.dual_clip and advantage < 0 and policy > -loss.dual_clip * advantage:
        policy, clipped = torch.tensor(-loss.dual_clip * advantage, dtype=torch.float64), True
    total, parts = policy, {"clipped": float(clipped)}
    if loss.correction != "none":
        factor = math.exp(drift)
        if loss.correction == "truncate":
            factor = loss.correction_high if factor > loss.correction_high else factor
        elif factor < loss.correction_low or factor > loss.correction_high:
            factor = 0.0
        total = total * factor
        parts["corrected"], parts["drift"] = float(abs(factor - math.exp(drift)) > 1e-9), math.exp(drift)
    if loss.kl:
        d = away * -1.0
        k = {"k1": -d, "k2": d * d / 2, "k3": d.exp() - d - 1}[loss.kl_estimator]
        k = k if k < 10 or loss.kl_estimator == "k1" else torch.tensor(10.0, dtype=torch.float64)
        total = total + (kl * k if loss.kl_in == "loss" else 0.0)
        parts["kl"] = k.item()
    return total - loss.entropy * entropy, parts


def at_level(level, above, below):
    """The log ratios of one response's tokens: each its own, or one for all."""
    each = [a - b for a, b in zip(above, below, strict=True)]
    if level == "token" or not each:
        return each
    return [sum(each) / (len(each) if level == "sequence_mean" else 1)] * len(each)


def naive_loss(decoder, batch, members, loss, kl):
    """The mini-batch's loss as the papers write it, and the facts of each token."""
    per_sequence, facts = [], []
    for row in members:
        logprobs, entropies = token_logprobs(decoder, rows_of(batch)[row])
        losses = []
        places = [i for i, at in enumerate(range(batch.offsets[row], batch.offsets[row + 1])) if batch.loss_mask[at]]
        own = [logprobs[i] for i in places]
        old, reference, sampler, advantages = (
            [0.0 if a is None else float(a[batch.offsets[row] + i]) for i in places]
            for a in (batch.old_logprobs, batch.reference_logprobs, batch.sampler_logprobs, batch.advantages)
        )
        ratios = at_level(loss.ratio, own, old)
        aways, drifts = at_level(loss.kl_level, own, reference), at_level(loss.correction_level, old, sampler)
        for number, (place, advantage) in enumerate(zip(places, advantages, strict=True)):
            here = (ratios[number], aways[number], drifts[number])
            value, parts = token_loss(loss, logprobs[place], entropies[place], advantage, *here, kl)
            losses.append(value)
            facts.append({"entropy": entropies[place].item(), "nll": -logprobs[place].item(), "advantage": advantage, **parts})
        per_sequence.append(losses)
    every, num = sum(len(losses) for losses in per_sequence), sum(bool(losses) for losses in per_sequence)
    match loss.aggregation:
        case "token_mean":
            total = sum(sum(losses) for losses in per_sequence) / every
        case "seq_mean_token_mean":
            total = sum(sum(losses) / len(losses) for losses in per_sequence if losses) / num
        case "seq_mean_token_sum":
            total = sum(sum(losses) for losses in per_sequence) / num
        case "constant":
            total = sum(sum(losses) for losses in per_sequence) / num / loss.normalizer
    return total, facts


def naive_update(made, batch, loss, settings):
    """Every update by hand on a copy of the learner's model: its weights, last gradients, losses, facts, norms."""
    decoder = copy.deepcopy(made.decoder)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)
    losses, facts, norms = [], [], []
    for _ in range(settings.epochs):
        for first in range(0, batch.num_groups, settings.minibatch_prompts or batch.num_groups):
            prompts = range(first, first + (settings.minibatch_prompts or batch.num_groups))
            members = [row for row in range(len(batch)) if batch.group[row] in prompts]
            done = made.updates + len(losses)
            annealed = 0.5 * (1 + math.cos(math.pi * min(done / loss.kl_horizon, 1))) if loss.kl_horizon else 1.0
            total, found = naive_loss(decoder, batch, members, loss, loss.kl * annealed)
            optimizer.zero_grad()
            total.backward()
            norm = math.sqrt(sum(float((p.grad**2).sum()) for p in decoder.parameters()))
            if norm > settings.grad_clip:
                for p in decoder.parameters():
                    p.grad *= settings.grad_clip / (norm + 1e-6)  # torch adds the 1e-6
            optimizer.step()
            losses.append(float(total.detach()))
            facts.append(found)
            norms.append(norm)
    return decoder, losses, facts, norms


# -- comparisons ------------------------------------------------------------------------------------------------


def trained(batch, loss, settings=SETTINGS, times=1, **making):
    """A learner after `times` batches, with the metrics of the last."""
    made = learner(settings, reference=9 if loss.kl else None, **making)
    for _ in range(times):
        sums = made.update(made.logprobs(batch, loss, TEMPERATURE), loss, TEMPERATURE)
    return made, sums.means()


ONE_PASS = SETTINGS.model_copy(update={"epochs": 1})


@functools.cache
def undisturbed(loss):
    """The learner after the usual batch, with its metrics; compared with and never changed."""
    return trained(make_batch(), loss, ONE_PASS)


def same(ours, theirs, *, atol=1e-12):
    """Weights and last gradients agree: AdamW alone would forgive a gradient of the wrong size."""
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=atol, msg=lambda m, n=name: f"gradient of {n}: {m}")


def bitwise(ours, theirs):
    return all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


@every_loss
def test_updates_equal_the_naive_ones(loss):
    batch = make_batch()
    made = learner(reference=9 if loss.kl else None)
    batch = made.logprobs(batch, loss, TEMPERATURE)
    decoder, losses, facts, norms = naive_update(made, batch, loss, SETTINGS)
    row = made.update(batch, loss, TEMPERATURE).means()
    same(made.decoder, decoder)
    assert made.updates == len(losses) == 6  # five prompts two by two, twice
    assert row["learner/updates/sum"] == 6
    assert row["learner/lr/mean"] == pytest.approx(1e-3)
    assert row["learner/grad_norm/mean"] == pytest.approx(np.mean(norms), abs=1e-12)
    seen = [f for found in facts for f in found if loss.kind == "nll" or loss.kl or loss.entropy or f["advantage"]]

    def mean(key):
        return pytest.approx(np.mean([f[key] for f in seen]), abs=1e-12)

    assert row["policy/entropy/mean"] == mean("entropy")
    assert row["policy/sampled_nll/mean"] == mean("nll")
    if loss.kind == "grpo":
        assert row["loss/clip_fraction/mean"] == mean("clipped")
        assert loss.old_logprobs == "learner" or 0.05 < row["loss/clip_fraction/mean"] < 0.9  # the case is worth testing
    if loss.correction != "none":
        assert row["mismatch/corrected_share/mean"] == mean("corrected")
        assert row["mismatch/ratio/mean"] == mean("drift")
        assert 0.05 < row["mismatch/corrected_share/mean"] < 0.95
    if loss.kind == "grpo" and not loss.kl and not loss.entropy and loss.correction == "none":
        assert row["loss/policy/sum"] == pytest.approx(sum(losses), abs=1e-12)
    if loss.kl:
        assert row["loss/kl/mean"] == mean("kl")
        some = 0 < sum(f["kl"] == 10 for f in seen) < len(seen) / 3  # tokens that meet the clamp
        assert some or loss.kl_estimator == "k1" or loss.kl_level != "token"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "change", [{"grad_clip": 0.01}, {"minibatch_prompts": 0, "epochs": 1}, {"betas": (0.5, 0.9), "weight_decay": 0.0}]
)
def test_other_settings_equal_the_naive_learner_too(change, tied):
    loss, settings = LossSettings(kl=0.2, entropy=0.05), SETTINGS.model_copy(update=change)
    made = learner(settings, tied=tied, reference=9)
    batch = made.logprobs(make_batch(), loss, TEMPERATURE)
    decoder, losses, _, norms = naive_update(made, batch, loss, settings)
    row = made.update(batch, loss, TEMPERATURE).means()
    same(made.decoder, decoder)
    assert made.updates == len(losses)
    assert row["learner/grad_norm/mean"] == pytest.approx(np.mean(norms), abs=1e-12)  # as it was before clipping


MIDDLE = {"microbatch_tokens": 40, "checkpoint_layers": True, "head_chunk": 5}
ENDS = [{"microbatch_tokens": 1}, {"microbatch_tokens": 100_000, "head_chunk": 1}]  # every row alone, and all at once


@pytest.mark.parametrize(
    ("loss", "change"),
    [
        *(pytest.param(loss, MIDDLE, id=name) for name, loss in zip(NAMES, LOSSES, strict=True)),
        *(
            pytest.param(loss, change, id=f"{name}-{change['microbatch_tokens']}", marks=() if i % 5 == 0 else pytest.mark.full)
            for i, (name, loss) in enumerate(zip(NAMES, LOSSES, strict=True))
            for change in ENDS
        ),
    ],
)
def test_what_only_changes_memory_changes_no_update(loss, change):
    (one, row), (other, other_row) = undisturbed(loss), trained(make_batch(), loss, ONE_PASS.model_copy(update=change))
    same(other.decoder, one.decoder)
    assert other_row == pytest.approx(row, abs=1e-11)


@every_loss
def test_padding_changes_no_update(loss, monkeypatch):
    one, row = undisturbed(loss)
    monkeypatch.setattr(packing, "MAX_PADDING", 1.0)  # all rows as wide as the longest
    other, other_row = trained(make_batch(), loss, ONE_PASS.model_copy(update={"microbatch_tokens": 10_000}))
    same(other.decoder, one.decoder)
    assert other_row == pytest.approx(row, abs=1e-11)


@pytest.mark.parametrize(("width", "total"), [(1, 1), (3, 1), (1, 50)])
@pytest.mark.parametrize("loss", [LossSettings(kl=0.2, entropy=0.05), LossSettings(kind="nll")])
def test_rounding_up_blocks_and_micro_batches_changes_no_update(loss, width, total, monkeypatch):
    monkeypatch.setattr(local, "WIDTH", width)
    monkeypatch.setattr(local, "TOTAL", total)
    batch = make_batch()
    other, other_row = trained(batch, loss, ONE_PASS)
    monkeypatch.undo()
    one, row = trained(batch, loss, ONE_PASS)
    same(other.decoder, one.decoder)
    assert other_row == pytest.approx(row, abs=1e-11)


@every_loss
def test_the_order_of_rollouts_inside_a_group_changes_no_update(loss):
    batch = make_batch()
    turned = np.concatenate([np.flatnonzero(batch.group == g)[::-1] for g in range(batch.num_groups)])
    (one, row), (other, other_row) = undisturbed(loss), trained(batch.select(turned), loss, ONE_PASS)
    same(other.decoder, one.decoder)
    assert other_row == pytest.approx(row, abs=1e-11)


class ThreadSum:
    """Adds the gradients of learners in several threads, in rank order, as the ranks of a cluster do."""

    def __init__(self, world):
        self.barrier = threading.Barrier(world, timeout=60)
        self.parts = [None] * world
        self.calls = 0

    def of(self, rank):
        def reduce(grads):
            self.parts[rank] = [g.clone() for g in grads]
            self.barrier.wait()
            for index, g in enumerate(grads):
                g.copy_(sum(part[index] for part in self.parts))
            self.calls += rank == 0
            self.barrier.wait()

        return reduce


def sharded(world, batch, loss, settings):
    """The learners of `world` ranks after one batch, with their merged metrics."""
    shared = ThreadSum(world)
    made = [learner(settings, reference=9 if loss.kl else None, rank=r, world=world, reduce=shared.of(r)) for r in range(world)]

    parts = [one.logprobs(batch, loss, TEMPERATURE) for one in made]  # each its share of the rows, 0 elsewhere
    if loss.kl:
        batch = batch.with_(reference_logprobs=sum(part.reference_logprobs for part in parts))
    whole = parts[0].old_logprobs if loss.old_logprobs == "sampler" else sum(part.old_logprobs for part in parts)
    batch = batch.with_(old_logprobs=whole)

    def work(one):
        try:
            return one.update(batch, loss, TEMPERATURE)
        except BaseException:
            shared.barrier.abort()
            raise

    with ThreadPoolExecutor(world) as pool:
        first, *others = list(pool.map(work, made))
    for sums in others:
        first.merge(sums.settle())
    assert shared.calls == made[0].updates
    return made, first.means()


@pytest.mark.parametrize(
    ("loss", "world"),
    [(loss, 2) for loss in LOSSES] + [(LOSSES[0], 3), (LOSSES[3], 3)],
    ids=[*NAMES, "three", "three-kl-entropy"],
)
def test_learners_that_share_the_rows_equal_one(loss, world):
    one, row = undisturbed(loss)
    ranks, merged = sharded(world, make_batch(), loss, ONE_PASS)
    for rank in ranks:
        same(rank.decoder, one.decoder)
    assert all(bitwise(rank.decoder, ranks[0].decoder) for rank in ranks)  # they never drift apart
    assert merged == pytest.approx(row, abs=1e-11)


def test_a_rank_without_a_row_still_takes_part():
    # one row has an advantage, so the second of two ranks has nothing to do but add zeros
    loss, settings = LossSettings(), SETTINGS.model_copy(update={"minibatch_prompts": 0})
    batch = make_batch()
    only = np.where(batch.row == 0, batch.advantages, 0).astype(np.float32)
    batch = batch.with_(advantages=only)
    one, row = trained(batch, loss, settings)
    ranks, merged = sharded(2, batch, loss, settings)
    same(ranks[0].decoder, one.decoder)
    same(ranks[1].decoder, one.decoder)
    assert merged == pytest.approx(row, abs=1e-11)


# -- log-probs --------------------------------------------------------------------------------------------------


def test_logprobs_are_those_of_the_full_logits_and_zero_off_the_mask():
    batch, made = make_batch(), learner()
    found = made.token_logprobs(made.decoder, batch, TEMPERATURE)
    with torch.no_grad():
        expected = np.concatenate([token_logprobs(made.decoder, ids)[0].numpy() for ids in rows_of(batch)])
    assert found.dtype == np.float32
    assert (found[~batch.loss_mask] == 0).all()
    np.testing.assert_allclose(found[batch.loss_mask], expected[batch.loss_mask], rtol=1e-6)


def test_a_first_token_has_no_logprob():
    batch, made = make_batch(), learner()
    batch = batch.with_(loss_mask=np.ones(len(batch.tokens), bool))
    found = made.token_logprobs(made.decoder, batch, TEMPERATURE)
    with torch.no_grad():
        expected = np.concatenate([token_logprobs(made.decoder, ids)[0].numpy() for ids in rows_of(batch)])
    assert (found[batch.offsets[:-1]] == 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_much_longer_rollout_changes_no_other_rows_logprobs(monkeypatch):
    monkeypatch.setattr(packing, "MAX_PADDING", 1.0)  # into the same block
    settings = SETTINGS.model_copy(update={"microbatch_tokens": 10_000})
    longer = make_batch([*SHAPES, [[("policy", 150)]]], [*REWARDS, [1]])
    batch = make_batch()
    assert (longer.tokens[: len(batch.tokens)] == batch.tokens).all()
    made = learner(settings)
    found, alone = made.token_logprobs(made.decoder, longer, TEMPERATURE), made.token_logprobs(made.decoder, batch, TEMPERATURE)
    np.testing.assert_allclose(found[: len(alone)], alone, rtol=0, atol=1e-6)


def test_old_logprobs_are_the_samplers_and_the_reference_is_scored_only_for_a_kl():
    batch, made = make_batch(), learner(reference=9)
    plain = made.logprobs(batch, LossSettings(), TEMPERATURE)
    assert plain.old_logprobs is batch.sampler_logprobs
    assert plain.reference_logprobs is None
    scored = made.logprobs(batch, LossSettings(kl=0.1), TEMPERATURE)
    assert scored.old_logprobs is batch.sampler_logprobs
    assert (scored.reference_logprobs == made.token_logprobs(made.reference, batch, TEMPERATURE)).all()
    assert not (scored.reference_logprobs == made.token_logprobs(made.decoder, batch, TEMPERATURE)).all()


def test_a_kl_without_a_reference_is_refused():
    with pytest.raises(LearnerError, match="needs a reference policy"):
        learner().logprobs(make_batch(), LossSettings(kl=0.1), TEMPERATURE)


def test_old_logprobs_stay_the_samplers_through_all_updates_of_a_batch():
    # on-policy at first: the first epoch clips nothing; large steps later leave the bounds set by the sampler
    batch = make_batch(noise=0.0)
    loss, one = LossSettings(), SETTINGS.model_copy(update={"lr": 0.05, "minibatch_prompts": 0, "epochs": 1})
    made, row = trained(batch, loss, one)
    assert row["loss/clip_fraction/mean"] == 0
    assert row["learner/kl_k1_old/mean"] == pytest.approx(0, abs=1e-6)
    assert row["mismatch/logprob_gap/max"] == pytest.approx(0, abs=1e-6)
    again = made.update(made.logprobs(batch, loss, TEMPERATURE), loss, TEMPERATURE).means()
    assert again["loss/clip_fraction/mean"] > 0.2
    both, _ = trained(batch, loss, one.model_copy(update={"epochs": 2}))
    same(both.decoder, made.decoder)


def test_the_mismatch_is_the_distance_to_the_sampler():
    batch = make_batch(noise=0.0)
    batch = batch.with_(sampler_logprobs=(batch.sampler_logprobs - 0.25).astype(np.float32))
    loss, settings = LossSettings(clip_high=1.0), SETTINGS.model_copy(update={"minibatch_prompts": 0, "epochs": 1})
    _, row = trained(batch, loss, settings)
    assert row["mismatch/logprob_gap/mean"] == pytest.approx(0.25, abs=1e-6)
    assert row["mismatch/logprob_gap/max"] == pytest.approx(0.25, abs=1e-6)
    assert row["learner/kl_k1_old/mean"] == pytest.approx(-0.25, abs=1e-6)


# -- what is skipped, what is masked ----------------------------------------------------------------------------


def counted(batch, loss, settings):
    """The learner after one batch, its metrics, and how often its decoder ran: once a row where rows stand alone."""
    made, seen = learner(settings), []
    made.decoder.register_forward_pre_hook(lambda *_: seen.append(1))
    row = made.update(made.logprobs(batch, loss, TEMPERATURE), loss, TEMPERATURE).means()
    return made, row, len(seen)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_rows_without_advantage_are_skipped_and_still_count(aggregation):
    batch = make_batch()
    settings = SETTINGS.model_copy(update={"microbatch_tokens": 1, "epochs": 1})
    loss = LossSettings(aggregation=aggregation)
    skipped, row, few = counted(batch, loss, settings)
    # an entropy bonus too small for any digit forbids skipping and changes nothing else
    whole, whole_row, many = counted(batch, loss.model_copy(update={"entropy": 1e-300}), settings)
    same(skipped.decoder, whole.decoder)
    assert row["loss/policy/sum"] == pytest.approx(whole_row["loss/policy/sum"], abs=1e-12)
    assert (batch.advantages[batch.group[batch.row] == 1] == 0).all()
    assert (few, many) == (11, 13)  # of 14 rows; one has no loss token, the equal pair no advantage


def test_a_batch_without_any_advantage_still_takes_its_updates():
    batch = make_batch(rewards=[[1] * len(members) for members in SHAPES])
    made, row = trained(batch, LossSettings())
    assert made.updates == 6
    assert row["learner/grad_norm/mean"] == 0.0
    before = tiny()
    for p, q in zip(made.decoder.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(p, q * (1 - 1e-3 * 0.1) ** 6, rtol=0, atol=1e-14)  # weight decay alone


@every_loss
def test_tool_tokens_are_context_and_never_a_target(loss):
    batch = make_batch()
    silent = ~batch.loss_mask
    garbage = np.where(silent, np.nan, 0).astype(np.float32)
    one, row = undisturbed(loss)
    made = learner(ONE_PASS, reference=9 if loss.kl else None)
    spoiled = made.logprobs(batch.with_(sampler_logprobs=batch.sampler_logprobs + garbage), loss, TEMPERATURE)
    spoiled = spoiled.with_(advantages=batch.advantages + garbage)
    if loss.kl:
        spoiled = spoiled.with_(reference_logprobs=spoiled.reference_logprobs + garbage)
    assert made.update(spoiled, loss, TEMPERATURE).means() == row
    assert bitwise(made.decoder, one.decoder)


def test_a_tool_segment_equals_policy_tokens_masked_by_hand():
    as_policy = [[[("policy", n) for _, n in shape] for shape in members] for members in SHAPES]
    tools, plain = make_batch(), make_batch(as_policy)
    assert plain.loss_mask.sum() > tools.loss_mask.sum()
    masked = plain.with_(loss_mask=tools.loss_mask, sampler_logprobs=tools.sampler_logprobs)
    loss = LossSettings(kl=0.1, entropy=0.05)
    (one, row), (other, other_row) = trained(tools, loss), trained(masked, loss)
    assert bitwise(one.decoder, other.decoder)
    assert row == other_row
    assert not bitwise(one.decoder, trained(plain.with_(sampler_logprobs=tools.sampler_logprobs), loss)[0].decoder)


@every_loss
def test_the_gradient_reaches_exactly_the_places_that_predict_a_policy_token(loss):
    shape = [[[("policy", 3), ("tool", 4), ("policy", 2), ("tool", 2)]], [[("policy", 5)]]]
    batch = make_batch(shape, [[1], [0]])
    batch = batch.with_(advantages=np.full(len(batch.tokens), 0.5, np.float32))
    settings = SETTINGS.model_copy(update={"minibatch_prompts": 0, "epochs": 1, "microbatch_tokens": 1})
    made, outputs = learner(settings, reference=9 if loss.kl else None), []

    def keep(decoder, args, hidden):
        if hidden.requires_grad:
            hidden.retain_grad()
            outputs.append(hidden)

    made.decoder.register_forward_hook(keep)
    made.update(
        made.logprobs(batch, loss, TEMPERATURE).with_(old_logprobs=made.token_logprobs(tiny(), batch, TEMPERATURE)),
        loss,
        TEMPERATURE,
    )
    longest, other = outputs
    # prompt of 2: its last token predicts the first of the response; p at the predictors of policy tokens
    for hidden, places in ((longest, ".ppp....pp..."), (other, "..ppppp.")):
        assert ["p" if g.any() else "." for g in hidden.grad[: len(places)]] == list(places)
        assert not hidden.grad[len(places) :].any()  # padding


# -- counting updates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minibatch_prompts", "epochs", "updates"),
    [(0, 1, 1), (0, 3, 3), (1, 1, 5), (2, 1, 3), (5, 2, 2), (3, 2, 4), (99, 1, 1)],
)
def test_minibatches_are_counted_in_prompts(minibatch_prompts, epochs, updates):
    settings = SETTINGS.model_copy(update={"minibatch_prompts": minibatch_prompts, "epochs": epochs})
    made, row = trained(make_batch(), LossSettings(), settings)
    assert made.updates == updates
    assert row["learner/updates/sum"] == updates


def rate(update, **settings):
    return learning_rate(update, LearnerSettings(**settings))


def test_learning_rate_constant_after_a_linear_warm_up():
    assert [rate(u, lr=1.0) for u in (0, 1, 999)] == [1.0, 1.0, 1.0]
    assert [rate(u, lr=2.0, warmup_updates=4) for u in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_learning_rate_cosine_ends_at_the_floor_and_stays_there():
    settings = {"lr": 1.0, "schedule": "cosine", "warmup_updates": 2, "total_updates": 10, "floor": 0.1}
    assert [rate(u, **settings) for u in (0, 1, 2)] == [0.5, 1.0, 1.0]  # the cosine begins at the full rate
    assert rate(4, **settings) == pytest.approx(0.1 + 0.9 * (0.5 + 0.5 * math.sqrt(0.5)))  # a quarter of the way
    assert rate(6, **settings) == pytest.approx(0.55)
    assert rate(8, **settings) == pytest.approx(0.1 + 0.9 * (0.5 - 0.5 * math.sqrt(0.5)))
    assert [rate(u, **settings) for u in (10, 11, 1000)] == pytest.approx([0.1] * 3)
    assert rate(10, **settings | {"floor": 0.0}) == pytest.approx(0.0, abs=1e-16)
    assert rate(10, **settings | {"floor": 1.0}) == pytest.approx(1.0)


def test_the_schedule_reaches_the_optimizer():
    settings = SETTINGS.model_copy(update={"warmup_updates": 4, "minibatch_prompts": 0, "epochs": 1, "weight_decay": 0.0})
    made, batch, loss = learner(settings), make_batch(), LossSettings()
    rates, given, taken = [], [], made.optimizer.step
    made.optimizer.step = lambda rate, *rest: (given.append(rate), taken(rate, *rest))
    for _ in range(5):
        before = [p.detach().clone() for p in made.decoder.parameters()]
        row = made.update(made.logprobs(batch, loss, TEMPERATURE), loss, TEMPERATURE).means()
        rates.append(row["learner/lr/mean"])
        if len(rates) == 1:  # Adam's first step has the size of the rate
            moved = [(p - q).abs().max().item() for p, q in zip(made.decoder.parameters(), before, strict=True)]
            assert max(moved) == pytest.approx(rates[0], rel=1e-3)
    assert rates == given == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])


def test_a_stages_rate_takes_the_place_of_the_recipes():
    batch, loss = make_batch(), LossSettings()
    made, other = learner(), learner(SETTINGS.model_copy(update={"lr": 5e-4}))
    slower = made.settings.model_copy(update={"lr": 5e-4})
    row = made.update(made.logprobs(batch, loss, TEMPERATURE), loss, TEMPERATURE, slower).means()
    other.update(other.logprobs(batch, loss, TEMPERATURE), loss, TEMPERATURE)
    assert row["learner/lr/mean"] == pytest.approx(5e-4)
    assert bitwise(made.decoder, other.decoder)


def test_checkpointed_layers_are_computed_twice(monkeypatch):
    from longthink import attention as module

    batch, calls, attention = make_batch(), [], module.causal_attention
    monkeypatch.setattr(module, "causal_attention", lambda *qkv: calls.append(1) or attention(*qkv))
    trained(batch, LossSettings())
    once = len(calls)
    trained(batch, LossSettings(), SETTINGS.model_copy(update={"checkpoint_layers": True}))
    assert len(calls) - once == 2 * once


# -- what must not go on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_were(value):
    loss, settings = LossSettings(), SETTINGS.model_copy(update={"minibatch_prompts": 0, "epochs": 1})
    batch = make_batch()
    bad = batch.with_(advantages=np.where(batch.row == 2, value, batch.advantages).astype(np.float32))
    made, untouched = trained(batch, loss, settings)[0], trained(batch, loss, settings)[0]
    with pytest.raises(LearnerError, match=r"update 1: the loss or its gradient is not finite \(norm nan\)"):
        made.update(made.logprobs(bad, loss, TEMPERATURE), loss, TEMPERATURE)
    assert bitwise(made.decoder, untouched.decoder)
    assert made.updates == 1
    for one in (made, untouched):  # and nothing of it is left in the optimizer
        one.update(one.logprobs(batch, loss, TEMPERATURE), loss, TEMPERATURE)
    assert bitwise(made.decoder, untouched.decoder)


# -- state ------------------------------------------------------------------------------------------------------

KL = LossSettings(kl=0.2)


def step(made, batch, loss=KL):
    return made.update(made.logprobs(batch, loss, TEMPERATURE), loss, TEMPERATURE).means()


@pytest.mark.parametrize("tied", [False, True])
def test_after_save_and_load_the_next_update_is_the_uninterrupted_one(tied, tmp_path):
    settings = SETTINGS.model_copy(update={"warmup_updates": 10, "schedule": "cosine", "total_updates": 30})
    batches = [make_batch(seed=s) for s in range(3)]
    made = learner(settings, tied=tied, reference=9)
    for batch in batches[:2]:
        step(made, batch)
    made.save(tmp_path)
    other = learner(settings, seed=5, tied=tied, reference=6)  # other weights, reference and optimizer
    step(other, batches[2])
    other.load(tmp_path)
    assert other.updates == made.updates == 12
    assert bitwise(other.decoder, made.decoder)
    assert bitwise(other.reference, made.reference)
    assert step(other, batches[2]) == step(made, batches[2])
    assert bitwise(other.decoder, made.decoder)


def test_a_learner_saved_before_its_first_update_loads_as_a_fresh_one(tmp_path):
    made, other = learner(), learner(seed=5)
    made.save(tmp_path)
    assert not (tmp_path / "reference.tensors").exists()
    step(other, make_batch(), LossSettings())
    other.load(tmp_path)
    assert other.updates == 0
    assert step(other, make_batch(), LossSettings()) == step(made, make_batch(), LossSettings())
    assert bitwise(other.decoder, made.decoder)


def test_saving_changes_nothing(tmp_path):
    made, other = learner(reference=9), learner(reference=9)
    for one in (made, other):
        step(one, make_batch())
    made.save(tmp_path)
    assert step(made, make_batch(seed=4)) == step(other, make_batch(seed=4))
    assert bitwise(made.decoder, other.decoder)


def test_weights_alone_can_be_loaded(tmp_path):
    made = learner(reference=9)
    step(made, make_batch())
    made.save(tmp_path)
    other = learner(seed=5)
    other.load(tmp_path, optimizer=False)
    assert bitwise(other.decoder, made.decoder)
    assert (other.reference, other.updates, other.optimizer.state) == (None, 0, [])


def test_reset_optimizer_forgets_moments_and_schedule():
    settings = SETTINGS.model_copy(update={"warmup_updates": 100})
    made = learner(settings)
    step(made, make_batch(), LossSettings())
    fresh = learner(settings)
    fresh.decoder.load_state_dict(made.decoder.state_dict())
    made.reset_optimizer()
    assert made.updates == 0
    assert step(made, make_batch(seed=4), LossSettings()) == step(fresh, make_batch(seed=4), LossSettings())
    assert bitwise(made.decoder, fresh.decoder)


def test_the_frozen_reference_stays_while_the_policy_moves():
    made = learner()
    made.freeze_reference()
    assert bitwise(made.reference, made.decoder)
    assert not any(p.requires_grad for p in made.reference.parameters())
    assert all(p.requires_grad for p in made.decoder.parameters())
    step(made, make_batch())
    assert bitwise(made.reference, tiny())
    assert not bitwise(made.decoder, tiny())
    made.freeze_reference()
    assert bitwise(made.reference, made.decoder)


def test_the_kl_is_zero_right_after_freezing_and_not_later():
    settings = SETTINGS.model_copy(update={"minibatch_prompts": 0, "epochs": 1})
    made, batch = learner(settings), make_batch()
    made.freeze_reference()
    first, second = step(made, batch), step(made, batch)
    # reference log-probs are kept in float32: d is a few 1e-8, and k3 is half its square
    assert 0 <= first["loss/kl/mean"] < 1e-14
    assert second["loss/kl/mean"] > 1e-8
    made.freeze_reference()
    assert 0 <= step(made, batch)["loss/kl/mean"] < 1e-14


def test_an_update_that_is_not_finite_may_be_skipped_and_is_counted():
    batch = make_batch()
    made = learner(ONE_PASS.model_copy(update={"non_finite": "skip"}))
    before = copy.deepcopy(made.decoder)
    bad = made.logprobs(batch, LossSettings(), TEMPERATURE)
    bad = bad.with_(
        advantages=np.where(bad.group[bad.row] < 2, np.inf, bad.advantages).astype(np.float32)
    )  # the first update of three
    row = made.update(bad, LossSettings(), TEMPERATURE).means()
    assert (row["learner/non_finite/sum"], row["learner/updates/sum"], made.updates) == (1, 2, 2)
    assert all(math.isfinite(value) for value in row.values())  # or the row could not be written
    assert all(torch.isfinite(p).all() for p in made.decoder.parameters()) and not bitwise(made.decoder, before)
