import pytest

from longthink.control.drop import Drop


def history(*accuracies, half=0.05):
    key = "validation"
    return [{"step": i, f"{key}/accuracy": a, f"{key}/low": a - half, f"{key}/high": a + half} for i, a in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("accuracies", "half", "fires"),
    [
        ((0.5, 0.6, 0.4, 0.4), 0.05, True),  # 0.2 below, the error of the difference is 0.036
        ((0.5, 0.6, 0.4, 0.58), 0.05, False),  # it came back
        ((0.5, 0.6, 0.4, 0.4), 0.2, False),  # within the noise
        ((0.4, 0.5, 0.6, 0.7), 0.01, False),
        ((0.6, 0.4), 0.01, False),  # one validation after the best is not two
    ],
)
def test_drops(accuracies, half, fires):
    evidence = Drop().fires(history(*accuracies, half=half))
    assert (evidence is not None) is fires
    if fires:
        assert evidence["best"] == 0.6 and evidence["best_step"] == 1 and evidence["accuracy"] == [0.4, 0.4]
        assert evidence["error"][0] == pytest.approx(0.05 / 1.96 * 2**0.5)
