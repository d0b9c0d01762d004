"""The quick look at two expressions: a difference it finds is one, and what it cannot read it does not judge."""

import contextlib

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from longthink.maths.numeric import Reader, differ

X, Y = sympy.symbols("x y", positive=True)
leaves = st.sampled_from([X, Y, sympy.pi, sympy.I, sympy.sqrt(2), sympy.Rational(3, 7), *map(sympy.Integer, range(1, 8))])


def grown(parts: st.SearchStrategy[sympy.Expr]) -> st.SearchStrategy[sympy.Expr]:
    pair = st.tuples(parts, parts)
    return st.one_of(
        pair.map(lambda p: p[0] + p[1]),
        pair.map(lambda p: p[0] - p[1]),
        pair.map(lambda p: p[0] * p[1]),
        pair.map(lambda p: p[0] / p[1] if p[1] != 0 else p[0]),
        st.tuples(parts, st.integers(2, 4)).map(lambda p: p[0] ** p[1]),
    )


@given(st.recursive(leaves, grown, max_leaves=6))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_ways_of_writing_one_expression_do_not_differ(expression: sympy.Expr) -> None:
    forms = {
        sympy.latex(form) for form in (expression, sympy.expand(expression), sympy.factor(expression), sympy.together(expression))
    }
    forms = {form for form in forms if "zoo" not in form and "infty" not in form}
    for one in forms:
        for other in forms:
            assert not differ(one, other), (one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2", "3"), ("x", "y"), ("x", "2"), ("x+1", "x-1"), (r"\frac{x}{2}", "2x"), (r"\sqrt[3]{8}", "3"), ("3i", "-3i"),
        ("x^2", "x^3"), (r"2\pi", r"\pi"), (r"\frac{1}{3}", "0.3332"), ("e^x", "x^e"), ("(x+1)(x-1)", "x^2+1"), ("ab", "a+b"),
    ],
)  # fmt: skip
def test_differences_are_seen(one: str, other: str) -> None:
    assert differ(one, other) and differ(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\frac{1}{3}", "0.333333"), ("1/2x", "x/2"), ("x^12", "x^{12}"), (r"1\frac{4}{5}", "9/5"), ("5!", "120"), ("f(x)", "x"),
        (r"\sin x", "x"), ("x>3", "y<2"), ("[1,2]", "(1,2)"), (r"\text{yes}", "y"), ("1/0", "2"), ("", "1"), ("2^{9^{9}}", "3"),
        ("((", "1"), ("x-x+5", "5"), (r"\sin^2 x+\cos^2 x", "1"),
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_or_not_at_all_is_not_judged(one: str, other: str) -> None:
    assert not differ(one, other) and not differ(other, one)


@given(st.text(alphabet="0123456789xyi+-*/^(){}[]. \\fracsqrtpi!=", max_size=40) | st.text(max_size=40))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_no_text_raises_more_than_said(text: str) -> None:
    assert not differ(text, text)
    with contextlib.suppress(ValueError, ArithmeticError):
        Reader(text).value()
