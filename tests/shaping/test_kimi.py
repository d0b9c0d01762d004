from support import outcomes

from longthink.shaping.kimi import Kimi


def test_kimi_by_hand():
    """Lengths 10 to 50: the middle is 0; a wrong answer never gains by being short."""
    group = outcomes((1, 10), (1, 30), (1, 50), (0, 10), (0, 30), (0, 40))
    assert Kimi().values(group) == [0.5, 0.0, -0.5, 0.0, 0.0, -0.25]


def test_equal_lengths_give_nothing():
    assert Kimi().values(outcomes((1, 10), (0, 10))) == [0.0, 0.0]
    assert Kimi().values(outcomes((1, 10))) == [0.0]
