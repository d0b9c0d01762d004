import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from longthink.losses import correction, kl_estimate, sequence_ratio, surrogate, token_weights
from longthink.schedules import kl_coefficient

MODES = ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum")
LEVELS = ("token", "sequence", "sequence_mean")


def wide(*values):
    return torch.tensor(values, dtype=torch.float64)


def at_ratio(ratios, advantages, clip_low=0.2, clip_high=0.2):
    """Loss, clip flag and gradient by log-prob, with the old log-prob at -1.5."""
    old = torch.full((len(ratios),), -1.5, dtype=torch.float64)
    logprobs = (old + wide(*ratios).log()).requires_grad_()
    loss, clipped = surrogate(logprobs - old, wide(*advantages), clip_low=clip_low, clip_high=clip_high)
    (slope,) = torch.autograd.grad(loss.sum(), logprobs)
    return loss.tolist(), clipped.tolist(), slope.tolist()


# -- surrogate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clip_low", "clip_high", "ratio", "advantage", "loss", "clipped"),
    [
        # symmetric 0.2
        (0.2, 0.2, 1.1, 2.0, -2.2, 0),  # inside, gains go on
        (0.2, 0.2, 0.9, 2.0, -1.8, 0),
        (0.2, 0.2, 1.5, 2.0, -2.4, 1),  # above, A > 0: cut at 1.2 A
        (0.2, 0.2, 0.5, 2.0, -1.0, 0),  # below, A > 0: the way back up stays open
        (0.2, 0.2, 1.1, -2.0, 2.2, 0),
        (0.2, 0.2, 0.9, -2.0, 1.8, 0),
        (0.2, 0.2, 1.5, -2.0, 3.0, 0),  # above, A < 0: the way back down stays open
        (0.2, 0.2, 0.5, -2.0, 1.6, 1),  # below, A < 0: cut at 0.8 A
        # decoupled 0.2 / 0.28
        (0.2, 0.28, 1.25, 1.0, -1.25, 0),
        (0.2, 0.28, 1.5, 1.0, -1.28, 1),
        (0.2, 0.28, 0.75, -1.0, 0.8, 1),
        (0.2, 0.28, 0.85, -1.0, 0.85, 0),
        (0.2, 0.28, 1.5, -1.0, 1.5, 0),
        (0.2, 0.28, 0.75, 1.0, -0.75, 0),
        # NVIDIA's 0.2 / 0.4
        (0.2, 0.4, 1.39, 1.0, -1.39, 0),
        (0.2, 0.4, 1.41, 1.0, -1.4, 1),
        # no advantage, no loss
        (0.2, 0.2, 9.0, 0.0, 0.0, 0),
        (0.2, 0.2, 0.1, 0.0, 0.0, 0),
    ],
)
def test_surrogate_by_hand(clip_low, clip_high, ratio, advantage, loss, clipped):
    losses, flags, slopes = at_ratio([ratio], [advantage], clip_low, clip_high)
    assert losses == [pytest.approx(loss)]
    assert flags == [clipped]
    # d(-ratio A)/d logprob = -ratio A; nothing where the clip holds
    assert slopes == [pytest.approx(0.0 if clipped else -ratio * advantage)]


def test_at_ratio_one_the_loss_is_minus_the_advantage_and_so_is_its_gradient():
    assert at_ratio([1.0, 1.0, 1.0], [1.5, -0.5, 0.0]) == ([-1.5, 0.5, 0.0], [0.0, 0.0, 0.0], [-1.5, 0.5, 0.0])


RATIOS = st.floats(0.05, 4.0)
BOUNDS = st.sampled_from([(0.2, 0.2), (0.2, 0.28), (0.2, 0.4), (0.01, 3.0), (0.9, 0.001)])


@given(st.lists(st.tuples(RATIOS, st.floats(-5, 5)), min_size=1, max_size=8), BOUNDS)
def test_the_gradient_is_zero_exactly_where_the_token_counts_as_clipped(tokens, bounds):
    ratios, advantages = zip(*tokens, strict=True)
    _, flags, slopes = at_ratio(ratios, advantages, *bounds)
    for ratio, advantage, flag, slope in zip(ratios, advantages, flags, slopes, strict=True):
        if min(abs(ratio - (1 - bounds[0])), abs(ratio - (1 + bounds[1])), abs(advantage)) < 1e-9:
            continue  # on a corner, where rounding decides
        assert flag == (advantage > 0 and ratio > 1 + bounds[1]) + (advantage < 0 and ratio < 1 - bounds[0])
        assert (slope == 0) == (flag == 1)


@given(st.lists(st.tuples(RATIOS, st.floats(-5, 5)), min_size=1, max_size=8), BOUNDS)
def test_clipping_never_makes_the_loss_smaller(tokens, bounds):
    ratios, advantages = zip(*tokens, strict=True)
    losses, _, _ = at_ratio(ratios, advantages, *bounds)
    assert all(loss >= -r * a - 1e-12 for loss, r, a in zip(losses, ratios, advantages, strict=True))


def test_bounds_never_met_leave_the_plain_policy_gradient():
    ratios, advantages = [0.1, 0.9, 1.3, 30.0], [1.0, -2.0, 3.0, -4.0]
    losses, flags, _ = at_ratio(ratios, advantages, 0.999, 1e6)
    assert losses == pytest.approx([-r * a for r, a in zip(ratios, advantages, strict=True)])
    assert flags == [0.0] * 4


def test_surrogate_gradient_is_the_numeric_one():
    old = wide(-1.0, -2.0, -0.5, -3.0, -0.1, -1.0)
    logprobs = (old + wide(0.5, -0.5, 0.5, -0.5, 0.1, -0.1)).requires_grad_()
    advantages = wide(1.0, 1.0, -1.0, -1.0, 2.0, -2.0)  # each sign above, below and inside
    assert torch.autograd.gradcheck(lambda x: surrogate(x - old, advantages, clip_low=0.2, clip_high=0.28)[0], (logprobs,))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (5.0, -1.0, 3.0, 1),  # ratio·A = -5, no less than 3·A
        (2.0, -1.0, 2.0, 0),
        (0.5, -1.0, 0.8, 1),  # the ordinary clip, as before
        (5.0, 1.0, -1.2, 1),  # nothing new where A > 0
        (9.0, 0.0, 0.0, 0),
    ],
)
def test_dual_clip_by_hand(ratio, advantage, loss, clipped):
    log_ratio = wide(math.log(ratio)).requires_grad_()
    found, flag = surrogate(log_ratio, wide(advantage), clip_low=0.2, clip_high=0.2, dual_clip=3.0)
    (slope,) = torch.autograd.grad(found.sum(), log_ratio)
    assert found.tolist() == [pytest.approx(loss)] and flag.tolist() == [clipped]
    assert (slope.item() == 0) == bool(clipped or not advantage)


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-5, 5)), min_size=1, max_size=6))
def test_dual_clip_at_infinity_is_none(pairs):
    log_ratio, advantages = (wide(*column) for column in zip(*pairs, strict=True))
    plain = surrogate(log_ratio, advantages, clip_low=0.2, clip_high=0.28)
    bounded = surrogate(log_ratio, advantages, clip_low=0.2, clip_high=0.28, dual_clip=1e9)
    assert all(torch.equal(a, b) for a, b in zip(plain, bounded, strict=True))


# -- sequence ratios --------------------------------------------------------------------------------------------


def test_sequence_ratios_by_hand():
    log_ratio, whose = wide(0.1, 0.3, -0.6, 0.2, 0.1), torch.tensor([4, 4, 7, 7, 7])
    found = {level: sequence_ratio(log_ratio, whose, level).tolist() for level in LEVELS}
    assert found["token"] == log_ratio.tolist()
    assert found["sequence"] == pytest.approx([0.4, 0.4, -0.3, -0.3, -0.3])
    assert found["sequence_mean"] == pytest.approx([0.2, 0.2, -0.1, -0.1, -0.1])


def test_the_product_by_its_equation():
    """Open-RS eq. 1 and NVIDIA eq. 1: the mean over responses of min(rho·A, clip(rho)·A), rho a product over tokens."""
    log_ratio, whose, advantages = wide(0.1, 0.3, -0.2, 0.05), torch.tensor([0, 0, 1, 1]), wide(1, 1, -2, -2)
    losses, _ = surrogate(sequence_ratio(log_ratio, whose, "sequence"), advantages, clip_low=0.2, clip_high=0.2)
    weights = token_weights(whose, torch.tensor([2, 2]), 4, 2, "seq_mean_token_mean")
    expected = -(min(math.exp(0.4), 1.2) * 1 + min(math.exp(-0.15) * -2, max(math.exp(-0.15), 0.8) * -2)) / 2
    assert float((losses * weights).sum()) == pytest.approx(expected)


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=6), st.sampled_from(LEVELS))
def test_one_token_responses_have_one_ratio(values, level):
    log_ratio = wide(*values)
    assert torch.equal(sequence_ratio(log_ratio, torch.arange(len(values)), level), log_ratio)


@pytest.mark.parametrize("level", LEVELS)
def test_sequence_ratio_gradient_is_the_numeric_one(level):
    log_ratio, whose = wide(0.01, -0.02, 0.03, 0.04).requires_grad_(), torch.tensor([0, 0, 1, 1])

    def loss(x):
        return surrogate(sequence_ratio(x, whose, level), wide(1, 1, -1, -1), clip_low=0.2, clip_high=0.2)[0]

    assert torch.autograd.gradcheck(loss, (log_ratio,))


# -- KL --------------------------------------------------------------------------------------------------------


def test_kl_k3_by_hand():
    # d = reference - policy: ln 2 gives 2 - ln 2 - 1; -ln 2 gives 1/2 + ln 2 - 1
    found = kl_estimate(wide(-math.log(2), math.log(2), 0.0))
    assert found.tolist() == pytest.approx([1 - math.log(2), math.log(2) - 0.5, 0.0])
    assert found[2] == 0.0


@pytest.mark.parametrize(("kind", "values"), [("k1", [-0.5, 0.5, 0.0]), ("k2", [0.125, 0.125, 0.0])])
def test_k1_and_k2_by_hand(kind, values):
    """d = reference - policy is 1/2, -1/2 and 0."""
    assert kl_estimate(wide(-0.5, 0.5, 0.0), kind).tolist() == values


def test_an_annealed_kl_ends_where_it_should():
    weights = [kl_coefficient(update, 1e-3, "cosine", 500) for update in range(600)]
    assert weights[0] == 1e-3 and weights[250] == pytest.approx(5e-4) and weights[500:] == [0.0] * 100
    assert weights[125] == pytest.approx(1e-3 * (1 + math.sqrt(0.5)) / 2) and weights == sorted(weights, reverse=True)
    assert {kl_coefficient(update, 0.2, "constant", 0) for update in (0, 10**6)} == {0.2}


def test_a_constant_normaliser_by_hand():
    """Losses 1, 2 and 3 of two responses over two times ten."""
    found = token_weights(torch.tensor([0, 0, 1]), torch.tensor([2, 1]), 3, 2, "constant", 10)
    assert float((found * wide(1, 2, 3)).sum()) == pytest.approx(6 / 20)


def test_kl_k3_is_clamped_to_ten_with_no_gradient_there():
    # exp(2.61) - 3.61 is 9.989..., exp(2.62) - 3.62 is 10.11...; on the other side e^-d + d reaches 11 at d = 11
    logprobs = wide(-30.0, -30.0, -0.1, -0.1, -1e30).requires_grad_()
    reference = wide(-30 + 2.62, -30 + 2.61, -11.2, -11.0, -1.0)
    found = kl_estimate(logprobs - reference)
    assert found.tolist() == pytest.approx([10, math.exp(2.61) - 3.61, 10, 9.9 + math.exp(-10.9), 10])
    (slope,) = torch.autograd.grad(found.sum(), logprobs)
    assert slope.tolist() == pytest.approx([0, 1 - math.exp(2.61), 0, 1 - math.exp(-10.9), 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_k3_of_tiny_differences_is_half_their_square(dtype):
    # the sum exp(d) - d - 1 loses all its digits here, and may come out negative
    d = 10.0 ** -torch.arange(3, 15, dtype=dtype)
    for sign in (1, -1):
        found = kl_estimate(-sign * d)
        assert (found >= 0).all()
        rounding = d * torch.finfo(dtype).eps
        assert ((found - 0.5 * d**2).abs() <= rounding + d**3).all()


@given(st.lists(st.tuples(st.floats(-60, 0, width=32), st.floats(-60, 0, width=32)), min_size=1, max_size=8), st.booleans())
def test_kl_k3_is_never_negative_and_zero_at_equality(pairs, narrow):
    dtype = torch.float32 if narrow else torch.float64
    policy, reference = (torch.tensor(side, dtype=dtype) for side in zip(*pairs, strict=True))
    found = kl_estimate(policy - reference)
    assert ((found >= 0) & (found <= 10)).all()
    assert (kl_estimate(policy - policy) == 0).all()


@given(st.floats(-1, 1), st.integers(1, 14))
def test_kl_k3_is_never_negative_close_to_equality(x, magnitude):
    d = torch.tensor([x * 10.0**-magnitude])
    assert (kl_estimate(-d) >= 0).all()


def test_kl_k3_gradient_is_the_numeric_one():
    reference = wide(-1.0, -2.0, -3.0, -0.5)
    logprobs = wide(-1.5, -1.0, -3.0, -25.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: kl_estimate(x - reference), (logprobs,))


# -- token_weights ----------------------------------------------------------------------------------------------

RAGGED = torch.tensor([0, 0, 0, 1, 3, 3])  # sequence 2 has no loss token
LENGTHS = torch.tensor([3, 1, 0, 2])


@pytest.mark.parametrize(
    ("mode", "weights"),
    [
        ("token_mean", [1 / 6] * 6),
        ("seq_mean_token_mean", [1 / 12] * 3 + [1 / 4] + [1 / 8] * 2),
        ("seq_mean_token_sum", [1 / 4] * 6),
    ],
)
def test_token_weights_by_hand(mode, weights):
    found = token_weights(RAGGED, LENGTHS, 6, 4, mode)
    assert found.dtype == torch.float64
    assert found.tolist() == weights


@pytest.mark.parametrize(
    ("mode", "mean"),
    [
        ("token_mean", (1 + 2 + 3 + 10 + 4 + 6) / 6),
        ("seq_mean_token_mean", (2 + 10 + 0 + 5) / 4),  # the empty sequence adds nothing and still counts
        ("seq_mean_token_sum", (6 + 10 + 0 + 10) / 4),
    ],
)
def test_the_weighted_sum_is_the_mean_it_is_named_after(mode, mean):
    losses = wide(1, 2, 3, 10, 4, 6)
    assert float((token_weights(RAGGED, LENGTHS, 6, 4, mode) * losses).sum()) == pytest.approx(mean)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(sum), st.sampled_from(MODES), st.randoms(use_true_random=False))
def test_a_sum_over_any_cut_of_the_sequences_equals_the_whole(lengths, mode, random):
    counts = torch.tensor(lengths)
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), counts)
    losses = torch.tensor([random.uniform(-1, 1) for _ in sequence], dtype=torch.float64)
    whole = (token_weights(sequence, counts, len(sequence), len(lengths), mode) * losses).sum()
    rows = random.sample(range(len(lengths)), len(lengths))
    size = random.randint(1, len(lengths))
    total = 0.0
    for start in range(0, len(rows), size):
        mine = torch.isin(sequence, torch.tensor(rows[start : start + size]))
        total += float((token_weights(sequence[mine], counts, len(sequence), len(lengths), mode) * losses[mine]).sum())
    assert total == pytest.approx(float(whole), abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_a_mini_batch_without_loss_tokens_has_no_weights(mode):
    assert token_weights(torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0]), 0, 2, mode).tolist() == []


# -- annotations ------------------------------------------------------------------------------------------------


def test_shapes_are_checked_while_testing():
    with pytest.raises(TypeCheckError):
        surrogate(wide(1, 2), wide(1, 2, 3), clip_low=0.2, clip_high=0.2)
    with pytest.raises(TypeCheckError):
        kl_estimate(wide(1, 2), torch.tensor([1, 2]))


# -- the sampler's odds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"), [("none", [1, 1, 1, 1]), ("truncate", [0.25, 1.0, 1.5, 2.0]), ("mask", [0.0, 1.0, 1.5, 0.0])]
)
def test_correction_by_hand(kind, expected):
    drift = wide(*map(math.log, (0.25, 1.0, 1.5, 4.0)))
    assert correction(drift, kind, 0.5, 2.0).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["none", "truncate", "mask"])
def test_no_correction_where_sampler_and_learner_agree_and_no_gradient_through_it(kind):
    drift = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    factor = correction(drift, kind, 0.5, 2.0)
    assert factor.tolist() == [1.0] * 5 and not factor.requires_grad


@pytest.mark.parametrize(("advantage", "dual"), [(1.0, 0.0), (-1.0, 3.0), (0.0, 0.0)])
@pytest.mark.parametrize("log_ratio", [100.0, 1000.0, -1000.0])
def test_ratios_beyond_every_float_leave_finite_losses_and_gradients(log_ratio, advantage, dual):
    """A response of 2,000 tokens, each 0.05 nats off, is 100 nats off."""
    far = torch.tensor([log_ratio], dtype=torch.float32, requires_grad=True)
    loss, _ = surrogate(far, torch.tensor([advantage]), clip_low=0.2, clip_high=0.2, dual_clip=dual)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(far.grad).all()
    assert torch.isfinite(correction(far, "truncate", 0.5, 2.0)).all()
