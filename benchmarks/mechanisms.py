"""What each mechanism costs: the training loop's own step with it, over the plain step, interleaved pair by pair.

Usage: python benchmarks/mechanisms.py [--pairs N] [--before COMMIT] [--only NAME ...]. Both steps sample the same rollouts (the
learning rate is next to nothing) in one process on one core. With --before the plain step is also held against that of an older
commit, each in a process of its own. Writes benchmarks/results/mechanisms.md.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from ours import Steps
from prepare import SETTINGS, make_model
from protocol import Side

from longthink.machine import keep_memory, resolve
from longthink.quickstart import RECIPES
from longthink.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "mechanisms.md"
PLAIN = (*SETTINGS, "learner.lr=1e-12", "rollout.window=128")
PARTS = 'shape=[{kind="accuracy"}, {kind="%s"%s}]'
MECHANISMS: dict[str, tuple[str, ...]] = {
    "ratio of whole responses": ('loss.ratio="sequence_mean"',),
    "dual clip": ("loss.dual_clip=3.0",),
    "KL in the loss": ("loss.kl=0.001",),
    "KL of whole responses": ("loss.kl=0.001", 'loss.kl_level="sequence_mean"'),
    "KL in the reward": ("loss.kl=0.001", 'loss.kl_in="reward"'),
    "annealed KL": ("loss.kl=0.001", 'loss.kl_schedule="cosine"', "loss.kl_horizon=500"),
    "entropy bonus": ("loss.entropy=0.001",),
    "adaptive entropy": ("loss.entropy_target=0.1", "loss.entropy_step=0.001"),
    "learner's old log-probs": ('loss.old_logprobs="learner"',),
    "sampler correction": ('loss.old_logprobs="learner"', 'loss.correction="truncate"'),
    "constant normaliser": ('loss.aggregation="constant"', "loss.normalizer=128"),
    "leave-one-out": ('advantage.baseline="leave_one_out"', 'advantage.std="none"'),
    "whitening": ("advantage.whiten=true",),
    "reference replaced": ("loss.kl=0.001", "reference.replace_every=1"),
    "window cycle": ('rollout.cycle={shape="cosine", low=127, high=128, period=2}',),
    "cosine reward": (PARTS % ("cosine", ""),),
    "length reward (RRL)": (PARTS % ("length", ""),),
    "action reward (RRA)": (PARTS % ("actions", ""),),
    "format reward": (PARTS % ("format", ""),),
    "overlong penalty": (PARTS % ("overlong", ", buffer=32"),),
    "Kimi length reward": (PARTS % ("kimi", ""),),
    "repetition penalty": (PARTS % ("repetition", ""),),
    "language reward": (PARTS % ("language", ""),),
    "ORM (exclude truncated)": ('rollout.truncated="exclude"',),
    "question selection (QS)": ('selection.questions="longer_right"',),
    "response selection (RS)": ('selection.responses="pair"',),
    "dynamic sampling, shrink": ('selection.dynamic="shrink"',),
    "dynamic sampling, refill": ('selection.dynamic="refill"', "selection.max_rounds=3"),
    "mixture of two domains": (),
}


def recipe(model: Path, sets: tuple[str, ...]) -> Recipe:
    """The shipped recipe of the quickstart's reinforcement learning with the bench's settings and these."""
    path = RECIPES / "countdown_grpo_cpu.toml"
    return resolve(load_recipe(path, [f"model.path={model}", "model.dtype=bfloat16", *PLAIN, *sets]))


def mixed(plain: Recipe) -> Recipe:
    """The plain recipe with its task twice, as two domains of half the weight."""
    from longthink.tables import DomainSettings

    halves = (("a", 0), ("b", 1))
    domains = tuple(DomainSettings(name=n, weight=0.5, task=plain.task | {"seed": s}, reward=plain.reward) for n, s in halves)
    return plain.model_copy(update={"task": {}, "reward": {}, "domain": domains})


def cost(model: Path, work: Path, name: str, pairs: int) -> dict[str, Any]:
    """Ratios of a mechanism's step to the plain one, by wall and by processor time."""
    plain = recipe(model, ())
    with_it = mixed(plain) if name == "mixture of two domains" else recipe(model, MECHANISMS[name])
    shutil.rmtree(work, ignore_errors=True)
    sides = [Steps(plain, work / "plain"), Steps(with_it, work / "with")]
    try:
        for side in sides:
            side()  # warm-up
        rows = [[side() for side in sides] for _ in range(pairs)]
    finally:
        for side in sides:
            side.training.__exit__()
    wall, cpu = ([row[1][key] / row[0][key] for row in rows] for key in ("seconds", "cpu_seconds"))
    more = statistics.median(row[1]["tokens"] / row[0]["tokens"] for row in rows)
    return {"wall": statistics.median(wall), "low": min(wall), "high": max(wall), "cpu": statistics.median(cpu), "tokens": more}


def against(before: str, model: Path, work: Path, pairs: int) -> str:
    """The plain step now over the plain step of an older commit: each in its own process, interleaved on one core."""
    old = work / "old"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "-f", "--detach", str(old), before], check=True, capture_output=True)
    try:
        sides = []
        for tree in (old, ROOT):
            folder = work / f"side-{tree.name}"
            code = (
                f"import runpy, sys; from pathlib import Path; sys.path[:0] = [{str(tree)!r}, {str(tree / 'benchmarks')!r}]; "
                f"from prepare import prepare; prepare(Path({str(model)!r}), Path({str(folder)!r})); "
                f"sys.argv = ['ours', {str(model)!r}, {str(folder)!r}, 'bfloat16']; "
                f"runpy.run_path({str(tree / 'benchmarks' / 'ours.py')!r}, run_name='__main__')"
            )
            sides.append(Side([sys.executable, "-c", code], work / f"{tree.name}.log", 0))
        for side in sides:
            side.ask("step")
        rows = [[side.ask("step") for side in sides] for _ in range(pairs)]
        for side in sides:
            side.close()
    finally:
        subprocess.run([*git, "remove", "--force", str(old)], check=True, capture_output=True)
    per_token = [[a["cpu_seconds"] / a["tokens"] for a in row] for row in rows]
    ratios = sorted(b / a for a, b in per_token)
    spread = f"{ratios[0]:.3f} to {ratios[-1]:.3f}, {pairs} interleaved pairs"
    return (
        f"With everything off, a step takes **{statistics.median(ratios):.3f}** of its CPU time a token at {before} ({spread})."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--before", default="")
    parser.add_argument("--only", nargs="*", default=list(MECHANISMS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = make_model(work / "model")
        note = against(args.before, model, work, args.pairs) if args.before else ""
        print(note, flush=True)
        os.sched_setaffinity(0, {0})
        rows = []
        for name in args.only:
            found = cost(model, work / "runs", name, args.pairs)
            spread = f"{found['low']:.2f} to {found['high']:.2f}"
            rows.append(f"| {name} | **{found['wall']:.2f}** ({spread}) | {found['cpu']:.2f} | {found['tokens']:.2f} |")
            print(rows[-1], flush=True)
    head = [
        f"A training step with a mechanism over the plain one: medians of {args.pairs} interleaved pairs on one core, bf16,",
        "16 prompts x 16 rollouts of at most 128 tokens, the tiny model of the quickstart (`make bench-mechanisms`). Tokens:",
        "sampled with it over sampled without; selection has its price there, and saves in the update. A KL or an entropy bonus",
        "trains on every rollout, and so does a reward that differs within every group, where the plain step skips groups of",
        "equal rewards: that is most of their price.",
        "",
        "| mechanism | step (lowest to highest) | by CPU time | tokens |",
        "|---|---|---|---|",
    ]
    OUT.write_text("\n".join([*([note, ""] if note else []), *head, *rows]) + "\n")


if __name__ == "__main__":
    main()
