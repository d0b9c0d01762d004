"""The puzzle verifier: every task's own answer and junk, hostile answers, replaced scorers, broken golds."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longthink.errors import RewardError, SandboxError
from longthink.puzzles import TASKS, _worth, usable_tasks, write_puzzles
from longthink.rewards import puzzle
from longthink.rewards.puzzle import REPLACED, Puzzle, plain_data, plain_formula
from longthink.types import Verdict

EVALUATED = [
    *("countdown", "puzzle24", "simple_integration", "intermediate_integration", "polynomial_multiplication"),
    *("n_queens", "binary_matrix", "spiral_matrix", "string_insertion"),
]
JUNK = ("x", "¿¿ ¤¤", "[]", "{}", "¬", "[[[]]]", "∅", "?/?", "....", "[[], []]")
SLOW = ("futoshiki", "knight_swap", "quantum_lock", "sokoban")  # to draw


class Unasked(Puzzle):
    """Fails if an answer is handed to a scorer."""

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError(f"asked about {job['answer']!r}")


def drawn(path: Path, tasks: list[str], size: int, seed: int) -> list[dict[str, Any]]:
    write_puzzles(path, tasks, size, seed)
    return [json.loads(line)["gold"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def golds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    tasks = [task for task in usable_tasks() if task not in SLOW]
    return {gold["task"]: gold for gold in drawn(tmp_path_factory.mktemp("puzzles") / "a.jsonl", tasks, 1, 0)}


@pytest.fixture(scope="module")
def reward() -> Puzzle:
    reward = Puzzle()
    reward.prepare()
    return reward


def graded(reward: Puzzle, answer: str, gold: Any) -> Verdict:
    return reward.grade(f"<think>…</think>\n<answer>{answer}</answer>", gold)


def right_and_junk(reward: Puzzle, gold: dict[str, Any], junk: tuple[str, ...]) -> None:
    example, stored = reward.example(gold), str(gold["entry"]["answer"])
    if example is not None:
        verdict = reward.grade(example, gold)
        assert (verdict.score, verdict.status, verdict.detail["solved"]) == (1.0, "ok", True), gold
    for text in junk:
        verdict = graded(reward, text, gold)
        assert (verdict.score, verdict.status) == (float(text == stored), "ok"), (gold, text, verdict)


@pytest.mark.parametrize("task", [task for task in usable_tasks() if task not in SLOW])
def test_the_stored_answer_earns_1_and_junk_nothing(task: str, reward: Puzzle, golds: dict[str, dict[str, Any]]) -> None:
    right_and_junk(reward, golds[task], JUNK[:3])


@pytest.mark.full
@pytest.mark.parametrize("task", usable_tasks())
def test_many_items_of_every_task(task: str, reward: Puzzle, tmp_path: Path) -> None:
    for gold in drawn(tmp_path / "a.jsonl", [task], 3 if task in SLOW else 12, 1):
        right_and_junk(reward, gold, JUNK)


# -- hostile answers --------------------------------------------------------------------------------------------------

CODE = [
    "__import__('os')._exit(0)",
    "__import__('pathlib').Path({path!r}).touch()",
    "[open({path!r}, 'w')]",
    "[x for x in [open({path!r}, 'w')]]",
    "(lambda: open({path!r}, 'w'))()",
    "exec(\"open({path!r}, 'w')\")",
    'print(\'{{"raw": 1.0, "idle": 0.0, "why": ""}}\')',
    "().__class__.__base__.__subclasses__()",
    'f"{{open({path!r}, 0)}}"',
    "[*open({path!r}, 'w')]",
    "[entry, oracle_answer, valid_solutions]",
    "oracle_answer",
    "Integral(x, x)",
    "9**9**9**9",
    "((((9**9)**9)**9)**9)**9",
    "[9**9**9**9]",
    "1e999999999 * x",
    "x**x**x**x",
    "(" * 900 + "1" + ")" * 900,
    "[" * 1500 + "]" * 300,
    "-" * 1900 + "1",
    "\ud800",
    '["\ud800"]',
    "\x00",
    "1\x001",
    "\u0661\u0662",
    "{{{{}}}}",
]


@pytest.mark.parametrize("task", EVALUATED)
def test_no_answer_is_run(task: str, golds: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "touched"
    for template in CODE:
        answer = template.format(path=str(path)) if "path" in template or "{{" in template else template
        verdict = graded(Unasked(), answer, golds[task])
        assert (verdict.score, verdict.status) == (0.0, "ok"), answer
    assert not path.exists()


@pytest.mark.parametrize("task", ["n_queens", "simple_integration", "polynomial_multiplication"])
def test_hostile_answers_leave_the_sandbox_as_it_was(
    task: str, reward: Puzzle, golds: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Past the allow-lists, straight to the scorer: it may do what it likes, and harms nothing."""
    path, entry = tmp_path / "touched", golds[task]["entry"]
    hasty = Puzzle(seconds=0.3)
    for template in CODE[:3]:
        hasty.ask({"task": task, "entry": entry, "answer": template.format(path=str(path)), "idle": []})
        assert not path.exists()
    reply = hasty.ask({"task": task, "entry": entry, "answer": "9**9**9**9", "idle": []})
    assert reply.get("status") in ("timeout", "limit", "crash") or reply["raw"] < 1.0
    right_and_junk(reward, golds[task], ())


def test_what_does_not_end_scores_0(reward: Puzzle, golds: dict[str, dict[str, Any]]) -> None:
    hasty = Puzzle(seconds=0.5)
    verdict = graded(hasty, "A+99999999999999", golds["rush_hour"])
    assert (verdict.score, verdict.status, verdict.detail["solved"]) == (0.0, "timeout", False)
    verdict = graded(hasty, "U99999999999", golds["rubiks_cube"])
    assert verdict.score == 0.0
    right_and_junk(reward, golds["gcd"], JUNK)


FORGED = '{"raw": 1.0, "idle": 0.0, "why": ""}'


@pytest.mark.parametrize("answer", [FORGED, f"Move disk\n{FORGED}", f"Move disk 1 from Peg 1 to Peg {FORGED} a b", "\ud800\x00"])
@pytest.mark.parametrize("task", ["tower_of_hanoi", "gcd", "prime_factorization", "aiw", "game_of_life", "graph_color"])
def test_no_answer_prints_a_score(task: str, answer: str, reward: Puzzle, golds: dict[str, dict[str, Any]]) -> None:
    verdict = graded(reward, answer, golds[task])
    assert (verdict.score, verdict.status) == (0.0, "ok")


def test_a_scorer_that_fails_is_a_wrong_answer(reward: Puzzle, golds: dict[str, dict[str, Any]]) -> None:
    verdict = graded(reward, "two times three", golds["prime_factorization"])
    assert (verdict.score, verdict.status) == (0.0, "ok")
    assert str(verdict.detail["why"]).startswith("ValueError")


def test_long_answers(reward: Puzzle, golds: dict[str, dict[str, Any]]) -> None:
    assert graded(Unasked(), "1" * 2001, golds["gcd"]).status == "limit"
    stored = "\n".join(["Move disk 1 from Peg 1 to Peg 3"] * 100)
    entry = {**golds["tower_of_hanoi"]["entry"], "answer": stored}
    gold = {"task": "tower_of_hanoi", "entry": entry}
    assert graded(reward, stored + "\n" + stored, gold).status == "ok"
    assert graded(reward, stored * 5, gold).status == "limit"


# -- scores between 0 and 1 -------------------------------------------------------------------------------------------


def entry(answer: Any, question: str = "", **metadata: Any) -> dict[str, Any]:
    return {"question": question, "answer": answer, "metadata": metadata}


def test_credit_is_what_exceeds_the_idle_answers(reward: Puzzle) -> None:
    gold = {"task": "sentence_reordering", "entry": entry("one two three four")}
    assert graded(reward, "something else", gold).score == 0.0  # 0.05 there, as for the empty answer
    half = graded(reward, "one two four three", gold)
    assert half.score == pytest.approx((0.5 - 0.05) / 0.95)
    assert (half.detail["raw"], half.detail["solved"]) == (0.5, False)
    assert graded(Puzzle(credit="solved"), "one two four three", gold).score == 0.0
    lenient = graded(Puzzle(credit="solved", solved=0.4), "one two four three", gold)
    assert (lenient.score, lenient.detail["solved"]) == (1.0, True)


@pytest.mark.parametrize(
    ("task", "stored", "answer"),
    [
        ("prime_factorization", entry("2 × 3", number=6), "6"),
        ("prime_factorization", entry("2 × 3 × 5", number=30), "6 × 5"),
        (
            "fraction_simplification",
            entry("1/2", numerator=2, denominator=4, simplified_numerator=1, simplified_denominator=2),
            "2/4",
        ),
        ("word_sorting", entry("a, b, c", original_words=["b", "a", "c"], sorted_words=["a", "b", "c"]), "b, a, c"),
        ("game_of_life", entry("[[0,1],[0,0]]"), "[[0,0],[0,0]]"),
        ("syllogism", entry("Yes"), "YesNo"),
        ("gcd", entry("2"), "1 2 3 4 5"),
        ("chain_sum", entry("42"), "42 or 43"),
        ("palindrome_generation", entry("abba", letters=["a", "a", "b", "b"]), "x"),
        ("tsumego", entry("C4"), "D5"),
        ("calendar_arithmetic", entry("Friday", task="weekday_of_date"), "Sunday"),
    ],
)
def test_echoes_and_hedges_earn_nothing(task: str, stored: dict[str, Any], answer: str, reward: Puzzle) -> None:
    gold = {"task": task, "entry": stored}
    assert graded(reward, answer, gold).score == 0.0
    assert graded(reward, stored["answer"], gold).score == 1.0


# -- flawed scorers ---------------------------------------------------------------------------------------------------

BOARD = entry("[[0,1],[0,0]]")
BOX = entry(None, initial_state={"0.5_0.5": ["box_red"], "0.5_1.5": ["target_red"]})
COIN = entry("3.051757812e-05", rational={"numerator": 1, "denominator": 32768})
COMPLEX = entry("1.0 - 2.0i", result=[1, -2])
DECIMAL = entry("0.999999999999", "Only reply with the final value.\n((1.000/3.000)*3.000) = ?")
POWER = entry("1861.98213904", base=43.1507, exponent=2)
SORTED = entry("['-1.5', '2', '10']", direction="ascending")
FIXED = [  # task, entry, what is right, what is wrong
    ("calendar_arithmetic", entry("-1", task="recurring_event_day"), ["-1", " -1 "], ["5", "-2", "1", "none"]),
    ("coin_flip", COIN, ["1/32768", "0.000030517578125", "3.052e-05", "3.051757812e-5"],
     ["0", "0.0001", "3.05e-5", "1/0", "nan", "3e-5"]),
    ("coin_flip", entry("0.5", rational={"numerator": 1, "denominator": 2}), ["0.5", ".50", "2/4", "1/2"],
     ["0.50001", "0.5/0", "50%"]),
    ("countdown", entry("3*40", numbers=[3, 40], target=120), ["40*3", "(3)*40"], ["120", "3*40+0", "3*40*1.0000001", "40+3"]),
    ("countdown", entry("-2+5", numbers=[2, 5], target=3), ["5-2", "-2 + 5", "(-2+5)"], ["2-5", "--2+5", "0-2+5"]),
    ("decimal_arithmetic", DECIMAL, ["0.999999999999", "1", "1.000"], ["0.9999", "1.001", "nan", "one"]),
    ("figlet_font", entry("ABCDEFGHIJKL"), ["abcdefghijkl", "A B C D E F G H I J K L"], ["abcdefghijkx", "abcdefghijklm"]),
    ("game_of_life_halting", entry("False"), ["False", "false.", "'False'"], ["True", "yes", "False True", "0"]),
    ("number_format", entry("1000.005", solution=1000.005), ["1000.005", "1,000.005", "1.000005e+03"],
     ["1000.0", "1000.01", "nan"]),
    ("number_sorting", SORTED, ["['-1.5', '2', '10']", '["-1.50", "2.0", "10"]', "[-1.5, 2, 10]"],
     ["['-1', '2', '10']", "['nan', 'nan', 'nan']", "['2', '-1.5', '10']", "[]", "-1.5, 2, 10", "[[-1.5, 2, 10]]"]),
    ("pool_matrix", entry("1.33 2.0\n3.0 400.0", solution=[[4 / 3, 2.0], [3.0, 400.0]]),
     ["1.33 2\n3 400", "1.333 2.00\n3.00 400.00\n"],
     ["1.33 2\n3 401", "1.3 2\n3 400", "1.33 2 3 400", "1.33 2\n3", "nan nan\nnan nan", "1.33 2\n3 x"]),
    ("power_function", POWER, ["1.86e+3", "1860", "1861.98213904"], ["1.87e3", "1861", "1.8620e3", "1.9e3"]),
    ("puzzle24", entry("6*4*1*1", numbers=[1, 1, 4, 6]), ["6*4/1/1", "(6*4)*(1*1)"],
     ["6*4+1-1+1", "8*3*1*1", "24", "6*4*1", "6*4*1*1*1"]),
    ("game_of_life", BOARD, ["[[0, 1], [0, 0]]"],
     ["[[0,1,0],[0,0,0]]", "[[0,1],[0,0],[1,1]]", '{"0": [0, 1]}', "[[0,1],[0]]"]),
    ("complex_arithmetic", COMPLEX, ["1-2i", "1.0 - 2.0i"], ["nan", "nan+0j", "inf", "1e400"]),
    ("boxnet", BOX,
     ['[{"Agent[0.5, 0.5]": "move(box_red, square[0.5, 1.5])"}, {"Agent[0.5, 1.5]": "move(box_red, target_red)"}]'],
     ['[{"Agent[0.5, 1.5]": "move(target_red, square[0.5, 0.5])"}, {"Agent[0.5, 0.5]": "move(box_red, target_red)"}]',
      "[]", "[3]"]),
    ("simple_integration", entry("x**2 + C", integrand="2*x", variable="x"), ["x**2", "x*x + C + 3"],
     ["Integral(2*x, x)", "integrate(2*x, x)", "x**2 + y", "2*x", "x^2 + C"]),
    ("n_queens", entry("Q", valid_answers=["_ Q\nQ _"]), ["_ Q\nQ _"], ["[['_', 'X'], ['Q', '_']]", "Q _\n_ Q"]),
]  # fmt: skip


@pytest.mark.parametrize(("task", "stored", "right", "wrong"), FIXED, ids=[f"{row[0]}-{n}" for n, row in enumerate(FIXED)])
def test_flaws_are_mended(task: str, stored: dict[str, Any], right: list[str], wrong: list[str], reward: Puzzle) -> None:
    gold = {"task": task, "entry": stored}
    assert {answer: graded(reward, answer, gold).score for answer in right} == dict.fromkeys(right, 1.0)
    assert {answer: graded(reward, answer, gold).score for answer in wrong} == dict.fromkeys(wrong, 0.0)


def test_a_list_where_a_board_is_asked_for_is_still_read(reward: Puzzle) -> None:
    gold = {"task": "n_queens", "entry": entry("_ Q\nQ _", valid_answers=["_ Q\nQ _"])}
    assert graded(reward, "[['_', 'Q'], ['Q', '_']]", gold).score == 0.5


def test_every_replacement_has_a_reason_and_a_test() -> None:
    assert set(REPLACED) <= set(TASKS) & {row[0] for row in FIXED}
    assert all(len(reason) > 20 for reason, _ in REPLACED.values())


# -- golds, places and faults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "why"),
    [
        (None, "TypeError"),
        ("no json", "JSONDecodeError"),
        ([], "TypeError"),
        ({}, "expected {"),
        ({"task": "gcd"}, "expected {"),
        ({"task": "gcd", "entry": None}, "TypeError"),
        ({"task": "gcd", "entry": {"question": "", "answer": "1"}}, "KeyError"),
        ({"task": "gcd", "entry": {"question": 1, "answer": "1", "metadata": {}}}, "a text as question"),
        ({"task": "gcd", "entry": entry("")}, "cannot be given"),
        ({"task": "gcd", "entry": entry("1</answer>")}, "cannot be given"),
        ({"task": "gdc", "entry": entry("1")}, "checked"),
        ({"task": ["gcd"], "entry": entry("1")}, "checked"),
        ({"task": "composite", "entry": entry("1")}, "mixture"),
        ({"task": "propositional_logic", "entry": entry(None)}, "premise"),
        ({"task": "countdown", "entry": entry("1+2", numbers=[1, 2], target=4)}, "could be accepted"),
        ({"task": "countdown", "entry": entry("1+2", numbers=[1, 2])}, "KeyError"),
        ({"task": "intermediate_integration", "entry": entry("Integral(x, x)", variable="x")}, "could be accepted"),
        ({"task": "prime_factorization", "entry": entry("2 × 3")}, "KeyError"),
    ],
)
def test_a_bad_gold_is_our_fault(gold: Any, why: str) -> None:
    verdict = graded(Unasked(), "1", gold)
    assert (verdict.score, verdict.status) == (None, "verifier_error")
    assert why in str(verdict.detail["why"])


def test_where_the_answer_stands(reward: Puzzle) -> None:
    gold = {"task": "gcd", "entry": entry("4")}
    for response in ("<answer>4</answer>", "<think><answer>5</answer></think><answer>3</answer> no: <answer>\n4 </answer>!"):
        assert reward.grade(response, gold).score == 1.0
    for response in ("4", "<think><answer>4</answer>", "<answer>4", "so it is\n\n4\n", "<answer>4</answer> <think>"):
        verdict = reward.grade(response, gold)
        assert (verdict.score, verdict.status, verdict.detail["lenient"]) == (0.0, "no_answer", 1.0), response
    assert reward.grade("<answer> </answer>", gold).detail == {}
    assert reward.grade(" \n ", gold).status == "no_answer"
    assert Puzzle(think="required").grade("<answer>4</answer>", gold).status == "no_answer"
    assert reward.example({"task": "boxnet", "entry": entry(None, initial_state={})}) is None


def test_our_own_faults_have_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    gold = {"task": "gcd", "entry": entry("4")}
    monkeypatch.setattr(puzzle, "PROGRAM", "raise ImportError('gone')")
    verdict = graded(Puzzle(), "4", gold)
    assert (verdict.score, verdict.status) == (None, "verifier_error")
    assert "gone" in str(verdict.detail["why"])
    with pytest.raises(RewardError, match="gone"):
        Puzzle().prepare()

    def lost(self: Puzzle, job: dict[str, Any]) -> dict[str, Any]:
        raise SandboxError("lost")

    monkeypatch.setattr(Puzzle, "ask", lost)
    assert (graded(Puzzle(), "4", gold).score, graded(Puzzle(), "4", gold).status) == (None, "crash")
    monkeypatch.setattr(puzzle, "installed", lambda: False)
    with pytest.raises(RewardError, match=r"pip install 'longthink\[puzzles\]'"):
        Puzzle().prepare()


def test_deadlines_are_in_order() -> None:
    with pytest.raises(ValueError, match="expected at least seconds"):
        Puzzle(seconds=25.0)


# -- fuzz -------------------------------------------------------------------------------------------------------------


@given(st.text(alphabet="<answer>/think 4\n", max_size=60) | st.text(max_size=60))
def test_no_response_raises(text: str) -> None:
    class Deaf(Puzzle):
        def ask(self, job: dict[str, Any]) -> dict[str, Any]:
            return {"raw": 0.0, "idle": 0.0, "why": ""}

    for response in (text, f"</think>{text}", f"<answer>{text}</answer>"):
        for task, stored in (("gcd", entry("4")), FIXED[0][:2], FIXED[1][:2], FIXED[5][:2], FIXED[9][:2], FIXED[10][:2]):
            assert Deaf().grade(response, {"task": task, "entry": stored}).score in (0.0, 1.0)


@given(st.text(alphabet="0123456789+-*/(). xCsinexpqrt^,[]'_=:lambd\"", max_size=40))
def test_what_passes_as_data_is_data(text: str) -> None:
    """What the allow-lists let through evaluates without a name, a call or anything large."""
    if plain_data(text):
        assert isinstance(eval(text, {"__builtins__": {}}), list | tuple)
    if plain_formula(text, {"x", "C"}):
        known: dict[str, Any] = dict.fromkeys(puzzle.FUNCTIONS, lambda value: value)
        with contextlib.suppress(ArithmeticError, TypeError):
            assert isinstance(eval(text, {"__builtins__": {}, **known, "x": 2.0, "C": 1.0}), int | float | complex)


@given(st.recursive(st.integers() | st.text(alphabet="Q_ ABC", max_size=3), st.lists, max_leaves=10))
def test_plain_lists_pass(value: Any) -> None:
    fine = isinstance(value, list) and all(len(str(number)) < 25 for number in str(value).split(","))
    assert plain_data(repr(value)) or not fine


def test_scores_are_numbers_from_0_to_1() -> None:
    for value, expected in ((float("nan"), 0.0), (2, 1.0), (-1, 0.0), (True, 1.0), (None, 0.0), ("x", 0.0), (0.25, 0.25)):
        assert _worth(lambda answer, entry, value=value: value, "", {})[0] == expected
