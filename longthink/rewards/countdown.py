"""Countdown's verifier: every number exactly once, exact value, no evaluation of model text."""

import ast
import re
from fractions import Fraction
from typing import Any, Literal

from longthink.rewards.base import Reward, answer_region
from longthink.types import Verdict

__all__ = ["Countdown"]

MAX_CHARS = 200
ALLOWED = re.compile(r"[0-9+\-*/() ]+")
TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class Countdown(Reward):
    """1 for an expression after `</think>` that uses all numbers once and equals the target, else 0.

    An `<answer>…</answer>` pair, if there is one after the thinking, holds the expression (the last pair
    counts); otherwise the whole rest does. Division is exact. Gold: {"numbers": [...], "target": t}.
    Source: TinyZero's rules without its partial credit of 0.1.
    """

    think: Literal["required", "optional"] = "required"

    def grade(self, response: str, gold: Any) -> Verdict:
        try:
            numbers, target = sorted(int(n) for n in gold["numbers"]), Fraction(str(gold["target"]))
        except (KeyError, TypeError, ValueError, ArithmeticError):
            return Verdict(None, "verifier_error", detail={"gold": repr(gold)[:200]})
        region = answer_region(response, self.think)
        if region is None:
            return Verdict(0.0, "no_answer")
        tagged = TAG.findall(region)
        answer = (tagged[-1] if tagged else region).strip()
        if not answer:
            return Verdict(0.0, "no_answer")
        if len(answer) > MAX_CHARS:
            return Verdict(0.0, "limit", answer[:MAX_CHARS], {"why": f"longer than {MAX_CHARS} characters"})
        value, used, why = evaluate(answer)
        if value is None:
            return Verdict(0.0, "ok", answer, {"why": why})
        if sorted(used) != numbers:
            return Verdict(0.0, "ok", answer, {"why": "does not use each number exactly once"})
        return Verdict(float(value == target), "ok", answer, {"value": str(value)})


def evaluate(text: str) -> tuple[Fraction | None, list[int], str]:
    """The exact value of an arithmetic expression, the numbers in it, and why there is no value.

    >>> evaluate("( 3 + 7 ) * 12")[:2]
    (Fraction(120, 1), [3, 7, 12])
    >>> evaluate("9 ** 9")
    (None, [], 'not plain arithmetic')
    """
    if not ALLOWED.fullmatch(text):
        return None, [], "characters outside 0-9 + - * / ( )"
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None, [], "not an expression"
    used: list[int] = []

    def walk(node: ast.AST) -> Fraction:
        match node:
            case ast.Expression(body=body):
                return walk(body)
            case ast.Constant(value=int(value)):
                used.append(value)
                return Fraction(value)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in (ast.Add, ast.Sub, ast.Mult, ast.Div):
                a, b = walk(left), walk(right)
                match op:
                    case ast.Add():
                        return a + b
                    case ast.Sub():
                        return a - b
                    case ast.Mult():
                        return a * b
                return a / b
        raise ValueError("not plain arithmetic")

    try:
        return walk(tree), used, ""
    except ZeroDivisionError:
        return None, [], "divides by zero"
    except (ValueError, RecursionError):
        return None, [], "not plain arithmetic"
