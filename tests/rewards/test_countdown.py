"""The countdown verifier against right, wrong, hostile and broken answers; numbers 3, 7, 12 and target 120 unless said."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longthink.rewards.countdown import Countdown

GOLD = {"numbers": [3, 7, 12], "target": 120}

ACCEPT = [
    ("(3+7)*12", GOLD),
    ("<answer>(3+7)*12</answer>", GOLD),
    ("I try 3*7*12 first. <answer>3*7*12</answer> No. <answer>\n12 * (7 + 3)\n</answer> Done.", GOLD),
    ("((3)+(7))*(12)", GOLD),
    ("\n (3+7)*12\n", GOLD),
    ("8/(3-8/3)", {"numbers": [3, 3, 8, 8], "target": 24}),  # thirds on the way, exact at the end
    ("1/3", {"numbers": [1, 3], "target": "1/3"}),
    ("5+5", {"numbers": [5, 5], "target": 10}),
    ("7", {"numbers": [7], "target": 7}),
]
REJECT = [
    ("(3+7)*11", GOLD, "ok"),  # a number that was not given
    ("3+7", GOLD, "ok"),  # leaves one out
    ("(3+7)*12*3/3", GOLD, "ok"),  # uses one twice
    ("3*7+12", GOLD, "ok"),  # wrong value
    ("(3+7)*12=120", GOLD, "ok"),  # an equation is no expression
    ("120", GOLD, "ok"),
    ("10/3", {"numbers": [10, 3], "target": 3.33333}, "ok"),
    ("5", {"numbers": [5, 5], "target": 5}, "ok"),
    ("<answer>(3+7)*12</answer> or rather <answer>3+7+12</answer>", GOLD, "ok"),
    ("12/(7-7+3-3)", {"numbers": [12, 7, 7, 3, 3], "target": 0}, "ok"),
    ("", GOLD, "no_answer"),
    ("<answer>  </answer>", GOLD, "no_answer"),
]
EXPLOIT = [
    ("__import__('os')._exit(0)", "ok"),
    ("9**9**9**9", "ok"),
    ("(3+7)*12 if 1 else 0", "ok"),
    ("3+7-12+12*10**1", "ok"),
    ("(3+7)*12 # 120", "ok"),
    ("1_2*(3+7)", "ok"),
    ("(3+7)*1e1*12", "ok"),
    ("3,7,12,120", "ok"),
    ("(3+7)\n*12", "ok"),
    ("-(-3-7)*12", "ok"),  # a sign is not among the four operations
    ("37*12-12*27", "ok"),
    ("(" * 90 + "3+7" + ")" * 90, "ok"),
    ("+".join(["1"] * 200), "limit"),
    ("(3+7)*12" + " " * 200 + "+0", "limit"),
]
MALFORMED = ["((3+7)*12", "3 7 12", "3+*7", "(3+7)(12)", "*", ")(", "007+3+12", "三+七", "\x00", "\ud800", "</think"]


@pytest.mark.parametrize(("answer", "gold"), ACCEPT)
def test_accepts(answer: str, gold: object) -> None:
    verdict = Countdown().grade(f"some thinking </think> {answer}", gold)
    assert (verdict.score, verdict.status) == (1.0, "ok")


@pytest.mark.parametrize(("answer", "gold", "status"), REJECT)
def test_rejects(answer: str, gold: object, status: str) -> None:
    verdict = Countdown().grade(f"some thinking </think> {answer}", gold)
    assert (verdict.score, verdict.status) == (0.0, status)


@pytest.mark.parametrize(("answer", "status"), EXPLOIT)
def test_exploits_earn_nothing(answer: str, status: str) -> None:
    verdict = Countdown().grade(f"</think>{answer}", GOLD)
    assert (verdict.score, verdict.status) == (0.0, status)


@pytest.mark.parametrize("answer", MALFORMED)
def test_malformed_answers_are_wrong_answers(answer: str) -> None:
    verdict = Countdown().grade(f"</think>{answer}", GOLD)
    assert (verdict.score, verdict.status) == (0.0, "ok")


def test_thinking_must_be_closed_where_it_is_required() -> None:
    closed, bare, opened = "<think>so</think> (3+7)*12", "(3+7)*12", "<think> (3+7)*12"
    scores = {
        think: [Countdown(think=think).grade(answer, GOLD).score for answer in (closed, "so</think> (3+7)*12", bare, opened)]
        for think in ("optional", "template", "required")
    }
    assert scores == {"optional": [1, 1, 1, 0], "template": [1, 1, 0, 0], "required": [1, 0, 0, 0]}


def test_a_right_answer_without_its_format_is_kept_beside_the_score() -> None:
    found = Countdown(think="template", tags="required").grade("I think (3+7)*12 = 120, done", GOLD)
    assert (found.score, found.status, found.detail) == (0.0, "no_answer", {"lenient": 1.0, "lenient_answer": "(3+7)*12"})
    assert Countdown(think="template").grade("3+7*12", GOLD).detail["lenient"] == 0.0
    assert Countdown(think="template").grade("hm", GOLD).detail == {}


@pytest.mark.parametrize(
    ("answer", "tinyzero", "reasoning_gym"),
    [
        ("<answer>(3+7)*12</answer>", 1.0, 1.0),
        ("<answer>3+7+12</answer>", 0.1, 0.05),
        ("<answer>12*10</answer>", 0.1, 0.05),
        ("<answer>twelve</answer>", 0.1, 0.01),
        ("(3+7)*12", 0.0, 0.01),
    ],
)
def test_credit_for_wrong_answers_as_in_other_projects(answer: str, tinyzero: float, reasoning_gym: float) -> None:
    assert Countdown(credit="tinyzero", tags="required").grade(answer, GOLD).score == tinyzero
    assert Countdown(credit="reasoning_gym", tags="required").grade(answer, GOLD).score == reasoning_gym


def test_only_what_follows_the_last_think_tag_counts() -> None:
    assert Countdown().grade("</think> <answer>(3+7)*12</answer> </think> 3", GOLD).score == 0.0


@pytest.mark.parametrize(
    "gold", [None, 5, [], {}, {"numbers": [1]}, {"numbers": ["x"], "target": 1}, {"numbers": [1], "target": "x"}]
)
def test_a_bad_gold_is_our_fault(gold: object) -> None:
    verdict = Countdown().grade("</think> 1", gold)
    assert (verdict.score, verdict.status) == (None, "verifier_error")


@given(st.text(alphabet="0123456789+-*/() <>answer/", max_size=60) | st.text(max_size=60))
@settings(derandomize=True, deadline=None)
def test_no_response_raises(text: str) -> None:
    for response in (text, f"</think>{text}", f"</think><answer>{text}</answer>"):
        assert Countdown().grade(response, GOLD).score in (0.0, 1.0)
