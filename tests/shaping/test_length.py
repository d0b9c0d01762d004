from support import outcomes

from longthink.shape import Parts
from longthink.shaping.length import Length


def test_length_by_hand():
    assert Length().values(outcomes((1, 25), (0, 100), window=100)) == [0.25, 1.0]
    assert Length(max_length=50).values(outcomes((1, 25), (0, 100), window=100)) == [0.5, 1.0]


def test_rrl_as_still_3_writes_it():
    """R = L / L_max + 1 for a right response, - 1 for a wrong one."""
    from support import scored_group

    group = scored_group((1.0, 50), (0.0, 50), (0.0, 75), window=100)
    parts = Parts([{"kind": "accuracy", "wrong": -1.0}, {"kind": "length"}])
    rewards = [reward for reward, _ in parts.rewards(list(zip(group.rollouts, group.verdicts, strict=True)), None)]
    assert rewards == [1.5, -0.5, -0.25]
