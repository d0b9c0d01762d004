"""The format rules of three papers, each on texts that another accepts."""

import pytest

from longthink.rewards.format import Format

OPEN_RS = [
    ("so\n</think>\n\\boxed{7}", 1.0),
    ("<think>\nso\n</think>\n<answer>7</answer>", 1.0),
    ("so </think> 7", 0.0),  # not on a line of its own
    ("so\n</think>\n7\n</think>\n", 0.0),  # twice
    ("7", 0.0),
    ("</think>\n7", 0.0),
]
STILL = [
    ("<think> a </think><answer> \\boxed{7} </answer>", 1.0),
    ("<think> a </think>\n<answer>7</answer>\n", 1.0),
    ("<think> a </think> so <answer>7</answer>", 0.0),  # something between
    ("<think> a </think><answer>7</answer> done", 0.0),  # something behind
    ("well <think> a </think><answer>7</answer>", 0.0),  # something before
    ("<think>  </think><answer>7</answer>", 0.0),  # no thought
    ("<think> a </think><answer> </answer>", 0.0),  # no answer
    ("<think> a <think> b </think><answer>7</answer>", 0.0),  # a tag twice
    ("<answer>7</answer><think> a </think>", 0.0),  # the other way round
    ("a </think><answer>7</answer>", 0.0),  # never opened
]
DEEPSCALER = [("<think> a </think> 7", 1.0), ("</think> <think>", 1.0), ("a </think> 7", 0.0), ("<think> a", 0.0)]
ANSWER = [("a </think> 7", 1.0), ("a </think>", 0.0), ("a </think> 7 </think> 8", 0.0), ("7", 0.0)]


@pytest.mark.parametrize(
    ("style", "text", "score"),
    [
        (style, *case)
        for style, cases in (("open_rs", OPEN_RS), ("still", STILL), ("deepscaler", DEEPSCALER), ("answer", ANSWER))
        for case in cases
    ],
)
def test_styles(style, text, score):
    assert Format(style=style).score(text) == score


@pytest.mark.parametrize(
    ("style", "text", "score"),
    [
        ("still", " a </think><answer>7</answer>", 1.0),  # the prompt ends in <think>
        ("still", "<think> a </think><answer>7</answer>", 1.0),  # the response opened it all the same
        ("still", "</think><answer>7</answer>", 0.0),
        ("deepscaler", "a </think> 7", 1.0),
        ("open_rs", "a\n</think>\n7", 1.0),
    ],
)
def test_where_the_template_opens_the_thinking(style, text, score):
    assert Format(style=style, think="template").score(text) == score


@pytest.mark.parametrize("style", ["open_rs", "deepscaler", "still", "answer"])
def test_long_and_odd_texts_are_quick(style):
    for text in ("", "<think>" * 50_000, "</think>" * 50_000, "<answer>" * 20_000 + "</answer>" * 20_000, "\udc80\x00"):
        assert Format(style=style).score(text) in (0.0, 1.0)
