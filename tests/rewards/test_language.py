import pytest

from longthink.rewards.language import Language


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 1.0),
        ("1 + 2 = 3", 1.0),  # no letters
        ("So x = 4, naïvely α·π ∑ ℝ.", 1.0),
        ("因为所以", 0.0),
        ("So 因", 2 / 3),
        ("да yes", 3 / 5),
    ],
)
def test_share_of_letters(text, share):
    assert Language().score(text) == pytest.approx(share)


def test_scripts_are_a_choice():
    assert Language(scripts=("CJK",)).score("因为 ab") == 0.5
