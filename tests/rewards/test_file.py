"""A reward of the user's own: what it returns, what it may do wrong, and what is refused before a run."""

from pathlib import Path

import pytest

from longthink.collect import Grading
from longthink.errors import RecipeError, RewardError
from longthink.part import load_part
from longthink.recipe import parse_recipe
from longthink.rewards.base import Reward
from longthink.rewards.countdown import Countdown as Verifier
from longthink.rewards.pool import RewardPool
from longthink.shape import pin_files
from longthink.tasks.countdown import Countdown
from longthink.trial import tried_files
from longthink.types import Problem
from longthink.validation import Source

GOOD = "def score(response, gold):\n    return float(str(gold) in response)\n"


def written(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return str(path)


def verdicts(table, *texts, deadline_s=5.0):
    reward = load_part(Reward, {"kind": "file", "deadline_s": deadline_s, **table})
    with RewardPool(reward, 1) as pool:
        for key, text in enumerate(texts):
            pool.submit(key, text, 42)
        return list(pool.drain().values())


def test_what_the_function_returns_is_the_score(tmp_path):
    found = verdicts({"path": written(tmp_path, GOOD)}, "it is 42", "it is 41")
    assert [(v.score, v.status) for v in found] == [(1.0, "ok"), (0.0, "ok")]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("raise ValueError('no')", "verifier_error"),
        ("return None", "verifier_error"),
        ("return float('nan')", "verifier_error"),
        ("return 'good'", "verifier_error"),
        ("while True: pass", "timeout"),
        ("import os; os._exit(3)", "crash"),
    ],
)
def test_a_function_that_fails_gives_no_score_and_harms_no_other(tmp_path, body, status):
    text = f"def score(response, gold):\n    if response == 'good': return True\n    {body}\n"
    bad, good = verdicts({"path": written(tmp_path, text)}, "bad", "good", deadline_s=1.0)
    assert (bad.score, bad.status) == (None, status) and bad.detail["why"]
    assert (good.score, good.status) == (1.0, "ok")


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        (None, {"path": "nowhere.py"}, "cannot be read"),
        ("def score(:\n", {}, "is not Python"),
        ("def other(response, gold): return 0\n", {}, "defines no score; it has other"),
        (GOOD, {"sha256": "0" * 64}, "changed since its hash was recorded"),
    ],
)
def test_a_file_that_cannot_serve_is_refused_before_the_run(tmp_path, text, changes, words):
    table = {"kind": "file", "path": written(tmp_path, text or ""), **changes}
    with pytest.raises(RecipeError, match=words):
        load_part(Reward, table)


def recipe(reward, **changes):
    base = {"name": "r", "model": {"path": "m"}, "task": {"kind": "countdown"}, "reward": reward}
    return parse_recipe(base | changes, "r")


def test_the_recipe_of_a_run_holds_the_hash(tmp_path):
    table = {"kind": "file", "path": written(tmp_path, GOOD)}
    pinned = pin_files(recipe(table, shape=[table | {"name": "mine", "weight": 0.5}]))
    assert len(pinned.reward["sha256"]) == 64 and pinned.shape[0]["sha256"] == pinned.reward["sha256"]
    assert pin_files(pinned) == pinned
    written(tmp_path, GOOD + "# changed\n")
    with pytest.raises(RecipeError, match="changed since"):
        pin_files(pinned)


def test_servers_are_not_made_to_run_files(tmp_path):
    with pytest.raises(RecipeError, match="do not run reward files"):
        recipe({"kind": "file", "path": "x.py"}, reward_servers=["host:1"])


def test_check_tries_the_file_on_sample_responses(tmp_path):
    tasks = {"": Countdown()}
    good = load_part(Reward, {"kind": "file", "path": written(tmp_path, GOOD)})
    (line,) = tried_files(tasks, {"": good}, {}, {})
    assert line.startswith("reward: ") and "gives 0.0 to nothing, 1.0 to the gold" in line
    (tmp_path / "bad").mkdir()
    bad = load_part(
        Reward, {"kind": "file", "path": written(tmp_path / "bad", "def score(response, gold): return 1 / len(response)\n")}
    )
    with pytest.raises(RewardError, match="fails on a sample response: line 1: ZeroDivisionError"):
        tried_files(tasks, {"": Verifier()}, {"bad": bad}, {})


def test_a_file_that_cannot_be_run_is_one_sentence(tmp_path):
    reward = load_part(Reward, {"kind": "file", "path": written(tmp_path, "import nosuchmodule\n" + GOOD)})
    for rewards, parts in (({"": reward}, {}), ({"": Verifier()}, {"mine": reward})):
        with pytest.raises(RewardError, match=r"mine\.py cannot be run: ModuleNotFoundError: No module named") as error:
            tried_files({"": Countdown()}, rewards, parts, {})
        assert "Traceback" not in str(error.value)


def test_every_domain_tries_its_own_file_on_its_own_problem(tmp_path):
    text = "def score(response, gold):\n    return float(gold['target'] > 0)\n"
    reward = load_part(Reward, {"kind": "file", "path": written(tmp_path, text)})

    class Words(Countdown):
        def problem(self, split, index):
            return Problem("w", (), "seven")

    assert len(tried_files({"a": Words(), "b": Countdown()}, {"a": Verifier(), "b": reward}, {}, {})) == 1
    sets = {"a": Source({"a": Words()}, Grading({"a": Verifier()})), "b": Source({"b": Countdown()}, Grading({"b": reward}))}
    (line,) = tried_files({"": Words()}, {"": Verifier()}, {}, sets)
    assert line.startswith("validation set b: ")


def test_a_file_may_hold_dataclasses_and_leave_by_the_door(tmp_path):
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: float\n"
    assert verdicts({"path": written(tmp_path, text + "def score(response, gold): return A(0.5).x\n")}, "x")[0].score == 0.5
    (left,) = verdicts({"path": written(tmp_path, "import sys\ndef score(response, gold):\n    sys.exit(3)\n")}, "x")
    assert (left.status, left.detail["why"]) == ("verifier_error", "line 3: SystemExit: 3")


def test_what_else_a_function_may_return(tmp_path):
    values = "{'f': numpy.float32(0.5), 'i': numpy.int64(1), 't': True}"
    text = f"import numpy\ndef score(response, gold):\n    return {values}[response]\n"
    assert [v.score for v in verdicts({"path": written(tmp_path, text)}, "f", "i", "t")] == [0.5, 1.0, 1.0]
    (none,) = verdicts({"path": written(tmp_path, "def score(response, gold): return None\n")}, "x")
    assert "returned None, expected a finite number" in none.detail["why"]
