import pytest
from hypothesis import given
from hypothesis import strategies as st

from longthink.rewards.repetition import Repetition


@pytest.mark.parametrize(
    ("text", "n", "value"),
    [
        ("", 3, 0.0),
        ("one two", 3, 0.0),  # fewer words than n
        ("one two three four", 3, 0.0),
        ("a b a b a b", 2, 2 / 5 - 1),  # ab ba ab ba ab
        ("a b c A B C", 3, 3 / 4 - 1),  # abc bca cab abc, whatever the case
    ],
)
def test_by_hand(text, n, value):
    assert Repetition(n=n).score(text) == pytest.approx(value)


@given(st.text("ab ", max_size=200), st.integers(1, 4))
def test_between_minus_one_and_nothing(text, n):
    assert -1.0 < Repetition(n=n).score(text) <= 0.0
