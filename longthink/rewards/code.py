"""Programs: the last fenced block after the thinking, run against the gold's tests in a sandbox."""

import ast
import json
import math
import re
import time
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from longthink.errors import SandboxError
from longthink.rewards.base import Reward, answer_region
from longthink.sandbox.child import subjects
from longthink.sandbox.client import Sandbox
from longthink.sandbox.jobs import Outcome
from longthink.sandbox.names import HELPERS, PRELOADED, SHARED
from longthink.types import Verdict

__all__ = ["Code"]

FENCE = re.compile(r"[ \t]*+```[ \t]*+([\w+#.-]*+)[^`]*+")
MAX_PROGRAM = 200_000  # characters


class Tests(NamedTuple):
    """What a gold asks: pairs of input and output, or the source of assertions and how many they are."""

    pairs: tuple[tuple[str, str], ...] = ()
    source: str = ""
    asserts: int = 0
    entry: str = ""


class Code(Reward):
    """The share of the gold's tests a program passes, or 1 for all of them and 0 otherwise.

    Gold: `{"inputs": […], "outputs": […]}` or `[{"input": …, "output": …}, …]` for a script's stdin and stdout,
    `{"functional": "def check(candidate): …"}`, `{"asserts": ["assert …", …]}`, or
    `{"entry_point": "f", "args": [[…], …], "expected": […]}`. With an `entry_point` nothing else of the program is asked by
    the tests; helpers they need stand in `setup`. Output is compared line by line without blanks at line ends; with
    `tolerance` word by word, numbers within that relative error. The tests share `seconds`, measured from outside; past them
    the score is that of the tests passed so far, or 0. The program is given what it is called with, and never what it should
    answer.
    Source: DeepScaleR's and NVIDIA's (section 2) code rewards; NVIDIA's recipes score 0 past the deadline.
    """

    credit: Literal["fraction", "all"] = "fraction"
    on_timeout: Literal["partial", "zero"] = "partial"
    seconds: float = Field(5.0, gt=0)
    max_tests: int = Field(0, ge=0, description="0: all")
    tolerance: float = Field(0.0, ge=0)
    memory_mb: int = Field(1024, ge=128)
    sandbox: Literal["namespaces", "landlock", "seccomp", "none"] = "landlock"

    deadline_s: float = Field(60.0, description="for the day the sandbox does not keep its own time; above `seconds`")

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.deadline_s < self.seconds + 10.0:
            raise ValueError(f"deadline_s is {self.deadline_s}, expected at least seconds + 10 = {self.seconds + 10.0}")
        return self

    def prepare(self) -> None:
        """Start the sandbox now. Raises: SandboxError where it cannot isolate as far as asked."""
        assert _sandbox(self.memory_mb, self.sandbox, numpy=False).level

    def read(self, gold: Any) -> Tests:
        return read_gold(gold, self.max_tests)

    def extract(self, response: str) -> str | None:
        region = answer_region(response, self.think)
        return last_program(region) if region is not None else None

    def guess(self, response: str) -> str | None:
        return last_program(response) or last_program(response + "\n```")

    def judge(self, answer: str, gold: Tests) -> Verdict:
        if len(answer) > MAX_PROGRAM:
            return Verdict(0.0, "limit", answer[:200], {"why": f"longer than {MAX_PROGRAM} characters"})
        try:
            passed, total, last = self.run(answer, gold)
        except SandboxError as error:
            return Verdict(None, "crash", answer, {"why": str(error)[:200]})
        score = passed / total if self.credit == "fraction" or passed == total else 0.0
        if last.status == "timeout" and self.on_timeout == "zero":
            score = 0.0
        status = {"timeout": "timeout", "limit": "limit", "crash": "crash"}.get(last.status, "ok")
        why = {"why": last.error} if last.error and passed < total else {}
        return Verdict(score, status, answer, {"passed": passed, "tests": total, **why})  # type: ignore[arg-type]

    def run(self, program: str, tests: Tests) -> tuple[int, int, Outcome]:
        """Tests passed, tests there are, and how the last run ended that did not end well (or the last)."""
        sandbox = _sandbox(self.memory_mb, self.sandbox, "numpy" in program or "numpy" in tests.source)
        if tests.source:
            outcome = sandbox.test(program, tests.source, deadline_s=self.seconds, entry=tests.entry)
            marks = outcome.stdout.decode(errors="replace")
            done, passed = marks.endswith("$"), marks.count(".")
            return passed, max(tests.asserts, len(marks) - done, passed + (not done)), outcome
        passed, worst, ends = 0, Outcome("ok", b"", ""), time.monotonic() + self.seconds
        most = 4 * max(len(expected) for _, expected in tests.pairs) + (1 << 20)
        together = sandbox.run_many(program, [given for given, _ in tests.pairs], deadline_s=self.seconds / 2, max_output=most)
        for index, (given, expected) in enumerate(tests.pairs):
            if index < len(together) and (index == 0 or self.passes(together[index], expected)):
                outcome = together[index]
            else:  # in a process of its own, then
                left = max(0.0, ends - time.monotonic())
                outcome = sandbox.run(program, given, deadline_s=left, max_output=most)
            passed += self.passes(outcome, expected)
            worst = outcome if outcome.status != "ok" else worst
            if outcome.status == "timeout":
                break
        return passed, len(tests.pairs), worst

    def passes(self, outcome: Outcome, expected: str) -> bool:
        return outcome.status == "ok" and same_output(expected, outcome.stdout, self.tolerance)


@lru_cache(4)
def _sandbox(memory_mb: int, lowest: str, numpy: bool) -> Sandbox:
    """One sandbox a process and setting; numpy only where it is asked for, for it doubles what a fork costs."""
    return Sandbox(memory=memory_mb << 20, lowest=lowest, modules=("numpy",) if numpy else ())


def last_program(text: str) -> str | None:
    r"""The last fenced block that is Python or says nothing of its language.

    >>> last_program("```python\nx = 1\n```\nor\n```\ny = 2\n```\n```text\nno\n```")
    'y = 2\n'
    """
    program, language = None, ""
    body: list[str] | None = None
    for line in text.split("\n"):
        if body is None:
            opened = FENCE.fullmatch(line)
            language, body = (opened[1].lower(), []) if opened else ("", None)
        elif line.strip() == "```":
            if language in ("", "python", "python3", "py"):
                program = "".join(part + "\n" for part in body)
            body = None
        else:
            body.append(line)
    return program


def same_output(expected: str, found: bytes, tolerance: float) -> bool:
    """Equal line by line without blanks at line ends and empty lines at the end; or word by word with a tolerance."""
    text = found.decode("utf-8", errors="replace")
    if [line.rstrip() for line in expected.rstrip().splitlines()] == [line.rstrip() for line in text.rstrip().splitlines()]:
        return True
    words, theirs = expected.split(), text.split()
    return bool(tolerance) and len(words) == len(theirs) and all(map(lambda a, b: near(a, b, tolerance), words, theirs))


def near(a: str, b: str, tolerance: float) -> bool:
    if a == b:
        return True
    try:
        return math.isclose(float(a), float(b), rel_tol=tolerance, abs_tol=tolerance)
    except ValueError:
        return False


# -- golds ------------------------------------------------------------------------------------------------------------


SHAPES = (
    'expected {"inputs", "outputs"}, [{"input", "output"}, …], {"functional"}, {"asserts"} or {"entry_point", "args", "expected"}'
)


def read_gold(gold: Any, max_tests: int) -> Tests:
    """The tests of a gold of any of the shapes. Raises: ValueError, TypeError, SyntaxError for anything else."""
    if isinstance(gold, str):
        gold = json.loads(gold)
    most = max_tests or None
    if isinstance(gold, list):
        if not all(isinstance(case, dict) and {"input", "output"} <= set(case) for case in gold):
            raise TypeError(f"a case without input and output; {SHAPES}")
        return pairs([case["input"] for case in gold[:most]], [case["output"] for case in gold[:most]])
    if not isinstance(gold, dict):
        raise TypeError(f"{type(gold).__name__}; {SHAPES}")
    if "functional" in gold:
        return functional(str(gold["functional"]), gold.get("entry_point"), str(gold.get("setup") or ""))
    if "asserts" in gold:
        setup = [*listed(gold, "imports"), *([gold["setup"]] if gold.get("setup") else [])]
        return assertions("\n".join([*setup, *listed(gold, "asserts")[:most]]))
    name = gold.get("entry_point") or gold.get("fn_name")
    args, expected = (listed(gold, one if one in gold else other) for one, other in (("args", "inputs"), ("expected", "outputs")))
    if len(args) != len(expected):
        raise ValueError(f"{len(args)} inputs and {len(expected)} outputs")
    return calls(str(name), args[:most], expected[:most]) if name else pairs(args[:most], expected[:most])


def listed(gold: dict[str, Any], key: str) -> list[Any]:
    """A list of the gold; empty where there is none of that name and none is needed."""
    found = gold.get(key, [] if key == "imports" else None)
    if not isinstance(found, list):
        raise TypeError(f"{key} is {'missing' if found is None else type(found).__name__}; {SHAPES}")
    return found


def pairs(inputs: list[Any], outputs: list[Any]) -> Tests:
    texts = [["\n".join(map(str, x)) if isinstance(x, list) else str(x) for x in side] for side in (inputs, outputs)]
    if not texts[0]:
        raise ValueError("no cases")
    return Tests(pairs=tuple(zip(*texts, strict=True)))


def functional(source: str, entry_point: str | None, setup: str) -> Tests:
    """Tests that call `check`; what they need beside the entry point must stand in `setup`, and is not the program's."""
    tree = ast.parse(source)
    called = any(isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) for node in tree.body)
    if not called and "check" in {getattr(node, "name", "") for node in tree.body}:
        if not entry_point:
            raise ValueError("`check` is defined and not called, and there is no entry_point")
        source += f"\ncheck(program.{entry_point})\n"
    lent = ast.parse(setup)
    lent.body = [node for node in lent.body if getattr(node, "name", "") != entry_point]  # a stub of it, in a prompt
    source = f"{ast.unparse(lent)}\n{source}"
    if not entry_point:
        return assertions(source)
    known = {entry_point, "Solution", "program", "numpy", *SHARED, *HELPERS, *PRELOADED}
    if missing := subjects(ast.parse(source)) - known:
        raise ValueError(f"the tests use {', '.join(sorted(missing))}, which is neither the entry point nor in `setup`")
    return assertions(source)._replace(entry=entry_point)


@lru_cache(256)
def assertions(source: str) -> Tests:
    count = sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(source)))
    if not count:
        raise ValueError("no assertion")
    return Tests(source=source, asserts=count)


def calls(name: str, args: list[Any], expected: list[Any]) -> Tests:
    """Assertions about a function, or a method of the class Solution, in JSON terms: a tuple is a list."""
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
        raise ValueError(f"{name!r} is no name of a function")
    lines = ["import json", "try:", f"    candidate = program.{name}"]
    lines += ["except AttributeError:", "    if not hasattr(program, 'Solution'):", "        raise"]
    lines += [f"    candidate = program.Solution().{name}"]
    for given, value in zip(args, expected, strict=True):
        if not isinstance(given, list | dict):
            raise TypeError(f"args holds {given!r:.40}, expected a list of arguments for each call")
        star = "**" if isinstance(given, dict) else "*"
        one, other = (repr(json.dumps(x)) for x in (given, value))
        lines.append(f"assert same_json(candidate({star}json.loads({one})), json.loads({other}))")
    if not args:
        raise ValueError("no cases")
    return assertions("\n".join(lines))._replace(entry=name.partition(".")[0])
