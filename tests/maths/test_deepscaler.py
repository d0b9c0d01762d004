"""DeepScaleR's grader: its rules one by one, each a row (gold, answer, verdict)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longthink.maths.deepscaler import equal_by_deepscaler
from longthink.maths.extract import deepscaler_box

ROWS = [
    # the string step
    (r"\frac{1}{2}", "0.5", True),
    (r"\frac{1}{2}", "1/2", True),
    (r"\frac12", r"\dfrac{1}{2}", True),
    (r"\frac1{72}", r"\tfrac{1}{72}", True),
    (r"\sqrt2", r"\sqrt{2}", True),
    ("5", "x=5", True),
    ("5", "x_1=5", False),  # more than two characters before the sign
    (r"90^\circ", "90", True),
    (r"\text{yes}", "yes", True),
    (r"5 \text{ cm}", "5", True),
    ("0.7", ".7", True),
    # the symbolic step: units, powers of ten, commas, words between answers
    ("10 inches", "10", True),
    ("10 square miles", "10", False),
    ("20%", "20", True),
    (r"\$5", "5", True),
    ("1,234,567", "1234567", True),
    ("3 and 4", "3,4", True),
    ("3 or 4", "3 and 4", True),
    ("7 3/4", "31/4", True),
    (r"7 \frac{3}{4}", "7.75", True),
    ("5.0", "5", True),
    ("5", "5.00000001", True),  # within 1e-7 of an integer
    ("5", "5.001", False),
    ("YES", "yes", True),
    # fractions agree only as strings, integers only with integers
    ("1/2", "2/4", False),
    ("2/4", "1/2", False),
    ("2", "4/2", False),
    ("4", r"2^2", False),
    ("4", r"\sqrt{16}", False),
    # tuples: same brackets, same number of parts
    ("(1,2)", "( 1, 2 )", True),
    ("(1,2)", "[1,2]", False),
    ("(1,2)", "(1,2,3)", False),
    ("(1,2)", "(2,1)", False),
    ("(1,2x)", "(1,x*2)", True),
    # algebra: two letters at most, no braces or parentheses or two digits after ^
    ("x+1", "1+x", True),
    ("2x", "x*2", True),
    ("x^2+2x+1", "(x+1)^2", True),
    ("x+y", "y+x", True),
    ("x+y+z", "z+y+x", False),
    ("x^{n}", "x^n", True),  # equal once the braces are gone
    ("x^10+1", "1+x^10", False),
    ("2^(3)", "8", False),
    (r"2\sqrt{3}", r"\sqrt{12}", True),
    (r"2\pi", r"\pi \cdot 2", True),
    ("x", "y", False),
    ("5", "", False),
]


@pytest.mark.parametrize(("gold", "answer", "equal"), ROWS)
def test_rules(gold: str, answer: str, equal: bool) -> None:
    assert equal_by_deepscaler(gold, answer) is equal


def test_the_parser_that_executes_text_is_given_arithmetic_only(tmp_path: object) -> None:
    for text in ("[].__class__", "a.a", "'a'*9", "a if a else a", "a:=1", "a@a", "{a}", "a;a", "\u0430(a)"):
        assert not equal_by_deepscaler("aa", text)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{1} \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} \boxed 2", None),
        (r"\boxed{1} \boxed{2", None),
        (r"\boxed {1}", None),
        (r"\fbox{1}", None),
        (r"\boxed{1} \fbox{2}", "1"),
        ("", None),
    ],
)
def test_boxes(text: str, inside: str | None) -> None:
    assert deepscaler_box(text) == inside


@given(st.text(alphabet="0123456789xy+-*/^(),.=\\{}frac sqrt%$", max_size=30) | st.text(max_size=30))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_no_text_raises(text: str) -> None:
    assert equal_by_deepscaler(text, text)
    equal_by_deepscaler("x+1", text)
    equal_by_deepscaler(text, "1/2")
