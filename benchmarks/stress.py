"""Very many mixed rows, some of them hostile, through `longthink verify`; nothing may be lost, late, wrong or left behind.

    python benchmarks/stress.py --rows 100000 --hostile 1000      (make stress)

Checks: one verdict a row, in order (every harmless row has the score its making implies), no score above 0 for a hostile
one; processes, descriptors and files before = after; the memory of all processes in the second half at most 1.1 times that in
the first. Exit status 1 where one of these fails.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
MAX_GROWTH = 1.1
OUTSIDE = ("/tmp/longthink_stress_was_here", "/longthink_stress_was_here")
PROGRAMS = {
    "a loop": "while True: pass",
    "a sleep": "import time\ntime.sleep(1000)",
    "a power": "print(9 ** 9 ** 9)",
    "deaf to signals": "import signal\nfor n in (1, 2, 3, 15): signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
    "a memory bomb": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "a fork bomb": "import os\nwhile True: os.fork()",
    "threads without end": "import threading\nwhile True: threading.Thread(target=input).start()",
    "a flood": "while True: print('x' * 65536)",
    "a flood of errors": "import sys\nwhile True: sys.stderr.write('x' * 65536)",
    "a write outside": "open('/tmp/longthink_stress_was_here', 'w').write('x')",
    "a write beside": "open('longthink_stress_was_here', 'w').write('x' * (1 << 30))",
    "a read outside": "print(open('/etc/shadow').read())",
    "a neighbour's environment": "import os\nfor p in os.listdir('/proc'): print(open(f'/proc/{p}/environ').read())",
    "a link out": "import os\nos.symlink('/etc/passwd', 'link')\nprint(open('link').read())",
    "a connection": "import socket\nsocket.create_connection(('127.0.0.1', 22))",
    "a kill": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(-1, signal.SIGKILL)",
    "a new program": "import subprocess\nsubprocess.run(['sleep', '1000'])",
    "an early exit": "import os\nos._exit(0)",
    "a trace": "import ctypes\nctypes.CDLL(None).ptrace(16, 1, 0, 0)",
    "a crash": "import ctypes\nctypes.string_at(0)",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
}
FORGERIES = {
    "an object equal to all": "class E:\n    def __eq__(self, other): return True\ndef double(n): return E()",
    "an exit before the tests": "import sys\ndef double(n): sys.exit(0)",
    "a patched comparison": "import builtins\nbuiltins.AssertionError = BaseException\ndef double(n): return 0",
    "a look at the frames": "import sys\ndef double(n): return sys._getframe(1).f_locals.get('expected')",
}
ANSWERS = {
    "a tower": "9^{9^{9^{9}}}",
    "an exponent": "1E+1000000000",
    "nesting": "(" * 3000 + "1" + ")" * 3000,
    "a megabyte": "7" * 1_000_000,
    "a factorial": "999999999!",
    "a power of sums": "(x+y+z+w)^{9999}",
    "a sum without end": r"\sum_{n=1}^{10^{9}} \frac{1}{n^{2}}",
    "an integral": r"\int_0^{10} e^{-x^{x^{x}}} dx",
}
TEXTS = {
    "zeros": "\x00" * 1000,
    "half a pair": "\ud800",
    "brackets": "[" * 200_000,
    "tags": "<think>" * 50_000,
    "boxes": r"\boxed{" * 50_000,
}


class Made(NamedTuple):
    """A row, the score it must get (None: anything but a positive one), and what it is."""

    row: Row
    score: float | None
    what: str


# -- rows --------------------------------------------------------------------------------------------------------------


def maths(draw: random.Random) -> Made:
    a, b = draw.randint(2, 999), draw.randint(2, 99)
    right = draw.random() < 0.5
    shift = 0 if right else draw.randint(1, 5)
    gold, answer = draw.choice(
        [
            (str(a * b), f"{a * b + shift:,}"),
            (rf"\frac{{{a}}}{{{b}}}", f"{a + shift}/{b}"),
            (f"({a}, {b})", rf"\left({a + shift},\,{b}\right)"),
            (f"x^2 + {a}x", f"x({a + shift} + x)"),
            (rf"{a}\sqrt{{3}}", rf"\sqrt{{3}} \cdot {a + shift}"),
            (f"{a}.5", rf"\dfrac{{{2 * (a + shift) + 1}}}{{2}}"),
        ]
    )
    return Made({"kind": "math", "response": rf"<think>hm</think> It is \boxed{{{answer}}}.", "gold": gold}, float(right), "math")


def countdown(draw: random.Random) -> Made:
    a, b, c = (draw.randint(1, 20) for _ in range(3))
    right = draw.random() < 0.5
    gold = {"numbers": [a, b, c], "target": (a + b) * c + (not right)}
    return Made(
        {"kind": "countdown", "response": f"</think> <answer>({a}+{b})*{c}</answer>", "gold": gold}, float(right), "countdown"
    )


def choice(draw: random.Random) -> Made:
    gold, said = draw.choice("ABCD"), draw.choice("ABCD")
    return Made({"kind": "choice", "response": f"So the answer is ({said}).", "gold": gold}, float(gold == said), "choice")


def short_answer(draw: random.Random) -> Made:
    metres = draw.randint(100, 9999)
    right = draw.random() < 0.5
    row = {
        "kind": "short_answer",
        "response": rf"\boxed{{{metres / 1000} \text{{ km}}}}",
        "gold": f"{metres * (1 if right else 2)} m",
    }
    return Made(row, float(right), "short_answer")


def instructions(draw: random.Random) -> Made:
    words, most = draw.randint(1, 60), draw.randint(1, 60)
    gold = {"instruction_id_list": ["length_constraints:number_words", "punctuation:no_comma"],
            "kwargs": [{"relation": "less than", "num_words": most}, {}]}  # fmt: skip
    return Made({"kind": "instructions", "response": "word " * words, "gold": gold}, float(words < most), "instructions")


def code(draw: random.Random) -> Made:
    k, right = draw.randint(2, 9), draw.random() < 0.5
    if draw.random() < 0.5:
        program = f"print(int(input()) * {k})"
        gold: Row = {"inputs": ["3", "4"], "outputs": [str(3 * k + (not right)), str(4 * k + (not right))]}
    else:
        program = f"def double(n):\n    return n * {k}"
        gold = {"entry_point": "double", "args": [[3], [4]], "expected": [3 * k + (not right), 4 * k + (not right)]}
    return Made({"kind": "code", "response": f"```python\n{program}\n```", "gold": gold}, float(right), "code")


def hostile(draw: random.Random) -> Made:
    sort = draw.choice(["program", "program", "forgery", "answer", "text"])
    if sort == "program":
        what = draw.choice(list(PROGRAMS))
        row = {
            "kind": "code",
            "response": f"```python\n{PROGRAMS[what]}\n```",
            "seconds": 1.0,
            "gold": {"inputs": [""], "outputs": ["42"]},
        }
    elif sort == "forgery":
        what = draw.choice(list(FORGERIES))
        gold = {"entry_point": "double", "args": [[3]], "expected": [6]}
        row = {"kind": "code", "response": f"```python\n{FORGERIES[what]}\n```", "seconds": 1.0, "gold": gold}
    elif sort == "answer":
        what, kind = draw.choice(list(ANSWERS)), draw.choice(["math", "short_answer"])
        row = {"kind": kind, "response": rf"\boxed{{{ANSWERS[what]}}}", "gold": "42"}
    else:
        what = draw.choice(list(TEXTS))
        kind, gold = draw.choice([("math", "42"), ("choice", "B"), ("code", {"inputs": ["1"], "outputs": ["2"]}),
                                  ("countdown", {"numbers": [1], "target": 1}), ("short_answer", "4 m")])  # fmt: skip
        row = {"kind": kind, "response": TEXTS[what], "gold": gold}
    return Made(row, None, f"hostile: {what}")


MIX: list[tuple[Callable[[random.Random], Made], float]] = [
    (maths, 0.45), (countdown, 0.15), (choice, 0.1), (short_answer, 0.1), (instructions, 0.1), (code, 0.1)]  # fmt: skip


def make(rows: int, num_hostile: int, seed: int) -> list[Made]:
    draw = random.Random(seed)
    bad = set(draw.sample(range(rows), num_hostile))
    makers, weights = zip(*MIX, strict=True)
    return [hostile(draw) if i in bad else draw.choices(makers, weights)[0](draw) for i in range(rows)]


# -- what is left behind -----------------------------------------------------------------------------------------------


def processes() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def descendants(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for pid in processes():
        try:
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, new = [root], [root]
    while new:
        new = [pid for pid, parent in parents.items() if parent in new]
        found += new
    return found


def born(pid: int) -> str:
    """When a process started, in ticks; empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def memory(root: int) -> int:
    """Bytes of all processes under `root`, what they share counted once."""
    total = 0
    for pid in descendants(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def files(temporary: Path) -> set[str]:
    """What programs, workers and sandboxes could have left: in their temporary folder, in shared memory, here, or outside."""
    folders = (str(temporary), "/dev/shm", os.getcwd())
    return {os.path.join(f, name) for f in folders for name in os.listdir(f)} | {p for p in OUTSIDE if os.path.exists(p)}


def run(made: list[Made], folder: Path, workers: int) -> tuple[list[Row], dict[str, Any]]:
    source, out = folder / "rows.jsonl", folder / "verdicts.jsonl"
    with source.open("w") as file:
        file.writelines(json.dumps(m.row) + "\n" for m in made)
    command = [sys.executable, "-m", "longthink.cli", "verify", "--in", str(source), "--out", str(out), "--workers", str(workers)]
    partial, halves, open_files, started = out.with_name(out.name + ".partial"), ([0], [0]), [0], time.monotonic()
    seen: set[tuple[int, str]] = set()
    env = {**os.environ, "TMPDIR": str(folder / "temporary")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    while process.poll() is None:
        with contextlib.suppress(OSError):
            with partial.open("rb") as written:
                share = sum(1 for _ in written) / len(made)
            if share > 0.02:  # before that the workers load their libraries
                halves[share > 0.5].append(memory(process.pid))
            open_files.append(len(os.listdir(f"/proc/{process.pid}/fd")))
            seen |= {(pid, birth) for pid in descendants(process.pid) if (birth := born(pid))}
        time.sleep(0.5)
    assert process.stdout is not None
    print(process.stdout.read())
    for _ in range(100):  # for the kernel to take away what was killed
        left = [pid for pid, birth in seen if born(pid) == birth]
        if not left:
            break
        time.sleep(0.1)
    facts = {"seconds": time.monotonic() - started, "status": process.returncode, "most_descriptors": max(open_files)}
    facts |= {"memory_first_half": max(halves[0]), "memory_second_half": max(halves[1])}
    facts |= {"processes_seen": len(seen), "processes_left": left}
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else [], facts


def failures(made: list[Made], verdicts: list[Row], facts: dict[str, Any]) -> list[str]:
    found = [] if facts["status"] == 0 else [f"exit status {facts['status']}"]
    if len(verdicts) != len(made):
        found.append(f"{len(verdicts)} verdicts for {len(made)} rows")
    for index, (m, v) in enumerate(zip(made, verdicts, strict=False)):
        if (v["score"] or 0.0) > 0.0 if m.score is None else v["score"] != m.score:
            found.append(f"row {index} ({m.what}): {v['score']} ({v['status']}), expected {m.score}: {json.dumps(m.row)[:200]}")
    first, second = facts["memory_first_half"], facts["memory_second_half"]
    if first and second > MAX_GROWTH * first:
        found.append(f"memory grew from {first >> 20} to {second >> 20} MiB")
    if facts["processes_left"]:
        found.append(f"processes left: {facts['processes_left']}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--hostile", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    made = make(args.rows, args.hostile, args.seed)
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "temporary"
        temporary.mkdir()
        kept = files(temporary)
        verdicts, facts = run(made, Path(folder), args.workers)
        left = files(temporary) - kept
    wrong = failures(made, verdicts, facts)
    wrong += [f"files left: {left}"] * bool(left)
    statuses = Counter(v["status"] for m, v in zip(made, verdicts, strict=False) if m.score is None)
    print(f"{len(verdicts):,} verdicts, {args.hostile:,} of them on hostile rows ({dict(statuses)}), {facts['seconds']:.0f} s")
    first, second = facts["memory_first_half"] >> 20, facts["memory_second_half"] >> 20
    print(
        f"memory at most {first} MiB in the first half, {second} in the second; {facts['most_descriptors']} descriptors at most"
    )
    print(f"{facts['processes_seen']} processes seen, {len(facts['processes_left'])} left")
    print("\n".join(wrong[:50]) or "nothing lost, wrong or left behind")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
