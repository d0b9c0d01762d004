from longthink.shaping.base import Outcome
from longthink.shaping.calls import Calls


def outcome(score: float, calls: int, failed: int) -> Outcome:
    return Outcome(score, 10, 40, 100, False, calls=calls, failed=failed)


def test_calls_by_hand() -> None:
    """Right with a call that ended, right with none, right with failures alone, wrong with two calls of which one failed."""
    group = [outcome(1, 1, 0), outcome(1, 0, 0), outcome(1, 2, 2), outcome(0, 2, 1)]
    assert Calls().values(group) == [0.5, 0.0, 0.0, 0.0]
    assert Calls(failed=-0.25).values(group) == [0.5, 0.0, -0.5, -0.25]
    assert Calls(only_right=False, failed=-0.25).values(group) == [0.5, 0.0, -0.5, 0.25]
