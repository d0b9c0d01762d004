import pytest

from longthink.rewards.actions import Actions


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("Wait, but however we verify it. Alternatively, wait.", 6),
        ("WAIT", 1),
        ("waiting butter verified", 0),  # whole words
        ("wait" * 50, 0),
        ("wait " * 19, 19),
        ("wait " * 500, 20),  # bounded
    ],
)
def test_still_3s_words_over_twenty(text, count):
    assert Actions().score(text) == count / 20


def test_words_of_your_own_are_taken_as_they_are():
    assert Actions(words=("a.b",), most=1).score("axb") == 0.0
    assert Actions(words=("a.b",), most=1).score("see a.b here") == 1.0
