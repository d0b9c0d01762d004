"""Puzzles of reasoning-gym, scored by each task's own scorer in a sandbox, or here where that scorer is flawed."""

import ast
import json
import re
import warnings
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from longthink.errors import RewardError, SandboxError
from longthink.maths.extract import answer_tag
from longthink.puzzles import EXCLUDED, MISSING, TASKS, installed
from longthink.rewards.base import BAD_GOLD, Reward, answer_region
from longthink.rewards.countdown import evaluate
from longthink.sandbox.client import Sandbox
from longthink.types import Verdict

__all__ = ["REPLACED", "Puzzle"]

PROGRAM = """
import json, sys
from longthink.puzzles import score
print(json.dumps(score(json.load(sys.stdin))))
"""
MODULES = (  # what a score would otherwise load, again and again
    *("reasoning_gym", "longthink.puzzles", "sympy.assumptions.wrapper", "sympy.combinatorics.tensor_can"),
    *("sympy.physics.matrices", "sympy.physics.units", "sympy.sets.setexpr", "sympy.tensor.tensor"),
)
MAX_CHARS, MAX_GUESS, MAX_FORMULA, MAX_DEGREE = 2_000, 2_000, 500, 100
IDLE = ("", "x", "0", "[]", "{}", "00:00", "0 days, 00:00", "Monday", "A=1")  # what anyone could answer


class Gold(NamedTuple):
    """A problem as generated, how long an answer may be, and what can be answered to it without thought."""

    task: str
    entry: dict[str, Any]
    limit: int
    idle: tuple[str, ...]


class Puzzle(Reward):
    """What the task's scorer gives the last `<answer>…</answer>` after the thinking, less what it gives for nothing.

    Gold: `{"task": name, "entry": {"question", "answer", "metadata"}}`, as `longthink puzzles` writes it, or that in JSON.
    A score below 1 is set to (score - idle) / (1 - idle), at least 0: idle is the most the scorer gives to an answer in `IDLE`
    (nothing, `x`, `0`, `[]`, …) or, in some tasks, to an echo of the question; what it gives for holding the right answer
    somewhere is idle too. With credit `solved`, what reaches `solved` then earns 1 and the rest 0. The scorers in `REPLACED`
    are not used. Nothing of an answer is ever run as code: where a scorer evaluates it, it must be plain data or plain
    arithmetic. Past `seconds` the score is 0.
    Source: reasoning-gym 0.1.25, whose scores NVIDIA's recipes (section 2) use as they are.
    """

    credit: Literal["task", "solved"] = "task"
    solved: float = Field(1.0, gt=0, le=1, description="from which score, after normalisation, a puzzle counts as solved")
    seconds: float = Field(2.0, gt=0)
    memory_mb: int = Field(1024, ge=512)
    sandbox: Literal["namespaces", "landlock", "seccomp", "none"] = "landlock"

    deadline_s: float = Field(30.0, description="for the day the sandbox does not keep its own time; above `seconds`")

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.deadline_s < self.seconds + 10.0:
            raise ValueError(f"deadline_s is {self.deadline_s}, expected at least seconds + 10 = {self.seconds + 10.0}")
        return self

    def prepare(self) -> None:
        """Start the sandbox and try a scorer. Raises: RewardError without reasoning-gym, SandboxError without isolation."""
        if not installed():
            raise RewardError(MISSING)
        reply = self.ask({"task": "gcd", "entry": {"question": "", "answer": "4", "metadata": {}}, "answer": "4", "idle": []})
        if reply.get("raw") != 1.0:
            raise RewardError(f"reasoning-gym does not run in the sandbox: {reply.get('why') or reply}")

    def read(self, gold: Any) -> Gold:
        gold = json.loads(gold) if isinstance(gold, str) else gold
        if not isinstance(gold, dict) or not {"task", "entry"} <= set(gold):
            raise TypeError('expected {"task": name, "entry": {"question", "answer", "metadata"}}')
        task, entry = gold["task"], gold["entry"]
        if task not in TASKS:
            why = EXCLUDED.get(str(task), "it is none whose scorer has been checked")
            raise ValueError(f"the puzzle {task!r} cannot be used: {why}")
        if not isinstance(entry["question"], str) or not isinstance(entry["metadata"], dict):
            raise TypeError("expected an entry with a text as question and a table as metadata")
        stored = str(entry["answer"]).strip() if entry["answer"] is not None else None
        if stored is not None:
            if not stored or "</answer>" in stored:
                raise ValueError("the stored answer cannot be given between answer tags")
            if refusal(task, stored, entry) or (task in REPLACED and REPLACED[task][1](stored, entry) is False):
                raise ValueError("the stored answer is not one that could be accepted")
        idle = (*IDLE, *([ECHOES[task](entry)] if task in ECHOES else []))
        return Gold(task, entry, max(MAX_CHARS, 4 * len(stored or "")), idle)

    def readable(self, gold: Any) -> bool:
        """Whether `read` takes this gold."""
        try:
            self.read(gold)
        except BAD_GOLD:
            return False
        return True

    def example(self, gold: Any) -> str | None:
        entry = self.read(gold).entry
        return f"<think></think><answer>{entry['answer']}</answer>" if entry["answer"] is not None else None

    def extract(self, response: str) -> str | None:
        region = answer_region(response, self.think)
        return answer_tag(region) if region is not None else None

    def guess(self, response: str) -> str | None:
        if "<answer>" in response:
            text = answer_tag(response) or response.rpartition("<answer>")[2].partition("</answer>")[0].strip()
        else:
            text = response.rstrip()[-MAX_GUESS:].rpartition("\n")[2].strip()
        return text[:MAX_GUESS] or None

    def judge(self, answer: str, gold: Gold) -> Verdict:
        if len(answer) > gold.limit:
            return Verdict(0.0, "limit", answer[:200], {"why": f"longer than {gold.limit} characters"})
        if gold.task in REPLACED:
            right = REPLACED[gold.task][1](answer, gold.entry)
            if right is not None:
                return self.verdict(answer, float(right), {})
        if why := refusal(gold.task, answer, gold.entry):
            return self.verdict(answer, 0.0, {"why": why})
        try:
            reply = self.ask({"task": gold.task, "entry": gold.entry, "answer": answer, "idle": gold.idle})
        except SandboxError as error:
            return Verdict(None, "crash", answer, {"why": str(error)[:200]})
        if "raw" not in reply:
            status, why = reply["status"], reply["why"]
            return Verdict(None if status == "verifier_error" else 0.0, status, answer, {"why": why, "solved": False})
        raw, idle = reply["raw"], reply["idle"]
        worth = 1.0 if raw >= 1.0 else max(0.0, (raw - idle) / (1.0 - idle)) if idle < 1.0 else 0.0
        return self.verdict(answer, worth, {"raw": raw, **({"why": reply["why"]} if reply["why"] else {})})

    def verdict(self, answer: str, worth: float, detail: dict[str, Any]) -> Verdict:
        solved = worth >= self.solved
        score = worth if self.credit == "task" else float(solved)
        return Verdict(score, "ok", answer, {"raw": worth, "solved": solved, **detail})

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """What `longthink.puzzles.score` says in the sandbox, or {"status", "why"} where it comes to no end."""
        outcome = _sandbox(self.memory_mb, self.sandbox).run(
            PROGRAM, json.dumps(job), deadline_s=self.seconds, max_output=1 << 16
        )
        if outcome.status in ("timeout", "limit", "crash"):
            return {"status": outcome.status, "why": outcome.error or outcome.status}
        try:
            return dict(json.loads(outcome.stdout.decode().strip().rpartition("\n")[2]))
        except (ValueError, TypeError):
            return {"status": "verifier_error", "why": outcome.error or "the scorer said nothing"}


@lru_cache(2)
def _sandbox(memory_mb: int, lowest: str) -> Sandbox:
    """One sandbox a process and setting."""
    return Sandbox(memory=memory_mb << 20, lowest=lowest, modules=MODULES)


# -- what an answer may look like where a scorer would evaluate it, or take anything -----------------------------------

FUNCTIONS = ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt")
FORMULA_NODES = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.Constant, ast.Load)
OPERATIONS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.USub, ast.UAdd)
NOT_IN_POWERS = (ast.Name, ast.Pow, ast.Mult, ast.Add)
DATA_NODES = (ast.Expression, ast.List, ast.Tuple, ast.Constant, ast.UnaryOp, ast.USub, ast.Load)
FORMULA = re.compile(r"[0-9A-Za-z+\-*/(). ]+")
BIG = re.compile(r"\d{25}|\d[eE_]")
DATA = re.compile(r"""[0-9A-Za-z_+\-.,'"()\[\]\s]+""", re.ASCII)
NUMBERS = re.compile(r"-?\d{1,9}(?:[ \n]+-?\d{1,9})*", re.ASCII)
LAID_OUT = {  # the form the question asks for; a list is also read, at a tenth or half of the score
    "binary_matrix": NUMBERS,
    "n_queens": re.compile(r"[Q_ \n]+"),
    "spiral_matrix": NUMBERS,
    "string_insertion": re.compile(r"[A-Z]+"),
}
COMPLEX = re.compile(r"[0-9ij+\-.() ]+")


def refusal(task: str, answer: str, entry: dict[str, Any]) -> str:
    """Why an answer is not handed to the task's scorer; empty if it is."""
    if task in LAID_OUT:
        fine = LAID_OUT[task].fullmatch(answer) or plain_data(answer)
        return "" if fine else "neither laid out as asked nor a plain list"
    if task in ("simple_integration", "intermediate_integration", "polynomial_multiplication"):
        metadata = entry["metadata"]
        names = {"C", metadata["variable"]} if "variable" in metadata else set(metadata["variables"])
        fits = len(answer) <= max(MAX_FORMULA, 4 * len(str(entry["answer"])))
        return "" if fits and plain_formula(answer, names) else "not a plain formula in the variables of the question"
    if task == "complex_arithmetic" and not COMPLEX.fullmatch(answer):
        return "not a complex number"  # its scorer gives 1 to nan
    if task == "boxnet" and re.search(r"move\(\s*target", answer):
        return "moves a target"  # its scorer lets it
    if task == "game_of_life" and shape(answer) != shape(str(entry["answer"])):
        return "not a board of the right size"  # its scorer ignores what is too much
    return ""


def syntax(text: str) -> ast.Expression | None:
    """The tree of an expression, without a word about its style."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def plain_data(text: str) -> bool:
    """Whether this is a list of numbers and texts, or of such lists.

    >>> [plain_data(text) for text in ("[[1, -2], ['Q', '_']]", "[x for x in 'ab']", "[open]", "[9**9]", "[1][0]")]
    [True, False, False, False, False]
    """
    tree = syntax(text.strip()) if DATA.fullmatch(text) and not BIG.search(text) else None
    if tree is None or not isinstance(tree.body, ast.List | ast.Tuple):
        return False
    nodes = list(ast.walk(tree))
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return all(isinstance(node, DATA_NODES) for node in nodes) and all(type(c) in (int, float, str) for c in constants)


def plain_formula(text: str, names: set[str]) -> bool:
    """Whether this is arithmetic of these names, of numbers and of usual functions, with small constant powers.

    >>> [plain_formula(text, {"x"}) for text in ("-x**2/3 + exp(2*x)", "2**x", "x**(3/2)", "9**9**9", "exit(1)", "x.real")]
    [True, False, True, False, False, False]
    """
    tree = syntax(text) if FORMULA.fullmatch(text) and not BIG.search(text) else None
    if tree is None:
        return False
    called = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name) as func, args=[_], keywords=[]) if name in FUNCTIONS:
                called.add(func)
            case ast.Call() | ast.Constant(value=str() | bool() | complex() | None):
                return False
            case ast.Name(id=name) if name not in names and node not in called:
                return False
            case ast.BinOp(op=ast.Pow(), right=right) if any(isinstance(n, NOT_IN_POWERS) for n in ast.walk(right)):
                return False
        if not isinstance(node, FORMULA_NODES + OPERATIONS):
            return False
    try:
        return degree(tree) <= MAX_DEGREE
    except RecursionError:
        return False


def degree(node: ast.AST) -> float:
    """The most any number or name is raised to, powers of powers included."""
    below = max(map(degree, ast.iter_child_nodes(node)), default=1.0)
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)):
        return below
    numbers = [n.value for n in ast.walk(node.right) if isinstance(n, ast.Constant)]
    return below * max(float(n) for n in (1, *numbers) if isinstance(n, int | float))


def shape(board: str) -> list[int] | None:
    """How many cells each row of a board in JSON has; None for anything else."""
    try:
        rows = json.loads(board)
    except (ValueError, RecursionError):
        return None
    return [len(row) for row in rows] if isinstance(rows, list) and all(isinstance(row, list) for row in rows) else None


ECHOES: dict[str, Callable[[dict[str, Any]], str]] = {  # what the question hands out, and its scorer pays for
    "fraction_simplification": lambda e: "{numerator}/{denominator}".format(**e["metadata"]),
    "game_of_life": lambda e: re.sub(r"\d+", "0", e["answer"]),
    "prime_factorization": lambda e: str(e["metadata"]["number"]),
    "word_sorting": lambda e: ", ".join(e["metadata"]["original_words"]),
}

# -- what replaces a flawed scorer: whether the answer is right; None leaves it to the scorer ---------------------------

NUMBER = re.compile(r"[+-]?(?:\d{1,40}\.?\d{0,40}|\.\d{1,40})(?:[eE][+-]?\d{1,3})?", re.ASCII)


def number(text: str) -> Fraction | None:
    """The exact value of a decimal number, however its digits are grouped.

    >>> number("1,234.50"), number("1.5e-3"), number("nan"), number("1e999999999")
    (Fraction(2469, 2), Fraction(3, 2000), None, None)
    """
    text = text.strip().replace(",", "")
    return Fraction(text) if NUMBER.fullmatch(text) else None


def rounded(value: Fraction, digits: int, rounding: str = ROUND_HALF_UP) -> Fraction:
    """The value to so many significant digits."""
    context = Context(prec=digits, rounding=rounding)
    return Fraction(context.divide(Decimal(value.numerator), Decimal(value.denominator)))


def expression(answer: str, entry: dict[str, Any], target: Any) -> bool:
    """An expression of the given numbers, each once, that is worth exactly the target; a sign may open a parenthesis."""
    text, signs = re.subn(r"(^|\()\s*-", r"\g<1>0-", answer.strip())
    value, used, _ = evaluate(text) if len(text) <= 200 else (None, [], "")
    return value == Fraction(target) and sorted(used) == sorted([*map(int, entry["metadata"]["numbers"]), *[0] * signs])


def chance(answer: str, entry: dict[str, Any]) -> bool:
    exact = Fraction(*(int(entry["metadata"]["rational"][key]) for key in ("numerator", "denominator")))
    above, slash, below = answer.partition("/")
    value, other = number(above), number(below) if slash else Fraction(1)
    if value is None or not other:
        return False
    digits = len(re.sub(r"[eE].*|\D", "", answer).lstrip("0"))  # as many as are given must be right, and four at least
    near = {rounded(exact, min(digits, 40), way) for way in (ROUND_HALF_UP, ROUND_HALF_EVEN)} if digits >= 4 else set()
    return value / other == exact or (not slash and value in near)


def decimals(answer: str, entry: dict[str, Any]) -> bool:
    found, stored = number(answer), number(entry["answer"])
    return found is not None and found in (stored, calculated(entry["question"].rpartition("\n")[2].removesuffix(" = ?")))


def calculated(text: str) -> Fraction | None:
    """The exact value of arithmetic in decimals, to 12 digits; None if that is not what the text is."""
    whole = re.sub(r"\d+(\.\d+)?", lambda found: "({}/{})".format(*Fraction(found[0]).as_integer_ratio()), text)
    value = evaluate(whole)[0]
    return rounded(value, 12) if value is not None else None


def power(answer: str, entry: dict[str, Any]) -> bool:
    exact = Fraction(str(entry["metadata"]["base"])) ** int(entry["metadata"]["exponent"])
    return number(answer) in {number(str(entry["answer"])), rounded(exact, 3), rounded(exact, 3, ROUND_HALF_EVEN)}


def picked(answer: str, entry: dict[str, Any]) -> bool:
    found = number(answer)
    return found is not None and abs(found - Fraction(str(entry["metadata"]["solution"]))) <= Fraction(1, 10**6)


def in_order(answer: str, entry: dict[str, Any]) -> bool:
    lists = [re.fullmatch(r"\[([^\[\]]*)\]", text.strip()) for text in (answer, entry["answer"])]
    found, stored = ([number(part.strip(" '\"\n")) for part in text[1].split(",")] if text else [None] for text in lists)
    return None not in found and found == stored


def pooled(answer: str, entry: dict[str, Any]) -> bool:
    rows = [[number(cell) for cell in line.split()] for line in answer.splitlines() if line.strip()]
    exact = [[Fraction(str(cell)) for cell in row] for row in entry["metadata"]["solution"]]
    if [len(row) for row in rows] != [len(row) for row in exact]:
        return False
    pairs = [pair for row in zip(rows, exact, strict=True) for pair in zip(*row, strict=True)]
    return all(found is not None and abs(found - true) <= Fraction(501, 10**5) for found, true in pairs)


def whole_date_number(answer: str, entry: dict[str, Any]) -> bool | None:
    stored = str(entry["answer"])
    return number(answer) == Fraction(stored) if re.fullmatch(r"-\d+|0", stored) else None


def same_word(answer: str, entry: dict[str, Any]) -> bool:
    return answer.replace(" ", "").lower() == str(entry["answer"]).strip().lower()


REPLACED: dict[str, tuple[str, Callable[[str, dict[str, Any]], bool | None]]] = {
    "calendar_arithmetic": ("gives 1 to every number where the answer is negative: those are compared", whole_date_number),
    "coin_flip": ("takes what is 1e-4 off, so 0 for every small chance; here four digits or all are right", chance),
    "countdown": ("compares within a relative 1e-5; here exactly", lambda a, e: expression(a, e, e["metadata"]["target"])),
    "decimal_arithmetic": ("takes what is 0.001 off; here the 12 digits asked for, or the stored ones", decimals),
    "figlet_font": ("gives 1 to a wrong word with ten letters in place; here the word", same_word),
    "game_of_life_halting": (
        "gives 1 to any text; here True or False",
        lambda a, e: a.strip(" .'\"`").lower() == str(e["answer"]).lower(),
    ),
    "number_format": ("takes what is 0.01 off, which may be another candidate; here to 1e-6, as printed", picked),
    "number_sorting": ("takes each number one off, or nan; here exactly", in_order),
    "pool_matrix": ("takes what is one per cent off; here the two decimals asked for", pooled),
    "power_function": ("takes any digits after the third; here the three asked for, or the stored number", power),
    "puzzle24": ("takes any four numbers, and 24.9; here those given, exactly", lambda a, e: expression(a, e, 24)),
}
