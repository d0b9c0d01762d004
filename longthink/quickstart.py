"""The main job on Countdown, from nothing to a report: warm start, measure, lengthen while training, measure again.

`python -m longthink.quickstart main` runs it; `warm` makes the warm start alone; `control` spends the same CPU seconds on more
fine-tuning; `direct` trains at the last window for the same number of generated tokens.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longthink import storage
from longthink.checkpoint import Parent, checkpoint_path
from longthink.errors import LongthinkError, RecipeError
from longthink.evaluate import Evaluation
from longthink.folder import tiny_folder
from longthink.machine import resolve
from longthink.recipe import Recipe, load_recipe
from longthink.report import render_table, write_report
from longthink.start import curve_file, measured_curve
from longthink.stats import paired_difference
from longthink.tasks.countdown import WORDS, TraceQuality, trace_quality
from longthink.train import Training
from longthink.types import Sampling
from longthink.window import Recommendation, WindowCurve, next_windows, recommend

__all__ = ["main"]

TEMPLATE = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}<think>"
FULL_WINDOW = 256
PROBLEMS, SAMPLES = 256, 4
RECIPES = Path(__file__).resolve().parent.parent / "recipes"
GATE = TraceQuality(false_equations=0.3, verdict_precision=0.6, verdict_recall=0.6)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the three jobs; exit status 0, or 2 with one message."""
    parser = argparse.ArgumentParser(prog="quickstart", description=__doc__)
    parser.add_argument("job", choices=("main", "warm", "control", "direct"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the run folder")
    parser.add_argument("--set", action="append", default=[], metavar="sft.a.b=c|rl.a.b=c", help="override a recipe's key")
    args = parser.parse_args(argv)
    try:
        jobs = {"main": run_main, "warm": run_warm, "control": run_control, "direct": run_direct}
        jobs[args.job](args.out, args.seed, args.set)
    except LongthinkError as e:
        print(f"quickstart: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("quickstart: interrupted; begin again in another OUT, or remove this one", file=sys.stderr)
        return 130
    return 0


def run_main(out: Path, seed: int, sets: Sequence[str]) -> None:
    """The whole job; `out` is the run folder, with the tiny model and the warm start's run inside."""
    started = time.perf_counter()
    print(f"Countdown with three numbers, seed {seed}, into {out}", flush=True)
    with fine_tuning(out, seed, sets) as warm:
        warm_cpu = spend(warm)
        before = test(warm)
        curve, plan = window_plan(warm)
        warm_model = warm.run.last_checkpoint
    gate(before)
    print(f"window: {plan.reason}", flush=True)
    windows = next_windows(plan, FULL_WINDOW)
    recipe = recipe_of("rl", out, seed, [f"rl.model.path={warm_model}", *stage_overrides(windows), *sets])
    with Training(resolve(recipe), out, resume=False, parent=None) as training:
        rl_cpu = spend(training)
        load_best(training)
        after = test(training)
        generated = training.run.generated_tokens
    difference = paired_difference(after.scores, before.scores)
    summary = {
        "seed": seed,
        "seconds": time.perf_counter() - started,
        "generated_tokens": generated,
        "before": before.summary() | quality(before),
        "after": after.summary() | quality(after),
        "difference": difference._asdict(),
        "cpu_seconds": {"warm": warm_cpu, "rl": rl_cpu},
        "windows": windows,
    }
    storage.replace_file(out / "window_curve.json", json.dumps(curve_file(curve, plan), indent=2).encode())
    save_scores(out / "test_scores.json", before=before, after=after)
    finish(out, summary)


def run_warm(out: Path, seed: int, sets: Sequence[str]) -> None:
    """The warm start alone: its model is `out`/warm/checkpoints/step_000080."""
    with fine_tuning(out, seed, sets) as warm:
        spend(warm)
        gate(test(warm))


def run_control(out: Path, seed: int, sets: Sequence[str]) -> None:
    """More fine-tuning from the same warm start, for the CPU seconds the reinforcement learning took."""
    summary = read_summary(out)
    refuse_second(out / "control")
    rows = [json.loads(line) for line in (out / "warm" / "metrics.jsonl").read_text().splitlines()]
    per_step = summary["cpu_seconds"]["warm"] / rows[-1]["step"]
    steps = max(1, round(summary["cpu_seconds"]["rl"] / per_step))
    recipe = recipe_of(
        "sft", out, seed, [f"sft.budget.max_steps={steps}", "sft.learner.lr=2e-3", "sft.name=countdown_control", *sets]
    )
    updates = steps * recipe.rollout.prompts // recipe.learner.minibatch_prompts
    recipe = recipe.model_copy(update={"learner": recipe.learner.model_copy(update={"total_updates": updates})})
    parent = Parent(max((out / "warm" / "checkpoints").glob("step_*")), data=True)
    with Training(resolve(recipe), out / "control", resume=False, parent=parent) as training:
        cpu = spend(training)
        found = test(training)
    compare(out, summary, "control", found, {"cpu_seconds": cpu, "steps": steps})


def run_direct(out: Path, seed: int, sets: Sequence[str]) -> None:
    """Training at the last window from the start, with the tokens the staged run generated."""
    summary = read_summary(out)
    refuse_second(out / "direct")
    warm_model = max((out / "warm" / "checkpoints").glob("step_*"))
    budget = [f"rl.budget.max_generated_tokens={summary['generated_tokens']}", "rl.budget.max_steps=1000"]
    staged = [f"rl.stage=[{{rollout={{window={FULL_WINDOW}}}}}]", f"rl.rollout.window={FULL_WINDOW}", "rl.name=countdown_direct"]
    recipe = recipe_of("rl", out, seed, [f"rl.model.path={warm_model}", *staged, *budget, *sets])
    with Training(resolve(recipe), out / "direct", resume=False, parent=None) as training:
        spend(training)
        load_best(training)
        found = test(training)
        generated = training.run.generated_tokens
    compare(out, summary, "direct", found, {"generated_tokens": generated})


def fine_tuning(out: Path, seed: int, sets: Sequence[str]) -> Training:
    """The training of a new tiny model on the task's own traces. Raises: RecipeError where one was begun."""
    if any((out / folder / "recipe.toml").exists() for folder in (".", "warm")):
        raise RecipeError(f"{out}: a quickstart was begun there; choose another OUT, or remove it")
    tiny_folder(out / "model", WORDS, seed=seed, template=TEMPLATE)
    return Training(resolve(recipe_of("sft", out, seed, sets)), out / "warm", resume=False, parent=None)


# -- the pieces ---------------------------------------------------------------------------------------------------


def recipe_of(which: str, out: Path, seed: int, sets: Sequence[str]) -> Recipe:
    """The shipped recipe `sft` or `rl` with this run's paths and seeds; `sets` address either as sft.a.b or rl.a.b."""
    name = {"sft": "countdown_sft_cpu", "rl": "countdown_grpo_cpu"}[which]
    mine = [text.removeprefix(f"{which}.") for text in sets if text.startswith(f"{which}.")]
    return load_recipe(RECIPES / f"{name}.toml", [f"model.path={out}/model", f"seed={seed}", f"task.seed={seed}", *mine])


def refuse_second(folder: Path) -> None:
    if (folder / "recipe.toml").exists():
        raise RecipeError(f"{folder}: this job was begun there before; remove the folder to run it again")


def spend(training: Training) -> float:
    """Run a training to its end; the CPU seconds of all its processes. Raises: KeyboardInterrupt when it was stopped."""
    begun = training.cluster.cpu_seconds()
    training.loop()
    if not training.run.complete:
        raise KeyboardInterrupt
    return training.cluster.cpu_seconds() - begun


def test(training: Training) -> Evaluation:
    """The test split at the last window's cap, temperature 1, the same problems and draws every time."""
    training.progress.phase("test")
    return training.evaluate("test", PROBLEMS, SAMPLES, FULL_WINDOW, Sampling(1.0))


def gate(before: Evaluation) -> None:
    """Refuse to reinforce a warm start that cannot calculate or cannot tell a hit: nothing would take off."""
    found = trace_quality(r.text for row in before.samples for r, _ in row)
    if (
        found.false_equations > GATE.false_equations
        or found.verdict_precision < GATE.verdict_precision
        or found.verdict_recall < GATE.verdict_recall
    ):
        raise LongthinkError(
            f"the warm start is too weak for reinforcement learning: {found}; expected at most {GATE.false_equations} false "
            f"equations and verdicts above {GATE.verdict_precision}. Fine-tune longer (sft.budget.max_steps) or try another SEED"
        )


def quality(found: Evaluation) -> dict[str, float]:
    """The thinking's quality, for the summary."""
    return trace_quality(r.text for row in found.samples for r, _ in row)._asdict()


def window_plan(training: Training) -> tuple[WindowCurve, Recommendation]:
    """Accuracy against window from one long sampling of the validation split, and the first window it recommends."""
    found = training.evaluate("validation", 192, 4, FULL_WINDOW, Sampling(1.0))
    curve = measured_curve(found, 24)
    return curve, recommend(curve, FULL_WINDOW)


def stage_overrides(windows: Sequence[int]) -> list[str]:
    """The recipe's stages with these windows: all but the last end by its first stage's trigger."""
    first = load_recipe(RECIPES / "countdown_grpo_cpu.toml").stage[0]
    until = ", ".join(f"{k} = {json.dumps(v)}" for k, v in (first.until or {}).items())
    stages = [f"{{ rollout = {{ window = {w} }}, max_steps = {first.max_steps}, until = {{ {until} }} }}" for w in windows[:-1]]
    return [
        f"rl.rollout.window={windows[0]}",
        f"rl.stage=[{', '.join([*stages, f'{{ rollout = {{ window = {windows[-1]} }} }}'])}]",
    ]


def load_best(training: Training) -> None:
    """Take the best-validated checkpoint of the last stage."""
    best = training.run.best(training.run.rows[-1]["stage"])
    if best is not None and best["step"] != training.run.step:
        training.cluster.load(checkpoint_path(training.run.folder, best["step"]), optimizer=False)
        training.cluster.sync(training.run.policy_version + 1)


def save_scores(path: Path, **found: Evaluation) -> None:
    storage.replace_file(path, json.dumps({name: e.scores for name, e in found.items()}).encode())


def read_summary(out: Path) -> dict[str, Any]:
    path = out / "summary.json"
    if not path.is_file():
        raise RecipeError(f"{out}: no summary.json; run the main job first (make quickstart OUT={out})")
    return dict(json.loads(path.read_text()))


def compare(out: Path, summary: dict[str, Any], name: str, found: Evaluation, facts: dict[str, Any]) -> None:
    """Put another job's result beside the main job's, with after minus it, paired by problem."""
    after = json.loads((out / "test_scores.json").read_text())["after"]
    summary[name] = found.summary() | quality(found) | facts
    summary[f"after_minus_{name}"] = paired_difference(after, found.scores)._asdict()
    finish(out, summary)


def finish(out: Path, summary: dict[str, Any]) -> None:
    storage.replace_file(out / "summary.json", json.dumps(summary, indent=2).encode())
    page = write_report(out)
    print(render_table(summary))
    print(f"{summary['seconds']:.0f} s, {summary['generated_tokens']:,} tokens generated in training; report: {page}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
