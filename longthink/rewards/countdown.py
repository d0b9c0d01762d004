"""Countdown's verifier: every number exactly once, exact value, no evaluation of model text."""

import ast
import json
import re
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

from longthink.maths.extract import answer_tag
from longthink.rewards.base import Reward, answer_region
from longthink.types import Verdict

__all__ = ["Countdown"]

MAX_CHARS = 200
ALLOWED = re.compile(r"[0-9+\-*/() ]+")
EXPRESSION = re.compile(r"[\d+\-*/() ]{3,}")
TAIL_CHARS = 2_000


class Countdown(Reward):
    """1 for an expression after the thinking that uses all numbers once and equals the target.

    An `<answer>…</answer>` pair, if there is one after the thinking, holds the expression (the last pair
    counts); otherwise the whole rest does, unless `tags` are required. Division is exact.
    Gold: {"numbers": [...], "target": t}; numbers may be text with commas. `credit` is what a wrong answer is worth:
    nothing; `tinyzero` 0.1 for any answer; `reasoning_gym` 0.05 for arithmetic and 0.01 for anything else, a missing answer
    included.
    Source: TinyZero's and reasoning-gym's rules, which compare within 1e-5 and 1e-6 what is exact here.
    """

    tags: Literal["required", "optional"] = "optional"
    credit: Literal["none", "tinyzero", "reasoning_gym"] = "none"

    def read(self, gold: Any) -> tuple[list[int], Fraction]:
        gold = json.loads(gold) if isinstance(gold, str) else gold
        if not isinstance(gold, dict) or not {"numbers", "target"} <= set(gold):
            raise TypeError('expected {"numbers": [...], "target": t}')
        numbers = gold["numbers"].split(",") if isinstance(gold["numbers"], str) else gold["numbers"]
        return sorted(int(n) for n in numbers), Fraction(str(gold["target"]))

    def extract(self, response: str) -> str | None:
        region = answer_region(response, self.think)
        if region is None:
            return None
        tagged = answer_tag(region)
        return tagged if tagged or self.tags == "required" or "</answer>" in region else region.strip() or None

    def guess(self, response: str) -> str | None:
        found = [text.strip() for text in EXPRESSION.findall(response[-TAIL_CHARS:])]
        return next((text for text in reversed(found) if re.search(r"\d.*[+\-*/].*\d", text)), None)

    def grade(self, response: str, gold: Any) -> Verdict:
        verdict = super().grade(response, gold)
        floor = 0.01 if self.credit == "reasoning_gym" and verdict.status == "no_answer" else verdict.score
        return replace(verdict, score=floor)

    def judge(self, answer: str, gold: tuple[list[int], Fraction]) -> Verdict:
        numbers, target = gold
        wrong = {"none": 0.0, "tinyzero": 0.1, "reasoning_gym": 0.05}[self.credit]
        unread = 0.01 if self.credit == "reasoning_gym" else wrong
        if len(answer) > MAX_CHARS:
            return Verdict(0.0, "limit", answer[:MAX_CHARS], {"why": f"longer than {MAX_CHARS} characters"})
        value, used, why = evaluate(answer)
        if value is None:
            return Verdict(unread, "ok", answer, {"why": why})
        if sorted(used) != numbers:
            return Verdict(wrong, "ok", answer, {"why": "does not use each number exactly once"})
        return Verdict(1.0 if value == target else wrong, "ok", answer, {"value": str(value)})

    def judge_guess(self, answer: str, gold: tuple[list[int], Fraction]) -> float:
        return float(self.judge(answer, gold).score == 1.0)


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
