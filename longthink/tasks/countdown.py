"""Countdown: combine all given numbers once into the target (TinyZero; DeepScaleR section 4.2).

Prompt `3 7 12 -> 79`; a response thinks in attempts and ends with an expression:
`3 + 7 = 10 , 10 * 12 … </think> ( 3 + 7 ) * 12`.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from longthink.errors import TaskError
from longthink.rng import derive_seed, rng
from longthink.tasks.base import Task
from longthink.types import Problem

__all__ = ["CHARACTERS", "WORDS", "Countdown", "TraceQuality", "trace_quality"]

WORDS = (*map(str, range(100)), "+", "-", "*", "=", ",", "?", "yes", "no", "wait", "(", ")", "->")

CHARACTERS = (*"0123456789+-*=,()> ?", *"abcdefghijklmnopqrstuvwxyzTF", "<code>", "</code>", "<output>", "</output>")

EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")
VERDICT = re.compile(r"(\d+) \? (\d+) (yes|no)\b")
TEST_SHARE, VALIDATION_SHARE = 0.15, 0.10


class Move(NamedTuple):
    """left op right = result, with the positions in the list of operands it consumes."""

    left: int
    op: str
    right: int
    result: int


class Countdown(Task):
    """Problems and a search teacher for Countdown with + - * and results kept in 0..`limit`.

    Splits go by the sorted numbers (hashed), so no set of numbers is in two splits. Validation and test hold no
    problem twice, in whatever order its numbers stand; training draws with repetition. The teacher tries random
    orders, restates the target before each verdict, gives up after a miss with hazard `give_up` and, after a
    hit, goes on needlessly with hazard `overthink`. A step may be written wrong and corrected (`slips`): with the verdicts and
    the second looks these are the verification, reflection and correction that STILL-3 (figure 4) counts.

    Source: DeepScaleR 4.2 names the task and gives neither generator nor prompt; both are ours.
    """

    seed: int = 0
    count: int = Field(3, ge=2, le=5)
    low: int = Field(1, ge=1)
    high: int = Field(20, le=99)
    limit: int = Field(99, ge=10)
    min_target: int = 10
    skill: float = Field(0.3, ge=0, le=1)
    give_up: float = Field(0.10, ge=0, le=1)
    overthink: float = Field(0.4, ge=0, le=1)
    slips: float = Field(0.0, ge=0, le=1, description="share of a trace's steps that are first written wrong, then corrected")
    max_attempts: int = Field(24, ge=1)
    write: Literal["words", "characters", "code"] = Field(
        "words", description="a trace in words, without blanks, or with attempts that an interpreter computes (format tags)"
    )

    def split_of(self, numbers: tuple[int, ...]) -> str:
        """The split all problems over this multiset of numbers belong to."""
        place = derive_seed(0, "countdown split", *sorted(numbers)) / 2**64
        return "test" if place < TEST_SHARE else "validation" if place < TEST_SHARE + VALIDATION_SHARE else "train"

    def size(self, split: str) -> int | None:
        return None

    @model_validator(mode="after")
    def _solvable(self) -> Self:
        if self.low > self.high or self.min_target > self.limit or self.high > self.limit:
            raise ValueError("expected low <= high <= limit and min_target <= limit: no problem fits otherwise")
        return self

    def problem(self, split: str, index: int) -> Problem:
        if split not in ("train", "validation", "test"):
            raise TaskError(f"countdown has no split {split!r}; expected train, validation or test")
        return self._draw(split, index) if split == "train" else _distinct(self, split).at(index)

    def _draw(self, split: str, index: int) -> Problem:
        """Candidate `index` of a split; the same problem may come again under another index."""
        draw = rng(self.seed, "countdown", split, index)
        while True:
            numbers = tuple(int(n) for n in draw.integers(self.low, self.high + 1, self.count))
            if self.split_of(numbers) != split:
                continue
            chain = self._chain(list(numbers), draw, None)
            if chain and chain[-1].result >= self.min_target and chain[-1].result not in numbers:
                return self.make(numbers, chain[-1].result)

    def make(self, numbers: tuple[int, ...], target: int) -> Problem:
        """The problem of these numbers and this target; its id is its content."""
        text = f"{' '.join(map(str, numbers))} -> {target}"
        return Problem(
            id=text.replace(" ", "_"),
            prompt=({"role": "user", "content": text},),
            gold={"numbers": list(numbers), "target": target},
        )

    def _moves(self, operands: list[int]) -> Iterator[tuple[int, int, Move]]:
        for i, j in itertools.permutations(range(len(operands)), 2):
            a, b = operands[i], operands[j]
            for op, result in (("+", a + b), ("-", a - b), ("*", a * b)):
                if 0 <= result <= self.limit and (op == "-" or i < j):
                    yield i, j, Move(a, op, b, result)

    def _chain(self, numbers: list[int], draw: np.random.Generator, target: int | None) -> list[Move]:
        """Random moves until one number is left; with a target the last move comes as close as it can."""
        operands, chain = list(numbers), []
        while len(operands) > 1:
            moves = list(self._moves(operands))
            if not moves:
                return []
            if target is not None and len(operands) == 2:
                i, j, move = min(moves, key=lambda m: abs(m[2].result - target))
            else:
                i, j, move = moves[int(draw.integers(len(moves)))]
            operands = [move.result] + [n for k, n in enumerate(operands) if k not in (i, j)]
            chain.append(move)
        return chain

    def trace(self, problem: Problem, draw: int) -> str:
        numbers, target = problem.gold["numbers"], problem.gold["target"]
        random = rng(self.seed, "countdown trace", problem.id, draw)
        skilled = random.random() < self.skill
        words: list[str] = []
        chain: list[Move] = []
        for _ in range(self.max_attempts):
            aim = target if skilled and random.random() < 0.8 else None
            tried = self._chain(numbers, random, aim)
            if not tried:
                continue
            chain = tried
            hit = chain[-1].result == target
            words.append(self._attempt(chain, target, hit, random))
            if random.random() < ((1 - self.overthink) if hit else self.give_up):
                break
            if hit:
                words.append("wait")
        text = f"{' '.join(words)} </think> {expression(chain)}"
        return text if self.write == "words" else text.replace(" ", "")

    def _attempt(self, chain: list[Move], target: int, hit: bool, random: np.random.Generator) -> str:
        """One attempt and its verdict."""
        steps = " , ".join(f"{m.left} {m.op} {m.right} = {self._slip(m, random)}{m.result}" for m in chain)
        if self.write == "code":
            return f"<code>{expression(chain)} == {target}</code><output>{hit}</output>{'yes' if hit else 'no'}"
        return f"{steps} ? {target} {'yes' if hit else 'no'}"

    def _slip(self, move: Move, random: np.random.Generator) -> str:
        """A wrong result that is taken back, or nothing."""
        if not self.slips or random.random() >= self.slips:
            return ""
        wrong = (move.result + int(random.integers(1, 10))) % (self.limit + 1)
        return f"{wrong} wait {move.left} {move.op} {move.right} = "

    def gold_response(self, problem: Problem) -> str:
        numbers, target = problem.gold["numbers"], problem.gold["target"]
        return f"<think></think> {expression(self._solve(numbers, target))}"

    def _solve(self, numbers: list[int], target: int) -> list[Move]:
        """A chain that reaches the target, by exhaustive search."""
        if len(numbers) == 1:
            return []
        for i, j, move in self._moves(numbers):
            rest = [move.result] + [n for k, n in enumerate(numbers) if k not in (i, j)]
            if len(rest) == 1 and move.result == target:
                return [move]
            if len(rest) > 1 and (tail := self._solve(rest, target)):
                return [move, *tail]
        return []


class _Distinct:
    """The problems of a split without repetition, found as they are asked for."""

    def __init__(self, task: Countdown, split: str) -> None:
        self.task, self.split, self.tried = task, split, 0
        self.found: list[Problem] = []
        self.seen: set[tuple[int, ...]] = set()

    def at(self, index: int) -> Problem:
        while len(self.found) <= index:
            problem = self.task._draw(self.split, self.tried)
            self.tried += 1
            key = (*sorted(problem.gold["numbers"]), problem.gold["target"])
            if key not in self.seen:
                self.seen.add(key)
                self.found.append(problem)
            elif self.tried > 1000 + 10 * len(self.found):
                raise TaskError(
                    f"countdown: the {self.split} split has only about {len(self.found)} distinct problems; ask for fewer"
                )
        return self.found[index]


@lru_cache(16)
def _distinct(task: Countdown, split: str) -> _Distinct:
    return _Distinct(task, split)


def expression(chain: list[Move]) -> str:
    """One expression for a chain of moves; intermediate results are replaced by their own expressions.

    >>> expression([Move(13, "*", 7, 91), Move(91, "-", 12, 79)])
    '( 13 * 7 ) - 12'
    """
    pending: list[tuple[int, str]] = []
    text = ""

    def operand(value: int) -> str:
        for index, (result, known) in enumerate(pending):
            if result == value:
                del pending[index]
                return known
        return str(value)

    for move in chain:
        text = f"{operand(move.left)} {move.op} {operand(move.right)}"
        pending.append((move.result, f"( {text} )"))
    return text


class TraceQuality(NamedTuple):
    """How far a model's thinking can be trusted: shares over all its equations and verdicts."""

    false_equations: float
    verdict_precision: float
    verdict_recall: float


def trace_quality(texts: Iterable[str]) -> TraceQuality:
    """Of all `a op b = c`, the share that is false; of all `r ? t yes|no`, precision and recall of `yes` for r = t.

    Nothing of a kind found counts as worst: 1.0 false, precision or recall 0.0.

    >>> trace_quality(["3 + 4 = 7 , 7 * 2 = 15 ? 15 yes", "3 + 4 = 7 , 7 - 2 = 5 ? 9 no"])
    TraceQuality(false_equations=0.25, verdict_precision=1.0, verdict_recall=1.0)
    """
    equations = false = said_yes = right_yes = hits = 0
    for text in texts:
        for a, op, b, c in EQUATION.findall(text):
            equations += 1
            false += int(c) != {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[op]
        for result, target, verdict in VERDICT.findall(text):
            hit, yes = result == target, verdict == "yes"
            hits, said_yes, right_yes = hits + hit, said_yes + yes, right_yes + (hit and yes)
    return TraceQuality(
        false / equations if equations else 1.0,
        right_yes / said_yes if said_yes else 0.0,
        right_yes / hits if hits else 0.0,
    )
