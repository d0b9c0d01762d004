"""Our formulas against numbers that verl's and OpenRLHF's own functions gave (benchmarks/formulas.py), and TRL's as published.

Where they agree we equal them to 2e-6, in value and gradient. Where they differ the option is named after what it does:
- verl leaves fully masked rows out of sequence means, and so do we (tests/learners/test_local.py).
- GRPO's epsilon is 1e-6 in verl, 1e-4 in TRL, 1e-9 in OpenRLHF: `advantage.epsilon`.
- verl gives a group of one its raw reward; ours gets 0.
- OpenRLHF clamps every KL estimate to +-10, verl k3 alone; ours k2 and k3, while k1 keeps its sign and d its clamp of 20.
- OpenRLHF's masked correction of whole responses keeps each token's own weight; ours has the response's.
- TRL multiplies the KL by the ratio unless told otherwise; ours never.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from longthink.advantage import advantages
from longthink.losses import correction, kl_estimate, sequence_ratio, surrogate, token_weights
from longthink.tables import AdvantageSettings
from longthink.types import Batch

FILE = json.loads((Path(__file__).parent / "peers.json").read_text())
ANSWERS = FILE["answers"]
MASK = np.array(FILE["inputs"]["mask"], bool)
LENGTHS = torch.tensor(MASK.sum(1))
ROW = torch.tensor(np.nonzero(MASK)[0])
LOSSES = [name for name in ANSWERS if name.split()[1] in ("token", "sequence_mean")]
TOLERANCE = 2e-6


def given(name):
    """An input at the trained tokens, row after row."""
    return torch.tensor(np.array(FILE["inputs"][name])[MASK], dtype=torch.float64)


def flat(matrix):
    return np.array(matrix)[MASK]


def our_loss(new, level, clips, mode, factor=1.0):
    low, high, dual = clips
    log_ratio = sequence_ratio(new - given("old"), ROW, level)
    per_token, _ = surrogate(log_ratio, given("advantages"), clip_low=low, clip_high=high, dual_clip=dual)
    weights = token_weights(ROW, LENGTHS, int(LENGTHS.sum()), len(LENGTHS), mode, MASK.shape[1] if mode == "constant" else 0)
    return (per_token * factor * weights).sum()


def compare(name, *args):
    new = given("new").requires_grad_(True)
    value = our_loss(new, *args)
    value.backward()
    assert float(value.detach()) == pytest.approx(ANSWERS[name]["loss"], abs=TOLERANCE)
    assert new.grad.numpy() == pytest.approx(flat(ANSWERS[name]["gradient"]), abs=TOLERANCE)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients(name):
    _, level, clips, mode = name.split()
    compare(name, level, [float(part) for part in clips.split("-")], mode)


def test_the_cases_meet_every_clip():
    """The comparison would mean little if no token were clipped on either side or by the dual clip."""
    log_ratio, chosen = given("new") - given("old"), given("advantages")
    ratio = log_ratio.exp()
    assert ((ratio > 1.4) & (chosen > 0)).any() and ((ratio < 0.8) & (chosen < 0)).any()
    _, single = surrogate(log_ratio, chosen, clip_low=0.2, clip_high=0.4)
    _, dual = surrogate(log_ratio * 4, chosen, clip_low=0.2, clip_high=0.4, dual_clip=3.0)
    assert dual.sum() > single.sum()


def test_truncated_importance_sampling_is_verls():
    factor = correction(given("old") - given("sampler"), "truncate", 0.0, 2.0)
    compare("verl truncate", "token", (0.2, 0.2, 0.0), "token_mean", factor)
    assert (factor == 2.0).any()


def test_the_token_mask_is_openrlhfs():
    factor = correction(given("old") - given("sampler"), "mask", 0.5, 2.0)
    compare("openrlhf mask", "token", (0.2, 0.2, 0.0), "token_mean", factor)
    assert (factor == 0.0).any()


@pytest.mark.parametrize("peer", ["verl", "openrlhf"])
@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimates_within_every_clamp(peer, kind):
    ours = kl_estimate(given("new") - given("reference"), kind).numpy()
    theirs = flat(ANSWERS[f"{peer} {kind}"])
    agree = np.abs(theirs) < 10
    assert ours[agree] == pytest.approx(theirs[agree], abs=TOLERANCE) and agree.mean() > 0.8


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("grpo", {"epsilon": 1e-6}),
        ("grpo without std", {"std": "none"}),
        ("rloo", {"std": "none", "baseline": "leave_one_out"}),
        ("reinforce++ baseline", {"std": "none", "whiten": True}),
    ],
)
def test_advantages_are_verls(name, settings):
    count = len(FILE["inputs"]["rewards"])
    lengths = MASK.sum(1)
    batch = Batch(
        tokens=np.zeros(lengths.sum(), np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        loss_mask=np.ones(lengths.sum(), np.bool_),
        sampler_logprobs=np.zeros(lengths.sum(), np.float32),
        rewards=np.array(FILE["inputs"]["rewards"]),
        group=np.array(FILE["inputs"]["groups"]),
        counted=np.ones(count, np.bool_),
    )
    ours = advantages(batch, AdvantageSettings(**settings)).advantages
    assert ours == pytest.approx(flat(ANSWERS[f"verl {name}"]), abs=TOLERANCE)


def trl(new, loss_type, epsilon=(0.2, 0.28)):
    """TRL 1.16's GRPO loss without KL: a padded matrix, one of four reductions, longest completion MASK.shape[1]."""
    padded, mask = np.zeros(MASK.shape), torch.tensor(MASK, dtype=torch.float64)
    place = torch.tensor(np.flatnonzero(MASK.ravel()))
    wide = [
        torch.tensor(padded.ravel()).index_put((place,), t).view(MASK.shape) for t in (new, given("old"), given("advantages"))
    ]
    ratio = torch.exp(wide[0] - wide[1])
    loss = -torch.min(ratio * wide[2], torch.clamp(ratio, 1 - epsilon[0], 1 + epsilon[1]) * wide[2])
    match loss_type:
        case "grpo":
            return ((loss * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()
        case "bnpo" | "dapo":  # one process: the tokens of the batch
            return (loss * mask).sum() / mask.sum().clamp(min=1.0)
        case "dr_grpo":
            return (loss * mask).sum() / (loss.size(0) * MASK.shape[1])


@pytest.mark.parametrize(
    ("loss_type", "mode"),
    [("grpo", "seq_mean_token_mean"), ("bnpo", "token_mean"), ("dapo", "token_mean"), ("dr_grpo", "constant")],
)
def test_losses_are_trls(loss_type, mode):
    ours, theirs = given("new").requires_grad_(True), given("new").requires_grad_(True)
    our_loss(ours, "token", (0.2, 0.28, 0.0), mode).backward()
    trl(theirs, loss_type).backward()
    assert ours.grad.numpy() == pytest.approx(theirs.grad.numpy(), abs=1e-12)


@pytest.mark.parametrize("level", ["token", "sequence", "sequence_mean"])
@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_gradients_are_the_numerical_ones(level, kind):
    """KL and surrogate at every level, by central differences in float64."""

    def loss(new):
        kl = kl_estimate(sequence_ratio((new - given("reference")) * 0.1, ROW, level), kind)
        log_ratio = sequence_ratio((new - given("old")) * 0.1, ROW, level)
        per_token, _ = surrogate(log_ratio, given("advantages"), clip_low=0.2, clip_high=0.28)
        return (per_token + 0.1 * kl).sum()

    assert torch.autograd.gradcheck(loss, (given("new").requires_grad_(True),))


@pytest.mark.parametrize("level", ["sequence", "sequence_mean"])
def test_at_length_1_every_level_is_the_tokens_own(level):
    log_ratio, whose = given("new") - given("old"), torch.arange(len(ROW))
    assert torch.equal(sequence_ratio(log_ratio, whose, level), sequence_ratio(log_ratio, whose, "token"))
