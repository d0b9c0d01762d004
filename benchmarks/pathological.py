"""Answers made to hang or to exhaust a maths verifier, each through the pool: what each costs, and that the pool survives.

    python benchmarks/pathological.py [--deadline 5] [--write]      (part of make bench-verifiers)

Checks: a verdict for each and none right; afterwards as many workers as before, and they grade. Exit status 1 otherwise.
"""

import argparse
import sys
import time
from pathlib import Path

from longthink.rewards.base import Reward
from longthink.rewards.math import Math
from longthink.rewards.pool import RewardPool
from longthink.rewards.short_answer import ShortAnswer
from longthink.types import Verdict

HERE = Path(__file__).resolve().parent
WORKERS = 2
ANSWERS = {
    "a tower": "9^{9^{9^{9}}}",
    "a tower without braces": "9^9^9^9",
    "a tower in Python": "9**9**9**9",
    "a tower of two": "10^{10^{10}}",
    "a tower in parentheses": "(9^9)^(9^9)",
    "a power of a power of a sum": "((x+1)^{99})^{99}",
    "a large power": "2^{1073741824}",
    "a negative power": "7^{-99999999}",
    "a power of pi": r"\pi^{99999}",
    "an exponent": "1E+1000000000",
    "a small exponent": "1e-1000000000",
    "an exponent with blanks": "1 E 999999999",
    "a factorial": "99999999!",
    "a factorial of a factorial": "((9!)!)!",
    "a binomial": r"\binom{999999999}{499999999}",
    "a sum of powers": "(x+y+z+w)^{200}",
    "a product of sums": "(x+1)" * 90,
    "a root of a root": r"\sqrt{" * 40 + "2" + "}" * 40,
    "a continued fraction": r"\frac{1}{1+" * 45 + "x" + "}" * 45,
    "nested parentheses": "(" * 5_000 + "1" + ")" * 5_000,
    "nested braces": "{" * 5_000 + "1" + "}" * 5_000,
    "nested to the limit": "(" * 49 + "x" + ")" * 49,
    "open parentheses": "(" * 900,
    "a megabyte of digits": "7" * 1_000_000,
    "a thousand digits": "7" * 999,
    "a megabyte of letters": "x" * 1_000_000,
    "a long sum": "+".join(f"x_{{{i}}}" for i in range(150)),
    "a long list": ",".join(map(str, range(300))),
    "a list of powers": ",".join(f"2^{{{i}}}" for i in range(120)),
    "a list of roots": ",".join(rf"\sqrt{{{i}}}" for i in range(90)),
    "a large matrix": r"\begin{pmatrix}" + r"\\".join(" & ".join("x" * 15) for _ in range(15)) + r"\end{pmatrix}",
    "an integral": r"\int_0^{10} e^{-x^{x^{x}}} dx",
    "an integral of powers": r"\int_0^{1} x^{x^{x}} \sin(x)^{99} dx",
    "a sum without end": r"\sum_{n=1}^{\infty} \frac{\sin(n)^{n}}{n^{n}}",
    "a sum to a billion": r"\sum_{n=1}^{1000000000} \frac{1}{n^{2}}",
    "a product to a billion": r"\prod_{n=1}^{1000000000} n",
    "a limit": r"\lim_{x \to 0} \frac{\sin(x^{x^{x}})}{x^{99}}",
    "a logarithm of a tower": r"\log(\log(9^{9^{9}}))",
    "a sine of a large number": r"\sin(10^{9999})",
    "an equation of high degree": "x^{99} + x^{98} + 1 = 0",
    "an inequality": "x^{9} - x^{7} + x^{5} > 3",
    "many inequalities": r" \cup ".join(f"({i}, {i + 1})" for i in range(70)),
    "many signs": "-" * 900 + "1",
    "many plus-minus": r"\pm 1 " * 60,
    "commas": "," * 900,
    "units": r"5 \text{ cm} " * 60,
    "blanks": " " * 100_000 + "1",
    "zeros": "\x00" * 500,
    "half a pair": "\ud800",
    "a right-to-left mark": "\u202e5",
    "full-width digits": "\uff11" * 400,
    "commands": r"\frac" * 190,
    "a text of commands": r"\text{" * 150 + "}" * 150,
}
GOLDS = ("42", r"x^2+\frac{\pi}{3}", r"(-\infty, 3]")
Made = dict[str, Reward]


def rewards(deadline_s: float) -> Made:
    found: Made = {grader: Math(grader=grader, deadline_s=deadline_s) for grader in ("ours", "deepscaler", "math_verify")}  # type: ignore[arg-type]
    return found | {"short_answer": ShortAnswer(deadline_s=deadline_s)}


def peak(pool: RewardPool) -> int:
    """The most memory any worker has held so far, in MiB."""
    held = []
    for worker in pool._workers:
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        held.append(int(status.partition("VmHWM:")[2].split()[0]) >> 10 if "VmHWM:" in status else 0)
    return max(held)


def run(deadline_s: float) -> tuple[list[str], int]:
    """Rows of the table of the slowest, and the number of failures."""
    found: list[tuple[float, str, str, Verdict]] = []
    wrong, most = 0, 0
    with RewardPool(Math(deadline_s=deadline_s), WORKERS) as pool:
        for name, reward in rewards(deadline_s).items():
            pool.submit("warm", r"\boxed{x+1}", "1+x", reward)
            pool.take("warm")
            for what, answer in ANSWERS.items():
                for gold in GOLDS:
                    started = time.monotonic()
                    pool.submit("answer", rf"</think> \boxed{{{answer}}}", gold, reward)
                    verdict = pool.take("answer")
                    found.append((time.monotonic() - started, name, what, verdict))
                    most = max(most, peak(pool))
                    if (verdict.score or 0.0) > 0.0:
                        wrong += 1
                        print(f"accepted by {name}: {what} for {gold}")
        alive = sum(worker.process.poll() is None for worker in pool._workers)
        for key in range(2 * WORKERS):
            pool.submit(key, r"\boxed{1/2}", "0.5")
        wrong += alive != WORKERS or any(v.score != 1.0 for v in pool.drain().values())
        restarts = dict(pool.restarts)
    found.sort(key=lambda row: -row[0])
    lines = ["| slowest | verifier | seconds | status | score |", "|---|---|---|---|---|"]
    lines += [f"| {what} | {name} | {s:.2f} | {v.status} | {v.score} |" for s, name, what, v in found[:12]]
    late = sum(s > deadline_s + 1.0 for s, *_ in found)
    lines.append(f"\n{len(found)} verdicts under a deadline of {deadline_s:g} s, {late} of them more than a second past it;")
    lines.append(f"{restarts or 'no'} workers replaced; {most} MiB at most in a worker; {wrong} failures")
    return lines, wrong


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--deadline", type=float, default=5.0)
    parser.add_argument("--write", action="store_true", help="into benchmarks/results/pathological.md")
    args = parser.parse_args()
    lines, wrong = run(args.deadline)
    print("\n".join(lines))
    if args.write:
        (HERE / "results" / "pathological.md").write_text("\n".join(["`make bench-verifiers`", "", *lines, ""]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
