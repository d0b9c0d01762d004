"""Programs against tests: the shapes of golds, the rule of the score, and programs that would rather not solve anything."""

import gzip
import json
import random
import re
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longthink.rewards.code import Code, last_program, read_gold, same_output
from longthink.sandbox.client import Sandbox

DATA = Path(__file__).parents[3] / "shared/data/code"
ECHO = {"inputs": ["1\n", "2\n", "3\n", "4\n"], "outputs": ["2\n", "3\n", "4\n", "5\n"]}


@pytest.fixture(scope="module", autouse=True)
def _isolation():
    with Sandbox(lowest="none") as made:
        if made.level not in ("landlock", "namespaces"):
            pytest.skip(f"this machine does not isolate programs: {made.facts['failures']}")


def grade(program, gold, **options):
    return Code(think="optional", **options).grade(f"```python\n{program}\n```", gold)


# -- golds ------------------------------------------------------------------------------------------------------------

ADD = "def add(a, b):\n    return a + b"
GOLDS = {
    "functional": {
        "functional": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(0, 0) == 0\n\ncheck(add)"
    },
    "functional with entry point": {
        "functional": "def check(candidate):\n    assert candidate(a=1, b=2) == 3",
        "entry_point": "add",
    },
    "asserts": {"asserts": ["assert add(1, 2) == 3", "assert add([1], [2]) == [1, 2]"]},
    "asserts with imports": {"asserts": ["assert math.isclose(add(.1, .2), .3)"], "imports": ["import math"]},
    "calls": {"entry_point": "add", "args": [[1, 2], ["a", "b"], [[1], [2]]], "expected": [3, "ab", [1, 2]]},
    "calls by name": {"entry_point": "add", "args": [{"a": 1, "b": 2}], "expected": [3]},
    "PRIME's calls": {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [3, 7]},
    "text": json.dumps({"asserts": ["assert add(2, 2) == 4"]}),
}


@pytest.mark.parametrize("name", GOLDS)
def test_every_shape_of_function_tests(name):
    assert grade(ADD, GOLDS[name]).score == 1.0
    wrong = grade(ADD.replace("+", "-"), GOLDS[name])
    assert wrong.score < 1.0 and wrong.status == "ok"
    assert grade("def other(): pass", GOLDS[name]).score == 0.0
    assert grade("def add(a, b:\n    return a + b", GOLDS[name]).score == 0.0


@pytest.mark.parametrize(
    ("gold", "why"),
    [
        ({"foo": 1}, "inputs is missing; expected {"),
        ({"inputs": "1", "outputs": "2"}, "inputs is str"),
        ({"inputs": ["1"], "outputs": []}, "1 inputs and 0 outputs"),
        ([{"inputs": "1", "outputs": "2"}], "a case without input and output"),
        ({"asserts": "assert f(1) == 2"}, "asserts is str"),
        ({"functional": "def check(f): assert f(1)"}, "is defined and not called"),
        ({"entry_point": "f", "args": [1], "expected": [2]}, "args holds 1, expected a list of arguments"),
        ({"entry_point": "f", "args": [[1]], "expected": 2}, "expected is int"),
        (3, "int; expected {"),
        ("no json", "Expecting value"),
    ],
)
def test_a_bad_gold_says_what_is_wrong_with_it(gold, why):
    verdict = grade("", gold)
    assert (verdict.score, verdict.status) == (None, "verifier_error") and why in verdict.detail["why"]


def test_a_missing_function_is_named():
    assert "'g'" in grade("def f(): pass", {"entry_point": "g", "args": [[]], "expected": [1]}).detail["why"]


@pytest.mark.parametrize(
    "gold", [ECHO, [{"input": i, "output": o} for i, o in zip(ECHO["inputs"], ECHO["outputs"], strict=True)]]
)
def test_scripts(gold):
    assert grade("print(int(input()) + 1)", gold).score == 1.0
    assert grade("print(min(int(input()) + 1, 3))", gold).score == 0.5
    assert grade("print(min(int(input()) + 1, 3))", gold, credit="all").score == 0.0
    assert grade("print(int(input()) + 1)\nexit(1)", gold).score == 0.0


def test_a_method_of_solution_is_found():
    program = "class Solution:\n    def add(self, a: List[int], b: Optional[int]) -> int:\n        return sum(a) + b"
    gold = {"entry_point": "add", "args": [[[1, 2], 3]], "expected": [6]}
    assert grade(program, gold).score == 1.0
    assert (
        grade(
            program, {"functional": "def check(candidate):\n    assert candidate(a = [1], b = 2) == 3\n\ncheck(Solution().add)"}
        ).score
        == 1.0
    )


@pytest.mark.parametrize("gold", [None, 3, {}, [], "", "{", {"functional": "def"}, {"asserts": []}, {"inputs": [], "outputs": []},
                                  {"inputs": ["1"], "outputs": []}, {"entry_point": "f()", "args": [[1]], "expected": [1]},
                                  {"functional": "def check(candidate): assert candidate(1) == 1"}, [1],
                                  [{"input": "1"}]])  # fmt: skip
def test_a_gold_without_tests_is_our_fault(gold):
    verdict = grade(ADD, gold)
    assert verdict.score is None and verdict.status == "verifier_error"


def test_max_tests():
    assert grade("print(min(int(input()) + 1, 3))", ECHO, max_tests=2).detail == {"passed": 2, "tests": 2}
    assert read_gold({"asserts": ["assert a", "assert b"]}, 1).asserts == 1


def test_linked_lists_and_trees_cross_over():
    gold = {
        "functional": "def check(candidate):\n"
        "    assert is_same_list(candidate(head = list_node([1, 2, 3])), list_node([3, 2, 1]))\n"
        "    assert is_same_list(candidate(head = list_node([])), list_node([]))\ncheck(Solution().turn)"
    }
    program = """
class Solution:
    def turn(self, head: Optional[ListNode]) -> Optional[ListNode]:
        last = None
        while head:
            head.next, last, head = last, head, head.next
        return last"""
    assert grade(program, gold).score == 1.0
    tree = {
        "functional": "def check(candidate):\n    "
        "assert is_same_tree(candidate(tree_node([1, None, 2])), tree_node([1, 2]))\ncheck(flip)"
    }
    assert grade("def flip(t):\n    t.left, t.right = t.right, t.left\n    return t", tree).score == 1.0
    loop = {"functional": "def check(candidate):\n    assert is_same_list(candidate(), list_node([1, 1]))\ncheck(f)"}
    assert grade("def f():\n    n = ListNode(1)\n    n.next = n\n    return n", loop).score == 0.0


def test_arguments_changed_in_place_are_seen():
    gold = {"functional": "def check(candidate):\n    x = [3, 1, 2]\n    candidate(x)\n    assert x == [1, 2, 3]\ncheck(f)"}
    assert grade("def f(x): x.sort()", gold).score == 1.0
    assert grade("def f(x): return sorted(x)", gold).score == 0.0


def test_objects_of_the_programs_own_classes_can_be_handed_back():
    program = "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\ndef span(p): return p.b - p.a"
    assert (
        grade(
            program, {"asserts": ["assert span(Pair(1, 4)) == 3", "p = Pair(0, 0)\np.b = 7\nassert span(p) == 7 and p.b == 7"]}
        ).score
        == 1.0
    )


def test_a_function_may_be_named_like_a_builtin():
    wrong, right = "def sum(a, b): return a - b", "def sum(a, b): return a + b"
    for gold in ({"asserts": ["assert sum(1, 2) == 3"]}, {"entry_point": "sum", "args": [[1, 2]], "expected": [3]}):
        assert grade(right, gold).score == 1.0
        assert grade(wrong, gold).score == grade("x = 1", gold).score == 0.0
    lent = {"asserts": ["assert set(f(1)) == set([1])"]}  # the tests keep their own `set`
    assert grade("def set(x): return 1\ndef f(x): return [2]", lent).score == 0.0


def test_an_object_is_true_and_equals_nothing():
    gold = {"asserts": ["assert f('a')", "assert not f('b')", "assert f('a') != 1", "assert not f('a') == f('a')"]}
    assert grade("import re\ndef f(x): return re.search('a', x)", gold).score == 1.0
    never = "class N:\n    def __bool__(self): return False\ndef f(x): return N()"
    assert grade(never, {"asserts": ["assert not f(1)"]}).score == 0.0


def test_functions_the_tests_borrow_from_the_program():
    gold = {
        "functional": "def check(candidate):\n    for n in range(5):\n        assert decode(candidate(n)) == n\n\ncheck(encode)",
    }
    assert grade("def encode(n): return n * 2\ndef decode(n): return n // 2", gold).score == 1.0


# -- the score --------------------------------------------------------------------------------------------------------


def test_no_program_is_no_answer():
    for response in ("", "no code", "```text\nx\n```", "```python\nunclosed"):
        verdict = Code().grade(response, ECHO)
        assert (verdict.score, verdict.status) == (0.0, "no_answer")
    verdict = Code(think="template").grade("```python\nprint(int(input()) + 1)", ECHO)
    assert (verdict.score, verdict.status, verdict.detail["lenient"]) == (0.0, "no_answer", 1.0)
    assert Code().grade("```python\n1\n``` </think>\n```\nprint(int(input()) + 1)\n```", ECHO).score == 1.0


ENDINGS = {
    "a thread nobody waits for": "import threading\ndef main(): print(int(input()) + 1)\nthreading.Thread(target=main).start()",
    "an exit handler": "import atexit, sys\nline = str(int(input()) + 1)\natexit.register(lambda: sys.stdout.write(line))",
    "the first stdout": "import sys\nsys.__stdout__.write(str(int(input()) + 1))",
    "a file of its own": "out = open(1, 'w')\nout.write(str(int(input()) + 1))",
    "a stdout of its own": "import sys\nsys.stdout = open(1, 'w')\nprint(int(input()) + 1)",
    "a stdout of its own and exit": "import sys\nsys.stdout = open(1, 'w')\nprint(int(input()) + 1)\nexit()",
    "a loop over what it left": "import sys\nif hasattr(sys, 'k'):\n while 1: pass\nsys.k = 1\nprint(int(input()) + 1)",
}


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("many", [True, False])
def test_a_program_ends_as_under_an_interpreter(name, many):
    gold = ECHO if many else {"inputs": ["1"], "outputs": ["2"]}
    assert grade(ENDINGS[name], gold, seconds=2.0).score == 1.0


def test_only_the_entry_point_is_the_programs():
    tests = "def check(candidate):\n    assert candidate(encode('abc')) == 'abc'\n    assert candidate(encode('x')) == 'x'"
    helper = "def encode(s): return s[::-1]"
    forged = "def encode(s): return s\ndef decode(s): return s"
    gold = {"functional": tests, "entry_point": "decode"}
    assert "the tests use encode" in grade(forged, gold).detail["why"]
    assert grade(forged, {**gold, "setup": helper}).score == 0.5  # 'x' is its own reverse
    assert grade("def decode(s): return s[::-1]", {**gold, "setup": helper + "\ndef decode(s): ..."}).score == 1.0


LEAKS = {
    "takes stdin away": "import sys\nn = int(sys.stdin.read())\nsys.stdin = None\nprint(n + 1)",
    "closes descriptors": "import os\nn = int(os.read(0, 9))\nos.write(1, b'%d' % (n + 1))\nos.close(0)\nos.close(1)",
    "leaves at once": "import os\nprint(int(input()) + 1, flush=True)\nos._exit(0)",
    "keeps a counter in a module": "import math\nmath.k = getattr(math, 'k', 0) + 1\nprint(int(input()) + math.k)",
    "breaks print": "import builtins\nprint(int(input()) + 1)\nbuiltins.print = None",
}


@pytest.mark.parametrize("name", LEAKS)
def test_what_one_test_leaves_behind_does_not_fail_the_next(name):
    assert grade(LEAKS[name], ECHO).score == 1.0


def test_past_the_deadline_the_tests_passed_so_far_count_or_none():
    program = "n = int(input())\nwhile n == 3: pass\nprint(n + 1)"
    verdict = grade(program, ECHO, seconds=0.5)
    assert (verdict.score, verdict.status) == (0.5, "timeout")
    assert grade(program, ECHO, seconds=0.5, on_timeout="zero").score == 0.0
    gold = {"asserts": [f"assert f({n}) == {n}" for n in range(4)]}
    verdict = grade("def f(n):\n    while n == 2: pass\n    return n", gold, seconds=0.5)
    assert (verdict.score, verdict.status) == (0.5, "timeout")


def test_output_is_compared_by_lines():
    assert same_output("1\n2\n", b"1  \n2", 0.0) and same_output("1", b"1\n\n", 0.0)
    assert not same_output("1\n2", b"1 2", 0.0) and not same_output("1", b"", 0.0) and not same_output("a", b" a", 0.0)
    assert same_output("0.3333 x", b"0.33333  x", 1e-3) and not same_output("0.33333", b"0.4", 1e-3)
    assert not same_output("1", b"1.0", 0.0) and not same_output("nan", b"1", 1.0)


def test_the_last_fenced_block_counts():
    assert last_program("```py\na\n```\n```\nb\n```\n```json\n{}\n```") == "b\n"
    assert last_program("  ```python\n  x\n  ```") == "  x\n"
    assert last_program("```python a\nb\n```") == "b\n" and last_program("`x`") is None


# -- programs that would rather not solve anything ----------------------------------------------------------------------

FORGERIES = {
    "equal to everything": "class E:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
    "    def __bool__(self): return True\n    def __hash__(self): return 0\ndef f(*a): return E()",
    "a list that equals everything": "class E(list):\n    def __eq__(self, o): return True\ndef f(*a): return E()",
    "a number that equals everything": "class E(int):\n    def __eq__(self, o): return True\ndef f(*a): return E(7)",
    "a text that equals everything": "class E(str):\n    def __eq__(self, o): return True\ndef f(*a): return E('x')",
    "an early exit": "import os\ndef f(*a): os._exit(0)",
    "an exit on import": "import os\nos._exit(0)",
    "a polite exit": "import sys\ndef f(*a): sys.exit(0)",
    "forged marks": "print('....$', flush=True)\nimport os\nos.write(1, b'....$')\ndef f(*a): return None",
    "forged messages": "import os, struct\ndef f(*a):\n    m = b'{\"value\": [[\"v\", true]], \"given\": []}'\n"
    "    for n in range(3, 20):\n        try: os.write(n, (struct.pack('!I', len(m)) + m) * 50)\n        except OSError: pass",
    "a closed channel": "import os\ndef f(*a): os.closerange(3, 100)",
    "its own assertions": "import builtins\nbuiltins.AssertionError = None\ndef f(*a): return None\ndef check(c): pass",
    "its own math": "class math:\n    isclose = staticmethod(lambda *a, **k: True)\ndef f(*a): return 0",
    "frames": "import sys\ndef f(*a):\n    frame = sys._getframe()\n    while frame:\n"
    "        for v in list(frame.f_locals.values()):\n"
    "            if isinstance(v, dict) and 'expected' in v: return v['expected']\n"
    "        frame = frame.f_back",
    "the collector": "import gc\ndef f(*a):\n    for o in gc.get_objects():\n"
    "        if isinstance(o, str) and 'assert' in o and 'f(' in o: return 424242",
    "a traceback": "def f(*a): raise SystemExit(0)",
    "a fresh object": "def f(*a): return object()",
    "raising what the test may catch": "def f(*a): raise AssertionError",
    "an endless iterator": "def f(*a):\n    while True: yield 1",
    "a value of many parts": "def f(*a): return [0] * 100_000_000",
    "a deep value": "def f(*a):\n    x = ()\n    for _ in range(200_000): x = (x,)\n    return x",
    "not a number": "def f(*a): return float('nan')",
}  # fmt: skip
HARD = {
    "asserts": ["assert f(1) == 424242", "assert f([1]) == [424242, 'x']", "assert math.isclose(f(2), 424242.5)",
                "assert not f(3) is None and f(3) == 'zz'",
                "assert f(4) in (424242, 'zz')", "assert sorted(f(5)) == [1, 2]"],
    "imports": ["import math"],
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_forgeries_do_not_pass(name):
    verdict = grade(FORGERIES[name], HARD, seconds=2.0)
    if name == "the collector":  # it may only guess 424242 if it finds the tests, which are not there
        assert verdict.score == 0.0
    assert verdict.score == 0.0, verdict
    assert grade(ADD, GOLDS["asserts"]).score == 1.0


def test_a_program_that_forges_its_exit_in_scripts():
    assert grade("import os\nos._exit(0)", ECHO).score == 0.0
    assert grade("print(2, flush=True)\nimport os\nos._exit(0)", ECHO).score == 0.25  # one answer is right: that is fair


# -- real data --------------------------------------------------------------------------------------------------------


def leetcode():
    rows = []
    for name in ("rllm_train_leetcode", "rllm_test_leetcode"):
        with gzip.open(DATA / f"{name}.json.gz") as file:
            rows += [(f"{name} {i}", row["solutions"], row["tests"]) for i, row in enumerate(json.load(file))]
    return rows


def humaneval():
    with gzip.open(DATA / "prime_HumanEval.jsonl.gz") as file:
        rows = [json.loads(line) for line in file]
    return [
        (
            r["task_id"],
            r["prompt"] + r["canonical_solution"],
            {"functional": r["test"], "entry_point": r["entry_point"], "setup": r["prompt"]},
        )
        for r in rows
    ]


def mbpp():
    rows = json.loads((DATA / "prime_new_mbpp.json").read_text())
    return [(f"MBPP {r['task_id']}", r["code"], {"asserts": r["test_list"], "imports": r["test_imports"]}) for r in rows]


def entry_points(program, gold):
    """The function the tests are about."""
    if "entry_point" in gold:
        return {gold["entry_point"]}
    if "functional" in gold:
        return set(re.findall(r"check\((?:Solution\(\)\.)?(\w+)\)\s*$", gold["functional"]))
    defined = set(re.findall(r"^def (\w+)", program, re.MULTILINE))
    return {name for name in defined if any(re.search(rf"\b{name}\(", test) for test in gold["asserts"])}


def returning_objects(program, names):
    """The program with `return object()` for every return of these functions."""
    import ast

    with warnings.catch_warnings(action="ignore"):
        tree = ast.parse(program)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in names:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return):
                    inner.value = ast.parse("object()", mode="eval").body
    return ast.unparse(tree)


def misgraded(rows):
    """Rows whose reference solution does not get 1, or whose mutants get more than 0."""
    found = []
    for name, program, gold in rows:
        if grade(program, gold, credit="all", seconds=30.0).score != 1.0:
            found.append(f"{name}: the reference solution gets {grade(program, gold, seconds=30.0)}")
        for mutant in (returning_objects(program, entry_points(program, gold)), program + "\n("):
            if grade(mutant, gold, credit="all").score != 0.0:
                found.append(f"{name}: a mutant passes")
    return found


needs_data = pytest.mark.skipif(not DATA.exists(), reason="the code data is not here")


@needs_data
def test_forty_reference_solutions():
    found = misgraded(random.Random(0).sample(leetcode() + humaneval() + mbpp(), 40))
    assert not found, "\n".join(found)


@needs_data
@pytest.mark.full
def test_all_reference_solutions():
    found = misgraded(leetcode() + humaneval() + mbpp())
    assert not found, "\n".join(found)


FENCED = st.text(alphabet="`python \nx=1:()\t", max_size=60) | st.text(max_size=60)


@given(FENCED)
@settings(derandomize=True, deadline=None, max_examples=300)
def test_no_text_breaks_the_search_for_a_program(text):
    found = last_program(text)
    assert found is None or found == "" or found.endswith("\n")


@given(st.text(alphabet="print(x)=1\n+ :if", max_size=30) | st.text(max_size=30), st.sampled_from([ECHO, GOLDS["calls"]]))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_no_program_raises(source, gold):
    assert grade(source, gold, seconds=0.5).score == 0.0
