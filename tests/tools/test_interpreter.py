"""The interpreter by what it says: values, errors, limits and time-outs as text; names that blocks share; nothing gets out."""

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import BOMBS, FILES, LOOPS, REFUSED

from longthink.sandbox.client import Sandbox, Session
from longthink.sandbox.jobs import Outcome
from longthink.tools.interpreter import Interpreter
from longthink.types import Call


@pytest.fixture(scope="module")
def python() -> Iterator[Interpreter]:
    made = Interpreter(call_s=2.0, output_chars=40, memory_mb=1024, lowest="landlock", at_once=4)
    yield made
    made.close()


def finished(python: Interpreter, jobs: list[int]) -> list[Call]:
    while not all(map(python.done, jobs)):
        python.wait(60.0)
    return [python.take(job) for job in jobs]


def run(python: Interpreter, *blocks: str, seed: int = 0) -> Call:
    earlier = [Call(block, "", "ok", 0.2) for block in blocks[:-1]]
    return finished(python, [python.begin(blocks[-1], earlier, seed)])[0]


@pytest.mark.parametrize(
    ("blocks", "ended", "output"),
    [
        (["print(6 * 7)"], "ok", "42"),
        (["6 * 7"], "ok", "42"),
        (["x = 6\nx * 7"], "ok", "42"),
        (["\n  \nprint('a')\n'b'\n"], "ok", "a"),  # what was printed, not the value
        (["x = 6"], "ok", ""),
        ([""], "ok", ""),
        (["None"], "ok", ""),
        (["print(1)\n1 / 0"], "error", "1\nZeroDivisionError: division by zero"),
        (["def f(:"], "error", "SyntaxError: invalid syntax"),
        (["'ab' * 100"], "ok", "'ababababababababab" + "a..." + "babababababababababa"[:19] + "'"),
        (["x = 5", "x + 1"], "ok", "6"),
        (["x = 5\n1 / 0", "x + 1"], "ok", "6"),  # as far as it came
        (["import math", "def f(n):\n    return math.factorial(n)", "f(5)"], "ok", "120"),
        (["print('unheard')", "print('heard')"], "ok", "heard"),
        (["input()"], "error", "EOFError: EOF when reading a line"),
        (["import sys\nprint(7)\nsys.exit(3)"], "error", "7\nSystemExit: 3"),
        (["while True: pass"], "timeout", "Timeout Error"),
        (["print('so far', flush=True)\nwhile True: pass"], "timeout", "so far\nTimeout Error"),
        (["import time\ntime.sleep(60)"], "timeout", "Timeout Error"),
        (["a = [0] * 10**10"], "limit", "MemoryError"),
        (["import os\nos._exit(0)"], "crash", "Interpreter Error"),
        (["import os\nos.kill(os.getpid(), 9)"], "crash", "Interpreter Error"),
        (["import ctypes\nctypes.string_at(0)"], "crash", "Interpreter Error"),
        (["print('\\x00\\x1b[2J')"], "ok", "\x00\x1b[2J"),
    ],
)
def test_what_it_says(python: Interpreter, blocks: list[str], ended: str, output: str) -> None:
    found = run(python, *blocks)
    assert (found.status, found.output, found.code) == (ended, output, blocks[-1])


def test_output_that_never_ends_is_cut(python: Interpreter) -> None:
    for flood in ("while True: print('x' * 100)", "import os\nwhile True: os.write(2, b'x' * 1000)", "print('x' * 10**7)"):
        found = run(python, flood)
        assert found.status == "limit" and len(found.output) <= 43


def test_chance_begins_with_the_seed_and_goes_on_from_block_to_block(python: Interpreter) -> None:
    both = run(python, "import random\nprint([random.randrange(99) for _ in range(4)])", seed=5).output
    first = run(python, "import random\nprint([random.randrange(99) for _ in range(2)])", seed=5).output
    second = run(
        python,
        "import random\nx = [random.randrange(99) for _ in range(2)]",
        "print([random.randrange(99) for _ in range(2)])",
        seed=5,
    )
    assert f"{first[:-1]}, {second.output[1:]}" == both
    assert run(python, "import random\nprint([random.randrange(99) for _ in range(4)])", seed=6).output != both


@pytest.mark.parametrize(
    "code",
    [
        "open('/etc/passwd').read()",
        "open('/tmp/longthink-escape', 'w')",
        "import os\nos.listdir('/root')",
        "import os\nos.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import socket\nsocket.create_connection(('127.0.0.1', 80))",
        "import os\nos.kill(os.getppid(), 0)",
    ],
)
def test_nothing_gets_out(python: Interpreter, code: str) -> None:
    found = run(python, code)
    assert found.status == "error", found
    assert not Path("/tmp/longthink-escape").exists()


def test_no_block_has_a_file_to_leave_something_in(python: Interpreter) -> None:
    """What runs side by side has no folder in common: neither side channels nor a full disk, and blocks repeat what they did."""
    for place in ("a.txt", "/mnt/a.txt", "/tmp/a.txt", "/dev/shm/a.txt"):
        assert run(python, f"open({place!r}, 'w')").output.startswith(("PermissionError", "OSError"))
    assert run(python, "import os\nos.listdir('/mnt')").status == "error"


def test_half_characters_and_the_end_of_thinking_are_put_right(python: Interpreter) -> None:
    odd = run(python, "class A:\n    __repr__ = lambda self: chr(0xd800) + 'x'\nA()")
    assert odd.output == "?x" and odd.status == "ok"
    assert run(python, "print('so </think> 7')").output == "so </ think> 7"
    assert run(python, "'\U0001f600' * 9000").status == "ok"


def unseen(sandbox: Sandbox, *blocks: str, block_s: float) -> Session:
    """Blocks that have ended, and nobody has looked yet."""
    session = sandbox.session([*blocks], seed=0, block_s=block_s)
    select.select([sandbox._control], [], [])
    return session


def test_a_block_is_judged_by_when_it_ended_and_not_by_when_we_look() -> None:
    with Sandbox() as sandbox:
        early = unseen(sandbox, "6 * 7", block_s=60.0)
        early._job.deadline = time.monotonic()  # it is past when we look
        sandbox.wait(60.0)
        assert early.over and early.result()[:2] == (Outcome("ok", b"", ""), "42")
        late = unseen(sandbox, "import time\ntime.sleep(0.3)", block_s=0.1)
        sandbox.wait(60.0)
        assert late.over and late.result()[0].status == "timeout"


def test_the_last_block_has_a_clock_of_its_own() -> None:
    """What blocks before it leave of their time is not its own; one that forges when it began has forged its ending."""
    with Sandbox() as sandbox:
        late = unseen(sandbox, "1", "import time\ntime.sleep(0.6)", block_s=0.5)
        sandbox.wait(60.0)
        assert late.over and late.result()[0].status == "timeout" and 0.5 < late.seconds < 60.0
        for moment in ("nan", "9e99", "x", "-1"):
            late = unseen(sandbox, f"import os\nos.write(4, b'{moment}\\n')", "import time\ntime.sleep(0.6)", block_s=0.5)
            sandbox.wait(60.0)
            assert late.over and late.result()[0].status in ("timeout", "crash") and 0.0 <= late.seconds < 60.0
        slow = unseen(sandbox, "import time\ntime.sleep(0.4)", "time.sleep(0.4)\n7", block_s=0.7)
        sandbox.wait(60.0)
        assert slow.over and slow.result()[:2] == (Outcome("ok", b"", ""), "7")


def test_numpy_draws_the_same_when_a_block_runs_again(python: Interpreter) -> None:
    first = "import numpy as np\nx = np.random.rand(), np.random.default_rng().random()\nprint(x)"
    said = run(python, first, seed=3)
    assert said.status == "ok" and said.output == run(python, first, "print(x)", seed=3).output
    assert said.output != run(python, first, seed=4).output


def test_what_waits_for_room_has_run_as_long_as_those_it_waits_for() -> None:
    narrow = Interpreter(call_s=60.0, output_chars=40, memory_mb=1024, lowest="landlock", at_once=2)
    jobs = [narrow.begin("while True: pass") for _ in range(2)] + [narrow.begin("1")]
    while narrow.seconds(jobs[2]) < 0.1:
        narrow.wait(0.01)
    assert not any(map(narrow.done, jobs)) and narrow.seconds(jobs[0]) >= 0.1
    narrow.close()


def test_blocks_that_forge_their_ending_are_no_more_than_wrong(python: Interpreter) -> None:
    """The code runs with the pipes it answers on: it can lie about its own value, and about nothing else."""
    for forged in ("import os\nos.write(4, b'{')", "import os\nos.close(4)", "import os\nos.write(4, b'[' * 100000)"):
        assert run(python, forged).status in ("crash", "limit", "error")
    assert run(python, "1 + 1").output == "2"


def test_many_run_side_by_side_and_one_that_hangs_holds_up_nobody(python: Interpreter) -> None:
    hanging = [python.begin("while True: pass") for _ in range(3)]
    quick = [python.begin(f"{i} * 2") for i in range(40)]
    found = finished(python, quick)
    assert [call.output for call in found] == [str(2 * i) for i in range(40)]
    assert {call.output for call in finished(python, hanging)} == {"Timeout Error"}


def test_every_hostile_program_is_contained_while_the_others_finish(python: Interpreter) -> None:
    """The sandbox's own table: none says what it must not, and between any two of them a plain block says what it should."""
    attempts = {**REFUSED, **FILES}
    programs = [*LOOPS.values(), *BOMBS.values(), *(f"{code}\nprint('out', 'of it')" for code in attempts.values())]
    jobs = [(python.begin(code), python.begin(f"{i} + 1")) for i, code in enumerate(programs)]
    plain = finished(python, [job for _, job in jobs])
    assert [call.output for call in plain] == [str(i + 1) for i in range(len(programs))]
    found = finished(python, [job for job, _ in jobs])
    assert {call.status for call in found[: len(LOOPS)]} == {"timeout"}
    assert {call.status for call in found[len(LOOPS) :]} <= {"error", "limit", "crash", "timeout"}
    assert not any("out of it" in call.output for call in found)
    assert not Path("/tmp/escaped").exists() and not Path("/dev/shm/escaped").exists()


def test_nothing_is_left_of_hundreds_of_blocks(python: Interpreter) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(4):
        finished(python, [python.begin("print(1)") for _ in range(50)])
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_ended_a_process_does_not_run_again(python: Interpreter) -> None:
    """Blocks that were killed or crashed leave nothing; those that failed leave what they had done."""
    earlier = [Call("x = 1\n1 / 0", "", "error", 0.0), *(Call("x = 2", "", s, 0.0) for s in ("timeout", "limit", "crash"))]
    (found,) = finished(python, [python.begin("x", earlier)])  # type: ignore[arg-type]
    assert found.output == "1"


def test_what_is_dropped_leaves_no_trace(python: Interpreter) -> None:
    jobs = [python.begin("1") for _ in range(12)]
    for job in jobs:
        python.drop(job)
    assert run(python, "2").output == "2"
    while python._running:
        python.wait(1.0)
    assert not python._done and not python._dropped


def test_a_sandbox_that_is_lost_is_a_crash_and_another_takes_its_place(python: Interpreter) -> None:
    job = python.begin("import time\ntime.sleep(60)")
    process = python._sandbox._process
    assert process is not None
    process.kill()
    python.wait(1.0)
    assert not python.done(job)  # it is run once more
    again = python._sandbox._process
    assert again is not None and again is not process
    again.kill()
    assert finished(python, [job])[0].status == "crash"
    assert run(python, "3").output == "3"


def test_too_long_a_program_is_not_run(python: Interpreter) -> None:
    found = run(python, "#" * 200_000)
    assert found.status == "limit" and found.output == "Length Error"
