import pytest

from longthink.control.plateau import Plateau


def history(*accuracies):
    return [{"step": 2 * i, "validation/accuracy": a} if a is not None else {"step": 2 * i} for i, a in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("accuracies", "fires"),
    [
        ((0.4, 0.41, 0.4, 0.41, 0.4), True),
        ((0.3, 0.36, 0.43, 0.49, 0.55), False),  # still rising
        ((0.55, 0.49, 0.43, 0.36, 0.3), True),  # getting worse is no progress
        ((0.1, 0.3, 0.4, 0.41, 0.4, 0.41, 0.4), True),  # the rise lies before the last five
        ((0.4, 0.41, 0.4, 0.41), False),  # too few to say
        ((0.4, None, 0.41, 0.4, None, 0.41, 0.4), True),  # steps without a validation do not count
    ],
)
def test_plateaus(accuracies, fires):
    evidence = Plateau(validations=5).fires(history(*accuracies))
    assert (evidence is not None) is fires
    if fires:
        assert evidence["accuracy_slope"]["low"] <= 0 and len(evidence["steps"]) == 5
