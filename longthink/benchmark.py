"""`longthink eval`: a model folder on data files, with an interval for every score."""

import argparse
import json
from pathlib import Path
from typing import Any

from longthink import storage
from longthink.clusters.local import LocalCluster
from longthink.collect import Grading
from longthink.data import prompt_ids
from longthink.errors import RecipeError
from longthink.evaluate import Evaluation, evaluate
from longthink.folder import ModelFolder
from longthink.machine import resolve
from longthink.part import load_part
from longthink.progress import Progress
from longthink.recipe import Recipe, parse_recipe
from longthink.rewards.base import Reward
from longthink.rewards.pool import RewardPool
from longthink.tables import RolloutSettings
from longthink.tasks.base import Task
from longthink.types import Sampling

__all__ = ["run_benchmarks"]


def run_benchmarks(args: argparse.Namespace) -> int:
    """Evaluate `args.model` on every file and print one line each. Raises: LongthinkError before generating anything."""
    from longthink.recipe import override

    tasks = {path: _task(path, args.suffix) for path in args.on}
    stems = [Path(path).name.split(".")[0] for path in tasks]
    if args.out and len(set(stems)) < len(stems):
        raise RecipeError(f"eval: two files would write the same result ({', '.join(stems)}); evaluate them into two folders")
    table: dict[str, Any] = {
        "name": "eval",
        "model": {"path": args.model},
        "task": {"kind": "file"},
        "reward": {"kind": args.reward},
    }
    table |= {"rollout": {"window": args.window, "max_prompt_tokens": 1 << 20}}
    for text in args.set:
        override(table, text)
    recipe = resolve(parse_recipe(table, "eval"))
    model = ModelFolder(recipe.model.path)
    for path, task in tasks.items():
        _refuse_long(path, task, model, recipe, args.problems)
    if args.temperature < 0 or not 0 < args.top_p <= 1 or args.samples < 1:
        raise RecipeError("eval: expected --temperature >= 0, 0 < --top-p <= 1 and -n >= 1")
    cluster = LocalCluster(recipe)
    try:
        reward = load_part(Reward, recipe.reward)
        with RewardPool(reward, recipe.workers) as pool, Progress("eval", len(tasks)) as progress:
            for path, task in tasks.items():
                progress.phase(Path(path).name)
                found = evaluate(
                    cluster,
                    pool,
                    {"": task},
                    Grading({"": reward}),
                    model.tokenizer,
                    split="test",
                    problems=args.problems,
                    samples=args.samples,
                    window=recipe.rollout.window,
                    sampling=Sampling(args.temperature, args.top_p),
                    seed=args.seed,
                    limits=recipe.rollout,
                    journal={},
                    progress=progress.rollouts,
                )
                progress.note(_line(path, found))
                if args.out:
                    _write(args.out, path, found, args)
    finally:
        cluster.close()
    return 0


def _task(path: str, suffix: str) -> Task:
    task = load_part(Task, {"kind": "file", "test": path, "prompt_suffix": suffix})
    task.size("test")
    return task


def _refuse_long(path: str, task: Task, model: ModelFolder, recipe: Recipe, problems: int) -> None:
    """Refuse a prompt that leaves no room for the window."""
    room = model.config.max_positions - recipe.rollout.window
    limits = RolloutSettings(max_prompt_tokens=1 << 20)
    for index in range(min(problems, task.size("test") or 0)):
        problem = task.problem("test", index)
        ids = prompt_ids(model.tokenizer, problem, limits)
        if ids is not None and len(ids) > room:
            raise RecipeError(
                f"{path}: the prompt of {problem.id} has {len(ids)} tokens and --window is {recipe.rollout.window}, "
                f"together more than the model's {model.config.max_positions} positions; give a smaller --window"
            )


def _line(path: str, found: Evaluation) -> str:
    s = found.summary()
    n, ungraded = s["samples"], f", {s['ungraded']} not graded" if s["ungraded"] else ""
    return (
        f"{Path(path).name}: avg@{n} {s['accuracy']:.3f} [{s['low']:.3f}, {s['high']:.3f}], pass@{n} {s['pass_at_n']:.3f} over "
        f"{s['problems']} problems, {s['mean_tokens']:.0f} tokens, {s['truncated']:.1%} truncated{ungraded}"
    )


def _write(folder: Path, path: str, found: Evaluation, args: argparse.Namespace) -> None:
    """eval.json with the summary and the protocol, samples.jsonl with every response."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = Path(path).name.split(".")[0]
    protocol = {k: getattr(args, k) for k in ("model", "samples", "window", "temperature", "top_p", "suffix", "reward", "seed")}
    storage.replace_file(
        folder / f"{stem}.eval.json", json.dumps({"file": path, **found.summary(), "protocol": protocol}, indent=2).encode()
    )
    rows = [
        {"problem": r.problem.id, "sample": r.id.sample, "text": r.text, "tokens": r.num_tokens, "finish_reason": r.finish_reason}
        | {"score": v.score, "status": v.status, "extracted": v.extracted}
        for r, v in found.scored
    ]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    storage.replace_file(folder / f"{stem}.samples.jsonl", data.encode("utf-8", "surrogatepass"))
