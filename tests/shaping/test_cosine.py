"""Open-RS's cosine reward: the paper's reading, and each trait of the authors' script."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import outcomes

from longthink.shaping.cosine import Cosine

SCRIPT = Cosine(wrong_short=0.0, max_length=3584, unit="characters", clamp=False)


def values(cosine, *pairs, **more):
    return cosine.values(outcomes(*pairs, **more))


def test_the_papers_reading_by_hand():
    """Right 1 to 0.5, wrong -1 to -0.5; a third of the way down a half cosine has fallen by a quarter."""
    cosine = Cosine(max_length=90)
    assert values(cosine, (1, 0), (1, 30), (1, 45), (1, 90)) == pytest.approx([1.0, 0.875, 0.75, 0.5])
    assert values(cosine, (0, 0), (0, 30), (0, 45), (0, 90)) == pytest.approx([-1.0, -0.875, -0.75, -0.5])


def test_past_the_longest_the_value_stays():
    assert values(Cosine(max_length=50), (1, 50), (1, 99), (0, 50), (0, 99)) == [0.5, 0.5, -0.5, -0.5]


def test_without_a_longest_length_it_is_the_window():
    assert values(Cosine(), (1, 100), (0, 100), window=100) == [0.5, -0.5]
    assert values(Cosine(), (1, 100), window=200) == pytest.approx([0.75])


@pytest.mark.parametrize(
    ("characters", "right", "wrong"), [(0, 1.0, 0.0), (1792, 0.75, -0.25), (3584, 0.5, -0.5), (7168, 1.0, 0.0)]
)
def test_the_scripts_traits(characters, right, wrong):
    """Longer wrong answers cost more, lengths are characters against tokens, and the reward swings back after 3,584."""
    found = values(SCRIPT, (1, 7), (0, 7), characters=characters)
    assert found == pytest.approx([right, wrong], abs=1e-12)


def test_paper_and_script_disagree_about_longer_wrong_answers():
    paper, script = Cosine(max_length=100), Cosine(max_length=100, wrong_short=0.0)
    assert values(paper, (0, 90))[0] > values(paper, (0, 10))[0]
    assert values(script, (0, 90))[0] < values(script, (0, 10))[0]


@given(st.integers(0, 500), st.integers(1, 400), st.booleans())
def test_clamped_values_stay_between_short_and_long(tokens, longest, right):
    cosine = Cosine(max_length=longest)
    (value,) = values(cosine, (float(right), tokens), window=1000)
    low, high = (0.5, 1.0) if right else (-1.0, -0.5)
    assert low - 1e-12 <= value <= high + 1e-12
    assert math.isfinite(value)


def test_partial_credit_is_not_right():
    assert values(Cosine(max_length=100), (0.9, 0)) == [-1.0]
