import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import outcomes

from longthink.shaping.overlong import Overlong


@pytest.mark.parametrize(("tokens", "penalty"), [(0, 0.0), (16384, 0.0), (18432, -0.5), (19456, -0.75), (20480, -1.0)])
def test_dapo_by_hand(tokens, penalty):
    """A buffer of 4,096 in 20,480: nothing up to 16,384."""
    (value,) = Overlong(buffer=4096).values(outcomes((1.0, tokens), window=20480))
    assert value == penalty and str(value) != "-0.0"


@given(st.integers(0, 300), st.integers(1, 300))
def test_the_penalty_falls_and_stays_within_its_bounds(tokens, buffer):
    first, second = Overlong(buffer=buffer).values(outcomes((1.0, tokens), (1.0, tokens + 1), window=200))
    assert -1.0 <= second <= first <= 0.0
