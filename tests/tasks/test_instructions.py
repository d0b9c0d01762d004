"""Prompts with instructions: every one can be checked, all kinds come, and no text is in two splits."""

from collections import Counter

import pytest

from longthink.errors import TaskError
from longthink.ifeval import CHECKS
from longthink.rewards.instructions import Instructions as Reward
from longthink.tasks.instructions import GROUPS, Instructions


def test_every_gold_can_be_read_and_every_kind_comes() -> None:
    task, reward, seen = Instructions(most=4), Reward(), Counter[str]()
    for index in range(600):
        problem = task.problem("train", index)
        instructions = reward.read(problem.gold)
        seen.update(one.id for one in instructions)
        groups = [at for one in instructions for at, group in enumerate(GROUPS) if one.id in group]
        assert len(groups) == len(set(groups)) and (len(groups) == len(instructions) or len(instructions) == 1)
        assert [m["role"] for m in problem.prompt] == ["user"]
    assert seen.keys() == CHECKS.keys()


def test_what_a_prompt_says_is_what_is_checked() -> None:
    """An answer written by hand to the instructions' words is accepted, and refused with one of them broken."""
    task, found = Instructions(most=1), dict[str, tuple[str, dict[str, object]]]()
    for index in range(600):
        problem = task.problem("train", index)
        (name,) = problem.gold["instruction_id_list"]
        found.setdefault(name, (problem.prompt[0]["content"], problem.gold))
    text, gold = found["detectable_format:number_bullet_lists"]
    count = gold["kwargs"][0]["num_bullets"]
    assert f"exactly {count} bullet points" in text
    points = "\n".join(f"* Point {i}." for i in range(count))
    assert [Reward().grade(answer, gold).score for answer in (points, f"{points}\n* One more.")] == [1.0, 0.0]
    text, gold = found["combination:repeat_prompt"]
    assert [Reward().grade(answer, gold).score for answer in (f"{text} Here it is.", "Here it is.")] == [1.0, 0.0]
    text, gold = found["startend:end_checker"]
    end = text.split('"')[1]
    assert [Reward().grade(answer, gold).score for answer in (f"Well. {end}", f"{end} Well.")] == [1.0, 0.0]


def test_the_same_index_is_the_same_problem_and_splits_share_none() -> None:
    splits = {split: [Instructions().problem(split, i) for i in range(300)] for split in ("train", "validation", "test")}
    texts = {split: {p.prompt[0]["content"] for p in problems} for split, problems in splits.items()}
    assert (
        not texts["train"] & texts["validation"]
        and not texts["train"] & texts["test"]
        and not texts["validation"] & texts["test"]
    )
    assert Instructions().problem("train", 7) == splits["train"][7] != Instructions(seed=1).problem("train", 7)
    with pytest.raises(TaskError, match="no split 'dev'"):
        Instructions().problem("dev", 0)
