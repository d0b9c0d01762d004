"""Puzzles of reasoning-gym: the tasks that can be scored soundly, their own scorers, and files of generated problems."""

import contextlib
import datetime
import enum
import importlib.util
import io
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from longthink.errors import TaskError
from longthink.rng import derive_seed
from longthink.storage import make_folder, replace_file

__all__ = ["EXCLUDED", "TASKS", "score", "usable_tasks", "write_puzzles"]

NAMES = """
    ab acre advanced_geometry aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix
    bitwise_arithmetic boxnet caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip
    color_cube_rotation complex_arithmetic count_bits count_primes countdown course_schedule cryptarithm
    decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification
    futoshiki game_of_life game_of_life_halting gcd graph_color group_anagrams gsm_symbolic intermediate_integration
    isomorphic_strings jugs kakurasu knight_swap knights_knaves largest_island lcm leg_counting letter_counting
    letter_jumble list_functions mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack
    number_filtering number_format number_sequence number_sorting palindrome_generation palindrome_partitioning
    path_star polynomial_equations polynomial_multiplication pool_matrix power_function prime_factorization products
    puzzle24 quantum_lock ransom_note rearc rectangle_count rotate_matrix rotten_oranges rubiks_cube rush_hour
    self_reference sentence_reordering shortest_path simple_equations simple_geometry simple_integration sokoban
    spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo
    syllogism time_intervals tower_of_hanoi tsumego word_ladder word_sequence_reversal word_sorting zebra_puzzles
"""
TASKS = tuple(NAMES.split())  # whose scorers were read, in reasoning-gym 0.1.25; a later one may run an answer as code
EXCLUDED = {
    "codeio": "to draw an item runs a program that a language model wrote, and of many inputs its scorer knows one",
    "composite": "it is a mixture of other tasks; name those instead",
    "propositional_logic": "a premise copied out of the question is a valid conclusion and would be paid in full",
}
MISSING = "puzzles need reasoning-gym; install it with: pip install 'longthink[puzzles]'"
UNBUILT = ("arc_agi", "group_anagrams", "rush_hour", "spell_backward")  # load data their scorers do not use
CONTAINING = ("chain_sum", "manipulate_matrix", "products", "tsumego")  # pay for an answer that holds the right one somewhere
DRAWN_WHEN_BUILT = ("acre", "gsm_symbolic", "list_functions")
ATTEMPTS = 20  # at an item that is new in its file and whose own answer is accepted
ROOT = str(Path(__file__).resolve().parents[1])


def installed() -> bool:
    return importlib.util.find_spec("reasoning_gym") is not None


def usable_tasks() -> list[str]:
    """The names of the tasks that can be generated and scored, in order."""
    return sorted(TASKS)


# -- scoring ----------------------------------------------------------------------------------------------------------


def score(job: dict[str, Any]) -> dict[str, Any]:
    """What a task's scorer gives an answer, and the most it gives answers that need no thought; both from 0 to 1.

    Runs inside a sandbox, or on answers that are trusted. Job: {"task", "entry", "answer", "idle": [answers]}; the idle
    ones are only looked at where they matter. What an answer earns for holding the right one somewhere, `42` for 2, is
    idle too. Returns {"raw", "idle", "why"}.
    """
    entry = restored(job["task"], job["entry"])
    own = _scorer(job["task"])
    raw, why = _worth(own, job["answer"], entry)
    if not 0.0 < raw < 1.0:
        return {"raw": raw, "idle": 0.0, "why": why}
    if job["task"] in CONTAINING or _is_default(job["task"]):
        return {"raw": raw, "idle": raw, "why": "at most holds the right answer somewhere"}
    return {"raw": raw, "idle": max((_worth(own, text, entry)[0] for text in job["idle"]), default=0.0), "why": why}


def _worth(own: Any, answer: str, entry: dict[str, Any]) -> tuple[float, str]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            value = float(own(answer=answer, entry=entry))
    except MemoryError:
        raise
    except Exception as error:  # scorers meet any text with any exception
        return 0.0, f"{type(error).__name__}: {error}"[:200]
    return (min(1.0, max(0.0, value)), "") if not math.isnan(value) else (0.0, "the score is not a number")


def restored(task: str, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry as its scorer wants it: with the tuples that JSON made lists, where that matters."""
    if task in ("arc_agi", "rearc"):
        board = tuple(tuple(row) for row in entry["metadata"]["output"])
        return {**entry, "metadata": {**entry["metadata"], "output": board}}
    return entry


@lru_cache
def _scorer(task: str) -> Any:
    """The bound `score_answer`, from an object made without loading what only a generator needs."""
    from reasoning_gym.factory import DATASETS

    made, settings = DATASETS[task]
    if task not in UNBUILT and not _is_default(task):
        return made(config=settings()).score_answer
    bare = object.__new__(made)
    bare.config = settings()
    bare.board_format_opts = getattr(bare.config, "board_format_opts", None)
    return bare.score_answer


def _is_default(task: str) -> bool:
    """Whether the task has no scorer of its own: the stored answer earns 1, a text that holds it less, by its length."""
    from reasoning_gym.dataset import ProceduralDataset
    from reasoning_gym.factory import DATASETS

    return bool(DATASETS[task][0].score_answer is ProceduralDataset.score_answer)


# -- generation -------------------------------------------------------------------------------------------------------


def write_puzzles(out: Path, tasks: Sequence[str], size: int, seed: int) -> str:
    """Write `size` problems of each task as JSON lines {"prompt", "gold": {"task", "entry"}}; what was done, in words.

    The same arguments give the same bytes: each item has a seed of its own, and all are drawn in a child process whose
    hashes are fixed. The stored answer of every row is accepted by the `puzzle` verifier. No question comes twice, unless
    a task has too few. Raises: TaskError for an unknown task or a task that fails, StorageError for a bad path.
    """
    from longthink.errors import nearest

    tasks = list(dict.fromkeys(tasks))
    for task in tasks:
        if task not in TASKS:
            why = EXCLUDED.get(task) or nearest(task, usable_tasks())
            raise TaskError(f"{task} is no puzzle that can be used: {why}")
    if not tasks or size < 1:
        raise TaskError(f"asked for {size} problems of {len(tasks)} tasks, expected at least one of one")
    if not installed():
        raise TaskError(MISSING)
    code = f"import sys; sys.path.insert(0, {ROOT!r}); from longthink import puzzles; puzzles.main()"
    job = json.dumps({"tasks": list(tasks), "size": size, "seed": seed})
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], input=job.encode(), capture_output=True, env=env)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise TaskError(f"the puzzles could not be made: {said[-1][:300]}")
    make_folder(out.parent)
    replace_file(out, done.stdout)
    return f"{out}: {size * len(tasks):,} problems, {size} of each of {len(tasks)} task{'s' * (len(tasks) > 1)}, seed {seed}"


def main() -> None:
    """In the child: a job on stdin, rows on stdout, whatever else is printed on stderr."""
    job = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n") as out:
        os.dup2(2, 1)  # some generators print
        for task in job["tasks"]:
            for row in generate(task, job["size"], job["seed"]):
                out.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def generate(task: str, size: int, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of one task. Raises: TaskError where no usable item can be drawn."""
    from longthink.rewards.puzzle import Puzzle

    class Trusting(Puzzle):
        """The verifier on stored answers, which need no sandbox."""

        def ask(self, job: dict[str, Any]) -> dict[str, Any]:
            return score(json.loads(json.dumps(job)))

    reward, seen = Trusting(), set()
    for index in range(size):
        row = None
        for attempt in range(ATTEMPTS):
            entry = draw(task, derive_seed(seed, "puzzle", task, index, attempt) % (1 << 32))
            gold = {"task": task, "entry": entry}
            example = reward.example(gold) if reward.readable(gold) else ""
            if example == "" or (example is not None and reward.grade(example, gold).score != 1.0):
                continue
            row = {"prompt": entry["question"], "category": category(task), "gold": gold}
            if entry["question"] not in seen:
                break
        if row is None:
            raise TaskError(f"{task}: none of {ATTEMPTS} items had an answer its own scorer accepts")
        seen.add(row["prompt"])
        yield row


def category(task: str) -> str:
    """The task's category: the package that reasoning-gym keeps it in, such as "algebra" or "graphs"."""
    from reasoning_gym.factory import DATASETS

    return str(DATASETS[task][0].__module__.split(".")[1])


def draw(task: str, seed: int) -> dict[str, Any]:
    """One item, as JSON would hold it."""
    import numpy as np

    random.seed(seed)  # some generators draw from the global streams
    np.random.seed(seed)
    item = _dataset(task, seed if task in DRAWN_WHEN_BUILT else 0)
    item.seed = item.config.seed = seed
    found = item[0]
    return {key: plain(found[key]) for key in ("question", "answer", "metadata")}


@lru_cache(8)
def _dataset(task: str, seed: int) -> Any:
    from reasoning_gym.factory import DATASETS

    made, settings = DATASETS[task]
    return made(config=settings(seed=seed, size=1))


def plain(value: Any) -> Any:
    """The value in JSON's types. Raises: TypeError for one that has no counterpart.

    >>> plain({1: (2.5, {"b", "a"}), "day": datetime.date(2024, 2, 29)})
    {'1': [2.5, ['a', 'b']], 'day': '2024-02-29'}
    """
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value), key=repr)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Fraction | Decimal):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} cannot be stored")
