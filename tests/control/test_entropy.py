import pytest

from longthink.control.entropy import Entropy


@pytest.mark.parametrize(
    ("values", "changes", "fires"),
    [
        ((1.0, 1.0, 0.1, 0.1), {}, True),
        ((1.0, 1.0, 0.3, 0.3), {}, False),
        ((1.0, 1.0, 4.0, 4.0), {}, True),
        ((1.0, 1.0, 4.0, 4.0), {"high": 0.0}, False),
        ((1.0, 1.0, 0.1, 0.1), {"low": 0.0}, False),
        ((1.0, 0.1, 0.1), {}, False),  # the first two and the last two must not overlap
    ],
)
def test_collapse_and_explosion(values, changes, fires):
    rows = [{"step": i, "policy/entropy/mean": v} for i, v in enumerate(values)]
    assert (Entropy(over=2, **changes).fires([{"step": 9}, *rows]) is not None) is fires
