"""Four updates in float64, pinned: a change of any digit is a change of the arithmetic and must be meant.

The numbers were written down after the same code agreed with the naive learner of tests/learners/test_local.py.
Nothing here depends on how a library draws random numbers: weights and tokens come from hashed uniforms.
"""

import math

import numpy as np
import pytest
import torch

from longthink.advantage import advantages
from longthink.learners.local import LocalLearner
from longthink.model import Decoder, ModelConfig
from longthink.rng import derive_seed, uniforms
from longthink.tables import AdvantageSettings, LearnerSettings, LossSettings
from longthink.types import Batch, Group, Problem, Rollout, RolloutId, Sampling, Segment, Verdict

VOCAB, TEMPERATURE = 16, 0.6
LOSS = LossSettings(kl=0.05, entropy=0.01, clip_low=0.2, clip_high=0.28, aggregation="token_mean")
SETTINGS = LearnerSettings(lr=0.02, warmup_updates=2, grad_clip=0.5, microbatch_tokens=40, head_chunk=16)
REWARDS = [
    [[1, 0, 0, 0], [1, 1, 0, 1]],
    [[0, 0, 0, 0], [0, 1, 0, 0.1]],
    [[1, 0, 1, 0], [0, 0, 0, 1]],
    [[1, 1, 1, 0], [1, 0, 1, 1]],
]


def draw(count, *names):
    return uniforms(derive_seed(0, "golden", *names), 0, count)


def golden_decoder():
    raw = {
        "model_type": "qwen3",
        "vocab_size": VOCAB,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    decoder = Decoder(ModelConfig.from_dict(raw)).to(torch.float64)
    with torch.no_grad():
        for name, p in decoder.named_parameters():
            values = torch.from_numpy(draw(p.numel(), name)).view(p.shape)
            p.copy_(0.5 + values if p.ndim == 1 else values - 0.5)
    return decoder


def golden_batch(step):
    """Two groups of four rollouts of 3 to 12 tokens, said to come from a sampler near the uniform one."""
    groups = []
    for g, rewards in enumerate(REWARDS[step]):
        problem, prompt = Problem(str(g), (), None), np.array([1, 2 + g, 3 + step])
        rollouts = []
        for k in range(len(rewards)):
            u = draw(25, step, g, k)
            n = 3 + int(10 * u[24])
            sampled = (-math.log(VOCAB) + 1.2 * (u[12 : 12 + n] - 0.5)).astype(np.float32)
            segment = Segment("policy", (VOCAB * u[:n]).astype(np.int64), sampled)
            rollouts.append(Rollout(RolloutId(g, k), problem, prompt, (segment,), "stop", Sampling(TEMPERATURE), 12))
        verdicts = tuple(Verdict(float(r), "ok") for r in rewards)
        groups.append(Group(problem, tuple(rollouts), verdicts, tuple(map(float, rewards))))
    return Batch.of(groups)


def checksum(decoder):
    """Two sums over all weights: their squares, and each times a wave of its place, which sees a swap."""
    flat = torch.cat([p.detach().flatten() for p in decoder.parameters()]).numpy()
    return math.fsum(flat**2), math.fsum(flat * np.cos(np.arange(len(flat))))


KEYS = (
    "loss/policy/sum",
    "loss/clip_fraction/mean",
    "loss/kl/mean",
    "learner/kl_k1_old/mean",
    "learner/grad_norm/mean",
    "learner/lr/mean",
    "policy/entropy/mean",
    "policy/sampled_nll/mean",
    "mismatch/logprob_gap/mean",
    "mismatch/logprob_gap/max",
)
GOLDEN = [  # one row an update, in the order of KEYS
    [
        0.470161796903,
        0.425531914894,
        0.0,
        1.247642946222,
        2.024193262882,
        0.01,
        1.41523664998,
        3.946343313359,
        1.703902216713,
        5.5116522545,
    ],
    [
        0.244897007212,
        0.315789473684,
        0.331348829873,
        0.686438538647,
        1.290862069167,
        0.02,
        2.116613620564,
        3.401616902848,
        1.18066892345,
        4.574484368848,
    ],
    [
        0.148181334085,
        0.546875,
        0.490809678719,
        0.528245124647,
        1.210535951149,
        0.02,
        2.187198247645,
        3.214713968018,
        1.080488948235,
        4.239108271989,
    ],
    [
        0.363064408141,
        0.403225806452,
        0.786628065823,
        0.75682894853,
        1.699390000111,
        0.02,
        2.075892908176,
        3.576818233691,
        1.214752922232,
        5.524163726984,
    ],
]
WEIGHTS = (152.994141222843, 1.335190565992)


def golden_run():
    learner = LocalLearner(golden_decoder(), SETTINGS, dtype=torch.float64)
    learner.freeze_reference()
    rows = []
    for step in range(4):
        batch = learner.logprobs(golden_batch(step), LOSS, TEMPERATURE)
        row = learner.update(advantages(batch, AdvantageSettings()), LOSS, TEMPERATURE).means()
        rows.append([row[key] for key in KEYS])
    return rows, checksum(learner.decoder)


def test_four_updates_repeat_to_nine_digits():
    rows, sums = golden_run()
    for row, pinned in zip(rows, GOLDEN, strict=True):
        assert dict(zip(KEYS, row, strict=True)) == pytest.approx(dict(zip(KEYS, pinned, strict=True)), rel=0, abs=1e-9)
    assert sums == pytest.approx(WEIGHTS, rel=0, abs=1e-9)


def test_the_pinned_run_is_worth_pinning():
    clipped, kl = (KEYS.index(k) for k in ("loss/clip_fraction/mean", "loss/kl/mean"))
    assert all(0.1 < row[clipped] < 0.9 for row in GOLDEN)
    assert all(row[kl] > 1e-4 for row in GOLDEN[1:])
    assert checksum(golden_decoder()) != pytest.approx(WEIGHTS, rel=0, abs=1e-2)
