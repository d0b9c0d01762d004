"""What the interpreter costs a rollout: sampling with calls over sampling as many rollouts without, side by side.

Usage: python benchmarks/tools.py [--pairs N] [--model FOLDER]. The model is one that calls the tool several times in a response;
by default the fine-tuned one of the tool's study (make study NAME=tool_mini), seed 0. Each pair samples the same problems with
calls run and not run, in turn, on all cores. Writes benchmarks/results/tools.md.
"""

import argparse
import statistics
import time
from pathlib import Path

from study import machine

from longthink.clusters.cluster import Cluster
from longthink.machine import resolve
from longthink.recipe import Recipe, load_recipe
from longthink.tasks.countdown import Countdown
from longthink.types import Request, Rollout, RolloutId, Sampling

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "tools.md"
MODEL = Path("runs/tool_mini/run/seed_0/checkpoints/step_000064")
GROUPS, SAMPLES = 16, 16


def sample(cluster: Cluster, recipe: Recipe, pair: int) -> tuple[list[Rollout], float]:
    """The rollouts of a step, and the seconds they took."""
    task = Countdown(**{k: v for k, v in recipe.task.items() if k != "kind"})
    began = time.perf_counter()
    for group in range(GROUPS):
        problem = task.problem("train", 1000 * pair + group)
        ids = cluster.tokenizer.prompt_ids(problem)
        for k in range(SAMPLES):
            id = RolloutId(1000 * pair + group, k)
            cluster.submit(Request(id, problem, ids, recipe.rollout.window, Sampling(), hash(id) % (1 << 40)))
    found = list(cluster.finished())
    return found, time.perf_counter() - began


def drawn(rollouts: list[Rollout]) -> int:
    """Tokens that the policy drew."""
    return sum(len(s.token_ids) for r in rollouts for s in r.segments if s.source == "policy")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--model", type=Path, default=MODEL)
    args = parser.parse_args()
    recipe = resolve(load_recipe(ROOT / "recipes" / "tool_mini.toml", [f"model.path={args.model}"], "run_rl", ""))
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": str(args.model)})})
    cluster = Cluster(recipe)
    tool = cluster.calls
    rows = []
    try:
        for pair in range(args.pairs + 1):  # the first warms up
            cells = {}
            for name in ("with", "without") if pair % 2 else ("without", "with"):
                cluster.calls = tool if name == "with" else None
                cells[name] = sample(cluster, recipe, pair)
            rows.append(cells)
    finally:
        cluster.calls = tool
        cluster.close()
    rows = rows[1:]
    rates = {n: [drawn(c[n][0]) / c[n][1] for c in rows] for n in ("with", "without")}
    ratios = sorted(w / o for w, o in zip(rates["with"], rates["without"], strict=True))
    calls = [sum(len(r.calls) for r in c["with"][0]) for c in rows]
    seconds = [c["with"][1] for c in rows]
    facts = machine()
    told = statistics.median(n / (GROUPS * SAMPLES) for n in calls)
    where = f"{facts['cores']} cores of an {facts['cpu']}, {recipe.model.dtype}"
    text = f"""Sampling with the interpreter over sampling without it: medians of {len(rows)} interleaved pairs on
{where}, {GROUPS} prompts x {SAMPLES} rollouts of at most
{recipe.rollout.window} tokens, the fine-tuned model of `recipes/tool_mini.toml` (`python benchmarks/tools.py`).

| | with | without |
|---|---|---|
| tokens the policy draws a second | {statistics.median(rates["with"]):,.0f} | {statistics.median(rates["without"]):,.0f} |
| ratio (lowest to highest) | **{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f}) | 1 |
| calls of a rollout | {told:.1f} | 0 |
| calls a second | {statistics.median(n / s for n, s in zip(calls, seconds, strict=True)):,.0f} | |
"""
    OUT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
