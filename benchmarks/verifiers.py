"""What the verifiers cost: ratios measured side by side on one core, the median of interleaved pairs.

    python benchmarks/verifiers.py [--pairs 5] [--write]      (make bench-verifiers)

maths    verifications a second, ours against math-verify alone (the whole response, as trainers call it, and its box only)
code     executions a second of a program on ten inputs, our sandbox against a cold `python -I` a test
overlap  what grading adds to a rollout when it runs beside generation: the same rollouts with and without a pool
"""

import argparse
import gzip
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from longthink.engines.embedded import EmbeddedEngine
from longthink.folder import ModelFolder, tiny_folder
from longthink.rewards.code import Code
from longthink.rewards.countdown import Countdown
from longthink.rewards.math import Math
from longthink.rewards.pool import RewardPool
from longthink.sandbox.client import Sandbox
from longthink.tasks.countdown import WORDS
from longthink.tasks.countdown import Countdown as CountdownTask
from longthink.types import Request, RolloutId, Sampling

HERE = Path(__file__).resolve().parent
MATH = HERE.parents[1] / "shared" / "data" / "math_eval" / "still_MATH_OAI.jsonl.gz"
GOLDS, GROUP, PROGRAMS, TESTS, ROLLOUTS = 100, 8, 10, 10, 256
THINKING = "Let me see. First, 3 + 4 = 7, so $x = 7$ or $x = \\frac{7}{2}$. But wait, is that so? " * 30
PROGRAM = "n = int(input())\nprint(sum(i * i for i in range(n)))\n"
TEMPLATE = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}<think>"

Measure = Callable[[], float]  # seconds


def golds() -> list[str]:
    """Answers of MATH where the file is at hand, else those of our labelled pairs."""
    if MATH.exists():
        rows = [json.loads(line) for line in gzip.decompress(MATH.read_bytes()).splitlines()]
        return [str(row["answer"]) for row in rows][:GOLDS]
    rows = [json.loads(line) for line in (HERE / "pairs.jsonl").read_text().splitlines()]
    return [str(row["gold"]) for row in rows if not row["class"].startswith("hack") and isinstance(row["gold"], str)][:GOLDS]


def maths() -> dict[str, Measure]:
    """A group of responses a gold: half have its answer, half that of another problem. Caches are empty before each pass."""
    from math_verify import parse, verify

    from longthink.maths import answers

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    draw, known = random.Random(0), golds()
    said = [(gold, gold if draw.random() < 0.5 else draw.choice(known)) for gold in known for _ in range(GROUP)]
    rows = [(gold, answer, f"<think>{THINKING}</think> The answer is $\\boxed{{{answer}}}$.") for gold, answer in said]

    def ours() -> float:
        for cached in (answers.key, answers.parsed):
            cached.cache_clear()
        reward, started = Math(), time.perf_counter()
        for gold, _, response in rows:
            reward.grade(response, gold)
        return time.perf_counter() - started

    def alone(of: Callable[[str, str], str]) -> float:
        started = time.perf_counter()
        for gold, answer, response in rows:
            verify(parse(f"\\boxed{{{gold}}}"), parse(of(answer, response)))
        return time.perf_counter() - started

    return {
        "ours": ours,
        "math-verify, whole response": lambda: alone(lambda answer, response: response),
        "math-verify, box only": lambda: alone(lambda answer, response: f"\\boxed{{{answer}}}"),
    }


def code() -> dict[str, Measure]:
    """A right program on ten inputs: graded by our verifier, run alone in our sandbox, and run by cold interpreters."""
    reward, sandbox = Code(), Sandbox()
    inputs = [str(n) for n in range(TESTS)]
    gold = {"inputs": inputs, "outputs": [str(sum(i * i for i in range(n))) for n in range(TESTS)]}
    assert reward.grade(f"```python\n{PROGRAM}```", gold).score == 1.0

    def graded() -> float:
        started = time.perf_counter()
        for _ in range(PROGRAMS):
            reward.grade(f"```python\n{PROGRAM}```", gold)
        return time.perf_counter() - started

    def each() -> float:
        started = time.perf_counter()
        for _ in range(PROGRAMS):
            for text in inputs:
                sandbox.run(PROGRAM, text, deadline_s=5.0)
        return time.perf_counter() - started

    def cold() -> float:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "program.py").write_text(PROGRAM)
            for _ in range(PROGRAMS):
                for text in inputs:
                    command = [sys.executable, "-I", f"{folder}/program.py"]
                    subprocess.run(command, input=text.encode(), capture_output=True, check=True)
        return time.perf_counter() - started

    level = sandbox.level
    return {f"ours ({level})": graded, f"a process a test ({level})": each, "cold interpreter a test": cold}


def overlap() -> dict[str, Measure]:
    """Generation by the embedded engine of a tiny model; the pool's one worker shares the core with it."""
    folder = Path(tempfile.mkdtemp()) / "tiny"
    tiny_folder(folder, WORDS, seed=0, template=TEMPLATE, hidden_size=64, num_hidden_layers=2, intermediate_size=128)
    model, task = ModelFolder(folder), CountdownTask()
    problems = [task.problem("train", i) for i in range(ROLLOUTS)]
    prompts = [model.tokenizer.prompt_ids(p) for p in problems]
    pool = RewardPool(Countdown(), 1)
    pool.submit("warm", "", problems[0].gold)
    pool.drain()

    def generate(graded: bool) -> float:
        engine = EmbeddedEngine(dtype=torch.float32, stop_ids=model.tokenizer.stop_ids, max_rows=64)
        engine.load(model.decoder(), 0)
        started = time.perf_counter()
        for i, (problem, ids) in enumerate(zip(problems, prompts, strict=True)):
            engine.submit(Request(RolloutId(i, 0), problem, ids, 96, Sampling(1.0), i))
        for rollout in engine.finished():
            if graded:
                pool.submit(rollout.id, model.tokenizer.decode(rollout.response_ids), rollout.problem.gold)
        if graded:
            pool.drain()
        return time.perf_counter() - started

    return {"generation": lambda: generate(False), "generation and grading": lambda: generate(True)}


def medians(sides: dict[str, Measure], pairs: int) -> dict[str, list[float]]:
    """Seconds of each side, its passes interleaved with the others'; a first pass of each warms up."""
    for measure in sides.values():
        measure()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(pairs):
        for name, measure in sides.items():
            found[name].append(measure())
    return found


def ratio(over: list[float], under: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def report(pairs: int) -> str:
    lines = ["| what | count | seconds | a second | ratio |", "|---|---|---|---|---|"]
    for what, sides, count in (("maths", maths(), len(golds()) * GROUP), ("code", code(), PROGRAMS * TESTS)):
        found = medians(sides, pairs)
        ours = next(iter(found.values()))
        for name, seconds in found.items():
            rate = count / statistics.median(seconds)
            versus = "" if seconds is ours else f"{ratio(seconds, ours):.1f}"
            lines.append(f"| {what}: {name} | {count} | {statistics.median(seconds):.3f} | {rate:,.0f} | {versus} |")
    found = medians(overlap(), pairs)
    bare, graded = found.values()
    added = statistics.median(b - a for a, b in zip(bare, graded, strict=True)) / ROLLOUTS * 1000
    for name, seconds in found.items():
        median = statistics.median(seconds)
        lines.append(f"| {name} | {ROLLOUTS} | {median:.3f} | {ROLLOUTS / median:,.0f} | |")
    lines.append(f"| grading adds to a rollout | | {added:.2f} ms | | {ratio(graded, bare):.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="into benchmarks/results/verifiers.md")
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    table = report(args.pairs)
    print(table)
    if args.write:
        how = (
            f"`make bench-verifiers`: one core, medians of {args.pairs} interleaved passes; ratio: that side's seconds over ours."
        )
        (HERE / "results" / "verifiers.md").write_text(f"{how}\n\n{table}\n")


if __name__ == "__main__":
    main()
