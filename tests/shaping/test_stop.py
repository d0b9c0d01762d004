from support import outcomes, scored_group

from longthink.shape import Parts
from longthink.shaping.stop import Stop


def test_only_a_truncated_response_is_scaled():
    assert Stop(coefficient=0.25).values(outcomes((1, 99), (1, 100), (0, 100))) == [1.0, 0.25, 0.25]
    assert Stop().values(outcomes((1, 100))) == [0.0]


def test_a_coefficient_of_one_changes_no_reward():
    group = scored_group((1.0, 50), (1.0, 100), (0.0, 20))
    pairs = list(zip(group.rollouts, group.verdicts, strict=True))
    plain = [r for r, _ in Parts([{"kind": "accuracy"}]).rewards(pairs, None)]
    gated = [r for r, _ in Parts([{"kind": "accuracy"}, {"kind": "stop", "gate": True, "coefficient": 1.0}]).rewards(pairs, None)]
    assert plain == gated == [1.0, 1.0, 0.0]
