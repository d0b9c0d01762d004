import pytest

from longthink.control.rising import Rising


@pytest.mark.parametrize(
    ("metric", "lengths", "shares", "fires"),
    [
        ("length", (100, 111, 119, 131), (0.1,) * 4, True),
        ("length", (100, 101, 99, 100), (0.1, 0.2, 0.3, 0.4), False),
        ("clip_ratio", (131, 119, 111, 100), (0.02, 0.04, 0.05, 0.07), True),  # DeepScaleR's second switch
        ("length", (100, 160, 90, 150), (0.1,) * 4, False),  # too noisy
    ],
)
def test_rises(metric, lengths, shares, fires):
    rows = [
        {"step": i, "validation/accuracy": 0.4, "validation/mean_tokens": n, "validation/truncated_share": c}
        for i, (n, c) in enumerate(zip(lengths, shares, strict=True))
    ]
    rule = Rising(metric=metric, over=4)
    assert (rule.fires(rows) is not None) is fires
    assert rule.fires(rows[:3]) is None
