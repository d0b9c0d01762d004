"""Files of generated puzzles: the same command gives the same bytes, no two items and no two seeds share a question."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longthink import puzzles
from longthink.errors import TaskError
from longthink.puzzles import EXCLUDED, TASKS, plain, usable_tasks, write_puzzles
from longthink.rewards.puzzle import Puzzle

RESTLESS = ["isomorphic_strings", "list_functions", "polynomial_multiplication", "ransom_note"]  # without fixed hashes
QUICK = ["gcd", "dice", "acre", "gsm_symbolic", "survo", "pool_matrix", "bf", *RESTLESS]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four problems of each quick task, seed 7."""
    path = tmp_path_factory.mktemp("written") / "a.jsonl"
    said = write_puzzles(path, QUICK, 4, 7)
    assert said == f"{path}: {4 * len(QUICK)} problems, 4 of each of {len(QUICK)} tasks, seed 7"
    assert list(path.parent.iterdir()) == [path]
    return path


def test_the_same_seed_gives_the_same_bytes(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "12345")
    write_puzzles(tmp_path / "new" / "b.jsonl", QUICK, 4, 7)
    assert written.read_bytes() == (tmp_path / "new" / "b.jsonl").read_bytes()


def test_rows_are_what_the_verifier_reads(written: Path) -> None:
    found = rows(written)
    assert [row["gold"]["task"] for row in found] == [task for task in QUICK for _ in range(4)]
    for row in found:
        assert set(row) == {"prompt", "category", "gold"} and set(row["gold"]["entry"]) == {"question", "answer", "metadata"}
        assert row["prompt"] == row["gold"]["entry"]["question"]
        assert Puzzle().example(row["gold"])
    assert len({row["prompt"] for row in found}) == len(found)


def test_neighbouring_seeds_and_longer_files(tmp_path: Path) -> None:
    """What reasoning-gym gets wrong: its item i of seed s is item i-1 of seed s+1."""
    tasks = ["chain_sum", "gsm_symbolic"]
    for name, size, seed in (("a", 20, 1), ("b", 20, 2), ("c", 25, 1)):
        write_puzzles(tmp_path / name, tasks, size, seed)
    a, b, c = ([row["prompt"] for row in rows(tmp_path / name)] for name in "abc")
    assert not set(a) & set(b)
    assert a == c[:20] + c[25:45]


def test_a_task_with_few_questions_repeats_them(tmp_path: Path) -> None:
    write_puzzles(tmp_path / "a.jsonl", ["count_bits", "coin_flip"], 150, 0)
    found = [row["prompt"] for row in rows(tmp_path / "a.jsonl")]
    assert len(found) == 300 and len(set(found)) > 200


@pytest.mark.parametrize(
    ("tasks", "size", "said"),
    [
        (["gdc"], 1, "did you mean gcd?"),
        (["gcd", "composite"], 1, "a mixture of other tasks"),
        (["propositional_logic"], 1, "copied"),
        ([], 1, "expected at least one"),
        (["gcd"], 0, "expected at least one"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, tasks: list[str], size: int, said: str) -> None:
    with pytest.raises(TaskError, match=said.replace("?", r"\?")):
        write_puzzles(tmp_path / "a.jsonl", tasks, size, 0)
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puzzles, "installed", lambda: False)
    with pytest.raises(TaskError, match=r"pip install 'longthink\[puzzles\]'"):
        write_puzzles(tmp_path / "a.jsonl", ["gcd"], 1, 0)


def test_a_child_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text("old")
    monkeypatch.setattr(puzzles, "ROOT", str(tmp_path))
    (tmp_path / "longthink.py").write_text("raise RuntimeError('no more')")
    with pytest.raises(TaskError, match="no more"):
        write_puzzles(tmp_path / "a.jsonl", ["gcd"], 1, 0)
    assert (tmp_path / "a.jsonl").read_text() == "old"


def test_the_list_is_that_of_the_library() -> None:
    code = "import sys, reasoning_gym.factory as f; print(*sorted(f.DATASETS))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted([*TASKS, *EXCLUDED])
    assert usable_tasks() == sorted(set(TASKS)) and len(TASKS) == len(set(TASKS))


def test_only_what_json_can_hold_is_stored() -> None:
    assert plain({1: np.int64(2), "a": np.array([[1.5]]), "b": Fraction(1, 3)}) == {"1": 2, "a": [[1.5]], "b": "1/3"}
    with pytest.raises(TypeError, match="object cannot be stored"):
        plain([object()])


def test_importing_is_light() -> None:
    code = (
        "import sys, longthink.puzzles, longthink.rewards.puzzle; print('reasoning_gym' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.full
def test_every_task_twice(tmp_path: Path) -> None:
    for name in "ab":
        write_puzzles(tmp_path / name, usable_tasks(), 3, 11)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len(rows(tmp_path / "a")) == 3 * len(TASKS)
