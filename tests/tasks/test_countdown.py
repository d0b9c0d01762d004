"""Countdown: splits, problems, teacher. Every claim is checked on generated problems, not on samples picked by hand."""

import itertools
import operator
import re
from collections import Counter
from functools import cache

import pytest

from longthink.errors import TaskError
from longthink.rewards.countdown import Countdown as CountdownReward
from longthink.tasks.countdown import Countdown
from longthink.types import Problem

SPLITS = ("train", "validation", "test")
EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (-?\d+)")
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
TASK, REWARD = Countdown(), CountdownReward()


@cache
def problems(split: str) -> tuple[Problem, ...]:
    """The first 2,000 problems of a split."""
    return tuple(TASK.problem(split, index) for index in range(2000 if split == "train" else 800))


def test_every_set_of_numbers_is_in_one_split() -> None:
    splits: Counter[str] = Counter()
    for numbers in itertools.combinations_with_replacement(range(1, 21), 3):
        (split,) = {TASK.split_of(order) for order in itertools.permutations(numbers)}
        splits[split] += 1
    assert splits.total() == 1540
    assert set(splits) == set(SPLITS)
    # shares are 0.75, 0.10 and 0.15 of a hash; three standard deviations of 1,540 draws are below 0.034
    assert abs(splits["train"] / 1540 - 0.75) < 0.034
    assert abs(splits["validation"] / 1540 - 0.10) < 0.034
    assert abs(splits["test"] / 1540 - 0.15) < 0.034


def test_generated_splits_share_no_set_of_numbers() -> None:
    sets = {split: {tuple(sorted(p.gold["numbers"])) for p in problems(split)} for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not sets[one] & sets[other]
    for split in SPLITS:
        assert {TASK.split_of(numbers) for numbers in sets[split]} == {split}


def test_splits_do_not_depend_on_the_seed() -> None:
    numbers = list(itertools.combinations_with_replacement(range(1, 21), 3))[::17]
    assert [TASK.split_of(n) for n in numbers] == [Countdown(seed=5).split_of(n) for n in numbers]


@pytest.mark.parametrize("split", SPLITS)
def test_problem_is_pure(split: str) -> None:
    again = Countdown()
    for index in (799, 0, 7, 0):
        assert again.problem(split, index) == problems(split)[index]


def test_problems_differ_by_index_and_by_seed() -> None:
    assert len({p.id for p in problems("train")}) > 1500
    other = [Countdown(seed=1).problem("train", index).id for index in range(50)]
    assert sum(a == b.id for a, b in zip(other, problems("train")[:50], strict=True)) < 3


def test_a_problem_is_its_text() -> None:
    problem = TASK.make((3, 7, 12), 79)
    assert problem.id == "3_7_12_->_79"
    assert problem.prompt == ({"role": "user", "content": "3 7 12 -> 79"},)
    assert problem.gold == {"numbers": [3, 7, 12], "target": 79}


@pytest.mark.parametrize("split", SPLITS)
def test_numbers_and_target_are_in_range(split: str) -> None:
    for problem in problems(split):
        numbers, target = problem.gold["numbers"], problem.gold["target"]
        assert len(numbers) == 3 and all(1 <= n <= 20 for n in numbers)
        assert 10 <= target <= 99 and target not in numbers


@pytest.mark.parametrize("split", SPLITS)
def test_every_gold_response_is_accepted(split: str) -> None:
    for problem in problems(split):
        verdict = REWARD.grade(TASK.gold_response(problem), problem.gold)
        assert (verdict.score, verdict.status) == (1.0, "ok"), problem.id


@pytest.mark.parametrize("split", SPLITS)
def test_traces_are_graded_and_state_only_true_equations(split: str) -> None:
    scores = Counter()
    for draw, problem in enumerate(problems(split)[:500]):
        trace = TASK.trace(problem, draw)
        verdict = REWARD.grade(trace, problem.gold)
        assert verdict.status == "ok" and verdict.score in (0.0, 1.0), trace
        scores[verdict.score] += 1
        thinking, _, _ = trace.partition("</think>")
        equations = EQUATION.findall(thinking)
        assert len(equations) == thinking.count("="), trace
        for left, op, right, result in equations:
            assert OPERATORS[op](int(left), int(right)) == int(result), trace
            assert 0 <= int(result) <= 99, trace
    assert min(scores[0.0], scores[1.0]) > 50, "a teacher worth training on is sometimes right and sometimes wrong"


def test_traces_restate_the_target_and_judge_rightly() -> None:
    for draw, problem in enumerate(problems("train")[:200]):
        target = problem.gold["target"]
        for attempt in TASK.trace(problem, draw).partition("</think>")[0].split("wait"):
            for reached, aim, word in re.findall(r"= (\d+) \? (\d+) (yes|no)", attempt):
                assert int(aim) == target
                assert (word == "yes") == (int(reached) == target)


def test_trace_is_pure_and_its_draws_differ() -> None:
    problem = problems("train")[0]
    traces = [TASK.trace(problem, draw) for draw in range(20)]
    assert traces == [Countdown().trace(problem, draw) for draw in range(20)]
    assert len(set(traces)) > 10


def test_a_teacher_that_gives_up_at_once_makes_one_attempt() -> None:
    hasty = Countdown(give_up=1.0, overthink=0.0)
    for draw, problem in enumerate(problems("train")[:100]):
        assert hasty.trace(problem, draw).count("?") == 1


def test_attempts_are_bounded() -> None:
    stubborn = Countdown(give_up=0.0, overthink=1.0, max_attempts=5)
    for draw, problem in enumerate(problems("train")[:100]):
        assert stubborn.trace(problem, draw).count("?") == 5


def test_the_task_has_no_end() -> None:
    assert TASK.size("train") is None


@pytest.mark.parametrize("split", ["validation", "test"])
def test_no_problem_is_evaluated_twice(split: str) -> None:
    """Not even with its numbers in another order: an interval over problems needs distinct ones."""
    seen = {(*sorted(p.gold["numbers"]), p.gold["target"]) for p in (TASK.problem(split, i) for i in range(800))}
    assert len(seen) == 800


def test_more_problems_than_there_are_is_said() -> None:
    with pytest.raises(TaskError, match="distinct problems; ask for fewer"):
        Countdown(count=2, high=6, min_target=2).problem("test", 500)
