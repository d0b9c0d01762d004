"""The maths verifier against right, wrong, hostile and broken answers; each row is (gold, answer in the box)."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longthink.maths.answers import equal
from longthink.rewards.math import Math
from longthink.rewards.pool import RewardPool

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "math_eval"

ACCEPT = [
    # typography
    ("204", "204."),
    ("025", "25"),
    ("+2\n", "2"),
    ("10,\\!080", "10080"),
    ("11,\\! 111,\\! 100", "11111100"),
    ("1000", "1{,}000"),
    ("1000", "1\\,000"),
    ("1000", "1 000"),
    ("58,500", "58500"),
    ("\\$32,\\!348", "32348"),
    ("\\$18.90", "18.9"),
    ("$-1$", "\u22121"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3, \\dfrac{\\pi}{2})"),
    ("\\frac43", "\\dfrac{4}{3}"),
    ("\\frac9{19}", "\\tfrac{9}{19}"),
    ("11\\sqrt2", "11 \\sqrt{2}"),
    ("x^{2}", "x^2"),
    ("\\text{Evelyn}", "evelyn"),
    ("\\text{(C)}", "C"),
    ("Yes", "\\textbf{yes}"),
    ("E_1, E_2", "E_{2},E_{1}"),
    ("$221,$8$", "221, 8"),
    # units, percent, degrees
    ("5.4 \\text{ cents}", "5.4"),
    ("864 \\mbox{ inches}^2", "864"),
    ("15\\mbox{ cm}^2", "15 \\text{ cm}^{2}"),
    ("\\frac{270}7\\text{ degrees}", "\\frac{270}{7}^\\circ"),
    ("10", "10 weeks"),
    ("1950^\\circ C", "1950"),
    ("45", "45°"),
    ("17.5%", "17.5"),
    ("\\frac15", "20\\%"),
    # exact values
    ("0.75", "\\frac 34"),
    ("137 \\frac{1}{2}", "137.5"),
    ("-1\\frac{4}{5}", "-\\frac95"),
    ("4.5e33", "4.5 \\times 10^{33}"),
    ("10^{-3}", "1 \\times 10^{-3}"),
    ("\\frac13", "0.333333"),
    ("52_8", "52_{8}"),
    ("52_8", "52"),
    ("42", "52_8"),
    # structure
    ("3, 5, 7", "7, 3 and 5"),
    ("\\{1\\pm\\sqrt{5},-2\\}", "-2, 1+\\sqrt5, 1-\\sqrt5"),
    ("(0,9) \\cup (9,36)", "(9,36) \\cup (0,9)"),
    ("x \\in [-2,7]", "[-2, 7]"),
    ("(-\\infty,-5)", "(-\u221e, -5)"),
    ("(1,2)", "\\langle 1,2 \\rangle"),
    ("(22+8 \\sqrt{6}, 22-8 \\sqrt{6})", "(22+\\sqrt{384}, 22-\\sqrt{384})"),
    ("x=5", "5"),
    ("5", "x = 5 \\text{ cm}"),
    ("$f(x)=x$,$f(x)=2-x$", "f(x)=2-x, f(x)=x"),
    # algebra
    ("2\\sqrt{2}", "\\sqrt{8}"),
    ("(a+5)(b+2)", "ab+2a+5b+10"),
    ("\\binom{2n}{n}", "\\frac{(2n)!}{(n!)^2}"),
    ("1+2i", "(2-i)i"),
    ("-1", "i^2"),
    ("5x - 7y + 11z + 4 = 0", "-5x+7y-11z-4=0"),
    ("(2,\\infty)", "x>2"),
    ("x>2", "(2,\\infty)"),
    ("\\begin{pmatrix} 1/5 \\\\ -18/5 \\end{pmatrix}", "\\begin{pmatrix} 0.2 \\\\ -3.6 \\end{pmatrix}"),
    ("\\frac{M}{m}", "\\frac{2M}{2m}"),
    ("\\cot x", "\\frac{1}{\\tan x}"),
]
REJECT = [
    ("204", "240"),
    ("0.1", "0.10000001"),
    ("\\frac13", "0.33"),
    ("\\pi", "3.14"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("(3,4]", "(3,4)"),
    ("(1,2)", "1,2"),
    ("1,2", "(1,2)"),
    ("(1,2)", "\\{1,2\\}"),
    ("1,-2", "1,-2,1"),
    ("1,1", "1"),
    ("(312,123)", "312123"),
    ("5", "[5]"),
    ("5", "\\pm 5"),
    ("x=5", "y=5"),
    ("52_8", "52_9"),
    ("52_8", "42"),
    ("3x", "3X"),
    ("12 \\text{ cm}", "12 \\text{ m}"),
    ("15\\text{ cm}^2", "15\\text{ cm}"),
    ("\\text{even}", "\\text{odd}"),
    ("2k", "2n"),
    ("\\frac{\\sqrt{3}}{3}", "\\sqrt{3}"),
]
EXPLOIT = [
    ("5", "4, 5"),  # several answers
    ("5", "5 or 6"),
    ("5", "\\{4,5\\}"),
    ("5", "Evelyn has 5"),  # a number somewhere in a sentence
    ("\\text{even}", "neve"),  # a product of the same letters
    ("\\frac{M}{m}", "1"),  # M read as m
    ("6m", "6"),  # a variable read as a unit
    ("2ab", "2"),
    ("2\\sqrt{2}", "2"),
    ("\\frac{1}{2006!}", "\\frac{1}{2004!}"),  # both round to 0.000000
    ("2^{-99}", "2^{-98}"),
    ("0.0000001", "0.0000002"),
    ("5", "\\frac{1}{0}"),
    ("\\infty", "-\\infty"),
    ("5", "x"),
    ("5", "\\text{}"),
]
LIMIT = [
    "9^{9^9}",
    "10^{10^{10}}",
    "2^2^2^2",
    "(9^{9})^{99999}",
    "1E+1000000000",
    "2e99999",
    "2^{123456789}",
    "100000000!",
    "1" * 1_001,
    "x+" * 600,
    "(" * 51 + "1" + ")" * 51,
    "{" * 60 + "1" + "}" * 60,
]
MALFORMED = [
    "\\frac{1}{",
    "\\frac",
    "))((",
    "\\begin{pmatrix} 1 \\\\",
    "^^__",
    "1//2",
    "\\sqrt[",
    "\x00",
    "\ud800",
    "=" * 20,
    ",,,",
    "\\",
    "&%#",
    "\u0663",
]
BAD_GOLDS: list[Any] = [None, "", " \n", "$ $", True, float("nan"), float("inf"), [], [""], ["1", None], {"a": 1}, "\\boxed{}"]


def boxed(answer: str) -> str:
    return f"We think. </think> So it is $\\boxed{{{answer}}}$."


@pytest.mark.parametrize(("gold", "answer"), ACCEPT)
def test_accepts(gold: str, answer: str) -> None:
    verdict = Math().grade(boxed(answer), gold)
    assert (verdict.score, verdict.status) == (1.0, "ok")


@pytest.mark.parametrize(("gold", "answer"), REJECT)
def test_rejects(gold: str, answer: str) -> None:
    verdict = Math().grade(boxed(answer), gold)
    assert (verdict.score, verdict.status) == (0.0, "ok")


@pytest.mark.parametrize(("gold", "answer"), EXPLOIT)
def test_exploits_earn_nothing(gold: str, answer: str) -> None:
    verdict = Math().grade(boxed(answer), gold)
    assert (verdict.score, verdict.status) == (0.0, "ok")


@pytest.mark.parametrize("answer", LIMIT)
def test_too_large_an_answer_is_not_computed(answer: str) -> None:
    assert Math().grade(boxed(answer), "5").status == "limit"
    assert Math().grade(boxed(answer), answer).score == 1.0


@pytest.mark.parametrize("answer", MALFORMED)
def test_malformed_answers_are_wrong_answers(answer: str) -> None:
    response = f"</think> \\boxed{{{answer}}}"
    assert Math().grade(response, "5").score == 0.0
    assert Math().grade(response, "x^2").score == 0.0


@pytest.mark.parametrize("gold", BAD_GOLDS)
def test_a_bad_gold_is_our_fault(gold: object) -> None:
    verdict = Math().grade(boxed("5"), gold)
    assert (verdict.score, verdict.status) == (None, "verifier_error")


@pytest.mark.parametrize("gold", [142, 142.0, "142.0", "\\boxed{142}", ["7", "142"], (7.5, 142), "so $\\boxed{142}$."])
def test_golds_of_every_type(gold: object) -> None:
    assert Math().grade(boxed("142"), gold).score == 1.0
    assert Math().grade(boxed("143"), gold).score == 0.0


@pytest.mark.parametrize(
    ("response", "score", "status"),
    [
        ("</think> \\boxed{4} or rather \\boxed{5}", 1.0, "ok"),
        ("</think> \\boxed{5} or rather \\boxed{4}", 0.0, "ok"),
        ("</think> \\boxed{5} or rather \\boxed{4", 1.0, "ok"),  # a box that never closes is none
        ("</think> \\fbox{5}", 1.0, "ok"),
        ("</think> \\boxed {\\boxed{5}}", 1.0, "ok"),
        ("</think> \\boxed{ }", 0.0, "no_answer"),
        ("</think> \\boxed 5", 0.0, "no_answer"),
        ("</think> the answer is 5", 0.0, "no_answer"),
        ("\\boxed{5} </think> ", 0.0, "no_answer"),
        ("<think> \\boxed{5}", 0.0, "no_answer"),
        ("", 0.0, "no_answer"),
    ],
)
def test_the_last_box_after_the_thinking_is_the_answer(response: str, score: float, status: str) -> None:
    verdict = Math().grade(response, "5")
    assert (verdict.score, verdict.status) == (score, status)


def test_thinking_is_optional_where_the_recipe_says_so() -> None:
    assert Math(think="optional").grade("\\boxed{5}", "5").score == 1.0


def test_limits_are_fields() -> None:
    assert Math(max_chars=3).grade(boxed("1234"), "5").status == "limit"
    assert Math(max_nesting=1).grade(boxed("((5))"), "5").status == "limit"


def test_an_exception_of_the_algebra_is_the_answers_fault_unless_the_gold_alone_fails() -> None:
    assert Math().grade(boxed("i < x"), "5").score == 0.0
    assert Math().grade(boxed("5"), "i < x").status == "verifier_error"
    assert Math().grade(boxed("5"), ["i < x", "5"]).score == 1.0


@pytest.mark.parametrize(("gold", "answer"), [
    ("2:3:4", "0:0:0"), ("2:3:4", "1:2:3"), ("x", "\\infty !!"), ("5", "\\infty^{3} !!"), ("5", "(4)=5"), ("5", "[4]=5"),
    ("14", "2x=14"),
    ("23", "23^{+1}_{-1}"), ("14", "x^2=14"), ("14", "-x=14"), ("\\frac{1000000}{3}", "333333"),
    ("56", "5^\\circ 6'"), ("\\frac{1}{2}", "\\frac{1}{3} \\lor \\frac{1}{2}"),
    *[("\\frac{3}{4}", a) for a in ("\\sqrt \\frac{3}{4}", "\\neq \\frac{3}{4}", "> \\frac{3}{4}", "\\neg \\frac{3}{4}",
      "7 | \\frac{3}{4}", "\\frac{1}{4} ? \\frac{3}{4}", "\\frac{7}{4} \\cap \\frac{3}{4}", "[5, \\frac{3}{4}",
      "5)\\frac{3}{4}")],
    *[("5", a) for a in ("5 million", "5 halves", "5 \\text{ hundredths}", "5 \\text{ squared}", "5 factorial", "5 negative",
      "5 \\text{ divided by }", "5 \\approx 6", "5 \\ldots", "5_{x}", "5 \\mod 6", "\\binom{5}{2}!!", "a" * 300 + "!")],
])  # fmt: skip
def test_what_a_reader_of_parts_would_accept(gold: str, answer: str) -> None:
    assert Math().grade(boxed(answer), gold).score == 0.0


TOKENS = ["\\frac", "\\sqrt", "\\text{", "\\{", "\\}", "{", "}", "(", ")", "[", "]", ",", "1", "0", "x", "X", "i"]
TOKENS += [
    "^",
    "_",
    "=",
    "<",
    "+",
    "-",
    "/",
    ".",
    "!",
    "%",
    "$",
    "\\pm",
    "\\pi",
    "\\cup",
    "\\infty",
    " ",
    "and",
    "cm",
    "\\\\",
    "&",
]
FRAGMENTS = st.lists(st.sampled_from(TOKENS), max_size=7).map("".join)


@given(FRAGMENTS, FRAGMENTS)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_no_answer_and_no_gold_raises(answer: str, gold: str) -> None:
    verdict = Math().grade(f"</think>\\boxed{{{answer}}}", gold)
    assert verdict.score in (None, 0.0, 1.0)
    assert (verdict.score is None) == (verdict.status == "verifier_error")


@given(st.text(max_size=40))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_no_text_raises(text: str) -> None:
    for response in (text, f"</think>{text}", f"</think>\\boxed{{{text}"):
        assert Math().grade(response, "x").score in (0.0, 1.0)


@given(st.fractions(max_denominator=999), st.fractions(max_denominator=999))
@settings(derandomize=True, deadline=None)
def test_rational_numbers_are_compared_exactly(a: Any, b: Any) -> None:
    latex = f"\\frac{{{a.numerator}}}{{{a.denominator}}}"
    assert equal(latex, f"{a.numerator}/{a.denominator}")
    assert equal(latex, f"{b.numerator}/{b.denominator}") == (a == b)


def golds() -> list[Any]:
    """Every gold of the evaluation files, without repeats."""
    found: dict[str, Any] = {}
    for file in sorted(DATA.glob("*.json*")):
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        text = raw.decode()
        rows = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else [json.loads(line) for line in text.splitlines() if line.strip()]
        )
        for row in rows:
            gold = row.get("answer", row.get("final_answer"))
            found[repr(gold)] = gold
    return [gold for gold in found.values() if gold is not None]


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the evaluation files")
def test_every_gold_is_its_own_right_answer() -> None:
    with RewardPool(Math(), 1) as pool:
        for index, gold in enumerate(golds()):
            for way, text in enumerate(map(str, gold if isinstance(gold, list) else [gold])):
                for form, answer in enumerate((text, text.strip().replace("\\frac", "\\dfrac") + ".")):
                    pool.submit((index, way, form), f"</think> \\boxed{{{answer}}}", gold)
        verdicts = pool.drain()
    assert len(verdicts) > 2_000
    assert {key: verdict for key, verdict in verdicts.items() if verdict.score != 1.0} == {}


# -- graders, scopes and guesses ---------------------------------------------------------------------------------------

GRADERS = ("ours", "deepscaler", "math_verify", "either", "both")


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("5", "5", GRADERS),
        ("5", "6", ()),
        ("\\frac{1}{2}", "\\frac{2}{4}", ("ours", "math_verify", "either")),
        ("5", "x_1=5", ("ours", "math_verify", "either")),
        ("(1,2)", "\\{1,2\\}", ("math_verify", "either")),
        ("1 000", "1+000", ("deepscaler", "either")),  # a blank between digits is a sum there
        ("10", "10 weeks", ("ours", "deepscaler", "either")),
        ("x+1", "1+x", GRADERS),
        (["7", "x+1"], "1+x", GRADERS),
    ],
)
def test_graders_disagree_where_their_rules_do(gold: Any, answer: str, right: tuple[str, ...]) -> None:
    found = {grader: Math(grader=grader).grade(boxed(answer), gold).score for grader in GRADERS}
    assert found == {grader: float(grader in right) for grader in GRADERS}


def test_either_takes_the_verdict_of_the_grader_that_does_not_fail() -> None:
    gold = "\\frac{1}{0}"  # math-verify refuses it
    assert Math(grader="math_verify").grade(boxed("5"), gold).status == "verifier_error"
    assert Math(grader="either").grade(boxed("5"), gold).status == "verifier_error"
    assert Math(grader="either").grade(boxed("1/0"), gold).score == 1.0
    assert Math(grader="both").grade(boxed("5"), gold).score == 0.0  # one says no
    assert Math(grader="both").grade(boxed("1/0"), gold).score is None


@pytest.mark.parametrize(
    ("response", "answer", "deepscaler", "whole"),
    [
        ("<think>\\boxed{1}</think> \\boxed{2}", "2", "2", "2"),
        ("<think>\\boxed{1}</think> two", None, None, "1"),
        ("<think>\\boxed{1}", None, None, "1"),
        ("<think>a</think> \\boxed{2} </think> \\boxed{3}", "3", "2", "3"),
        ("<think>a</think> \\fbox{2}", "2", None, "2"),
        ("<think>a</think> so $2$.", None, None, "2"),
    ],
)
def test_scopes(response: str, answer: str | None, deepscaler: str | None, whole: str | None) -> None:
    assert Math().extract(response) == answer
    assert Math(scope="deepscaler").extract(response) == deepscaler
    assert Math(scope="whole").extract(response) == whole


@pytest.mark.parametrize(
    ("response", "guess"),
    [
        ("\\boxed{5}", 1.0),
        ("so the answer is 5.", 1.0),
        ("we get $x = 5$", 1.0),
        ("3 + 2 makes 5", 1.0),
        ("5 and then 6", 0.0),
        ("the answer is five", 0.0),
        ("\\boxed{2^{3^{4^5}}}", None),
        ("nothing", None),
    ],
)
def test_an_answer_in_the_wrong_place_is_guessed_at_but_never_a_reward(response: str, guess: float | None) -> None:
    verdict = Math(think="template").grade(response, "5")
    assert (verdict.score, verdict.status, verdict.detail.get("lenient")) == (0.0, "no_answer", guess)


@pytest.mark.parametrize("grader", GRADERS)
def test_the_example_of_a_gold_is_accepted_by_every_grader(grader: str) -> None:
    reward = Math(grader=grader)  # type: ignore[arg-type]
    for gold in (5, "\\frac{1}{2}", ["x+1", "7"], "so \\boxed{3}", 2.5):
        assert reward.grade(reward.example(gold), gold).score == 1.0


@given(st.text(alphabet="0123456789xy+-*/^(),.=\\{}fracsqtod %$", max_size=25) | st.text(max_size=25))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_no_answer_raises_from_any_grader(text: str) -> None:
    for grader in GRADERS:
        for scope in ("answer", "deepscaler", "whole"):
            verdict = Math(grader=grader, scope=scope).grade(boxed(text), "x+1")  # type: ignore[arg-type]
            assert verdict.score in (0.0, 1.0, None)
