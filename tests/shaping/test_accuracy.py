from support import outcomes

from longthink.shaping.accuracy import Accuracy


def test_accuracy_by_hand():
    group = outcomes((1.0, 5), (0.25, 5), (0.0, 5))
    assert Accuracy().values(group) == [1.0, 0.25, 0.0]
    assert Accuracy(right=1.0, wrong=-1.0).values(group) == [1.0, -0.5, -1.0]
