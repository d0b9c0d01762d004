"""Short answers: quantities with units and tolerance, words, and what falls through to algebra."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longthink.rewards.short_answer import ShortAnswer

# gold, answer, score
ROWS = [
    # quantities
    ("9.8 m/s^2", r"9.8\ \mathrm{m/s^2}", 1),
    ("9.8 m/s^2", r"9.8\,\text{m}\,\text{s}^{-2}", 1),
    ("9.8 m/s^2", r"9.81 \text{ m/s}^2", 1),
    ("9.8 m/s^2", "9.8", 1),
    ("9.8", "9.8 m/s^2", 1),
    ("9.8 m/s^2", "9.8 m/s", 0),
    ("9.8 m/s^2", "10.8 m/s^2", 0),
    ("5 km", "5000 m", 1),
    ("5 km", r"5 \times 10^3 \text{ m}", 1),
    ("5 km", "5 m", 0),
    ("5 km", "5 kg", 0),
    ("2 hours", "7200 s", 1),
    ("2 hours", "120 min", 1),
    ("60 miles per hour", "60 mph", 1),
    ("36 km/h", "10 m/s", 1),
    ("1.5 N", "1.5 newtons", 1),
    ("25 °C", "298.15 K", 1),
    ("25 °C", r"25^\circ\text{C}", 1),
    ("25 °C", "25 K", 0),
    ("3.0e8 m/s", r"3 \times 10^{8} \mathrm{m/s}", 1),
    ("3.0e8 m/s", "299792458 m/s", 1),
    ("3.0e8 m/s", "3e9 m/s", 0),
    ("6.02e23", r"6.02 \times 10^{23}", 1),
    ("1.6e-19 C", r"1.6\times10^{-19}\,C", 1),
    ("1.6e-19 C", "0", 0),
    ("0.5 µm", "500 nm", 1),
    ("4.7 kΩ", r"4700\ \Omega", 1),
    ("1 atm", "101325 Pa", 1),
    ("-40 J", "40 J", 0),
    ("-40 J", "\u221240 J", 1),
    ("20%", "0.2", 1),
    ("20%", r"20\%", 1),
    ("20%", "20", 1),
    ("20%", "30%", 0),
    ("$1,250", "1250 dollars", 1),
    ("3/4", "0.75", 1),
    (r"\frac{3}{4}", "0.75", 1),
    ("0.333", "1/3", 1),
    ("12", "x = 12", 1),
    ("12", r"\approx 12", 1),
    ("12", "about 12 apples", 1),
    ("12 apples", "12 oranges", 0),
    (12, "12", 1),
    (12.5, "12.5", 1),
    (["7", "142"], "142", 1),
    *[("5", a, 0) for a in ("5 sqrt(2)", "5x - 3", "5 x*3", "5a^2", "5i", "5 pi", "5 thousand", "5 dozen")],
    *[("5", a, 1) for a in ("5 m", "5 apples", "5 m/s^2", "5 rad", "5%")],
    ("5 m", "1e300 Ym", 0),
    # integers are counted, not measured
    ("1024", "1025", 0),
    ("1024", "1024.0", 1),
    ("1024 m", "1025 m", 1),
    # hedges
    ("5", "5 or 6", 0),
    ("5", "4 to 6", 0),
    ("5", r"5 \pm 3", 0),
    ("5", "5, 6", 0),
    ("5 m", "5 m or 6 m", 0),
    # words
    ("the mitochondrion", "Mitochondrion.", 1),
    ("Krebs cycle", r"\text{the Krebs cycle}", 1),
    ("Krebs cycle", "Calvin cycle", 0),
    ("oxygen", "not oxygen", 0),
    ("increases", "decreases", 0),
    ("Yes", "yes", 1),
    ("H_2O", "H2O", 0),
    # formulas
    ("x^2 + 2x + 1", "(x+1)^2", 1),
    ("mv^2/2", r"\frac{1}{2} m v^2", 1),
    ("mv^2/2", "mv^2", 0),
    (r"\frac{\pi}{2}", r"\pi/2", 1),
]


@pytest.mark.parametrize(("gold", "answer", "score"), ROWS)
def test_rows(gold: object, answer: str, score: float) -> None:
    assert ShortAnswer().grade(f"<think>hm</think> So it is \\boxed{{{answer}}}.", gold).score == score


@pytest.mark.parametrize(
    "response",
    [r"\boxed{5 m}", "<answer>5 m</answer>", "The answer is 5 m.", "**Answer:** 5 m", "The answer is 4 m. No: answer: 5 m"],
)
def test_where_the_answer_stands(response: str) -> None:
    assert ShortAnswer().grade(f"<think>4 m?</think> {response}", "5 m").score == 1.0


def test_tolerance_is_relative_and_chosen() -> None:
    grade = ShortAnswer(tolerance=0.001).grade
    assert grade(r"\boxed{9.81}", "9.80").score == 0.0
    assert grade(r"\boxed{9.805}", "9.80").score == 1.0
    assert ShortAnswer(tolerance=0).grade(r"\boxed{0.1}", "1/10").score == 1.0


def test_an_answer_in_no_place_is_guessed_at() -> None:
    verdict = ShortAnswer().grade("so we get 5.0 m", "5")
    assert (verdict.score, verdict.status, verdict.detail["lenient"]) == (0.0, "no_answer", 1.0)
    assert ShortAnswer().grade("<think> \\boxed{5}", "5").status == "no_answer"


@pytest.mark.parametrize("answer", ["1e999999999", "9" * 5000, "2^{3^{4^{5}}}", "1" + "0" * 999 + "m^" + "9" * 20, "((" * 600])
def test_large_answers_are_refused_or_wrong(answer: str) -> None:
    verdict = ShortAnswer().grade(rf"\boxed{{{answer}}}", "5 m")
    assert verdict.score == 0.0 and verdict.status in ("ok", "limit")


@pytest.mark.parametrize("gold", [None, "", [], {"a": 1}, True, float("nan")])
def test_a_bad_gold_is_our_fault(gold: object) -> None:
    verdict = ShortAnswer().grade(r"\boxed{5}", gold)
    assert (verdict.score, verdict.status) == (None, "verifier_error")


@pytest.mark.parametrize("gold", ["5 km", "x+1", ["7", "8"], 4, "Krebs cycle"])
def test_the_example_of_a_gold_is_accepted(gold: object) -> None:
    assert ShortAnswer().grade(ShortAnswer().example(gold), gold).score == 1.0


@given(st.text(alphabet="0123456789.eE+-*/^x=%° mskgNC\\{}µ", max_size=40) | st.text(max_size=40))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_no_answer_raises(text: str) -> None:
    for gold in ("9.8 m/s^2", "oxygen"):
        assert ShortAnswer().grade(rf"</think> \boxed{{{text}}}", gold).score in (0.0, 1.0, None)
