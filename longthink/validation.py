"""Validation while training: a blend of sets at one window each, and fresh samples against choosing by luck."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from longthink import checkpoint
from longthink.clusters.cluster import Cluster
from longthink.collect import Grading, Journal, rollout_rows
from longthink.data import prompt_ids
from longthink.engines.teacher import TeacherEngine, trace_calls
from longthink.errors import TaskError
from longthink.evaluate import Evaluation, evaluate
from longthink.folder import Tokenizer
from longthink.part import load_part
from longthink.progress import Clock, Progress
from longthink.recipe import Recipe
from longthink.rewards.base import Reward
from longthink.rewards.pool import Grader
from longthink.rng import derive_seed
from longthink.run import Run
from longthink.sft import has_trace
from longthink.tables import LossSettings, RolloutSettings, ValidationSet, ValidationSettings
from longthink.tasks.base import Task
from longthink.types import Batch, Group, Request, RolloutId, Sampling, Verdict

__all__ = ["Source", "Validator", "blend", "sources"]


class Source(NamedTuple):
    """Where the problems of a set come from and who grades them."""

    tasks: Mapping[str, Task]
    grading: Grading


def sources(recipe: Recipe, own: Source) -> dict[str, Source]:
    """Each set's problems and verifier, by its name: the run's own, unless the set names others."""
    found = {}
    for index, made in enumerate(recipe.validation.blend):
        if not made.task:
            found[made.name] = own
            continue
        where = f"validation.sets.{index}."
        task, reward = load_part(Task, made.task, f"{where}task"), load_part(Reward, made.reward, f"{where}reward")
        found[made.name] = Source({made.name: task}, Grading({made.name: reward}))
    return found


def blend(measured: Sequence[tuple[ValidationSet, Evaluation]]) -> dict[str, Any]:
    """The metrics of a validation: each named set's, each domain's, and the blend of the sets by their weights.

    accuracy = Σ w a / Σ w; half its interval is √Σ (w h)² / Σ w with h half of each set's, as for independent sets.
    """
    row: dict[str, Any] = {}
    names = {"accuracy": "accuracy", "low": "low", "high": "high", "mean_tokens": "mean_tokens", "truncated": "truncated_share"}
    sums, squares, total = dict.fromkeys(names.values(), 0.0), 0.0, 0.0
    for made, found in measured:
        summary = found.summary()
        values = {ours: float(summary[theirs]) for theirs, ours in names.items()}
        if made.name:
            row |= {f"validation/{made.name}/{key}": value for key, value in values.items()}
        row |= {f"validation/{domain}/accuracy": mean for domain, mean in found.by_domain().items() if domain != made.name}
        sums = {key: sum_ + made.weight * values[key] for key, sum_ in sums.items()}
        squares += (made.weight * (values["high"] - values["low"]) / 2) ** 2
        total += made.weight
    row |= {f"validation/{key}": value / total for key, value in sums.items()}
    if len(measured) > 1:
        mean, half = row["validation/accuracy"], math.sqrt(squares) / total
        row |= {"validation/low": max(0.0, mean - half), "validation/high": min(1.0, mean + half)}
    return row


class Validator:
    """Scores the policy of a training on its sets; the weights it leaves behind are those it found."""

    def __init__(
        self,
        run: Run,
        cluster: Cluster,
        pool: Grader,
        tokenizer: Tokenizer,
        own: Source,
        sets: Mapping[str, Source],
        limits: RolloutSettings,
        progress: Progress,
    ) -> None:
        self.run, self.cluster, self.pool, self.tokenizer = run, cluster, pool, tokenizer
        self.own, self.limits, self.progress = own, limits, progress
        self.sources = sets

    def evaluate(
        self,
        split: str,
        problems: int,
        samples: int,
        window: int,
        sampling: Sampling,
        *,
        source: Source | None = None,
        journal: Journal | None = None,
        calls: Path | None = None,
        seed: int | None = None,
    ) -> Evaluation:
        """Evaluate the current weights with this run's engine, task and verifier, or those of `source`."""
        tasks, grading = source or self.own
        with self.cluster.evaluation(calls):
            return evaluate(
                self.cluster,
                self.pool,
                tasks,
                grading,
                self.tokenizer,
                split=split,
                problems=problems,
                samples=samples,
                window=window,
                sampling=sampling,
                seed=self.run.recipe.seed if seed is None else seed,
                limits=self.limits,
                journal=journal or {},
                progress=self.progress.rollouts,
            )

    def validate(self, step: int, settings: ValidationSettings, window: int) -> dict[str, Any]:
        """The validation metrics of a step whose training window is `window`; its rollouts are journalled."""
        measured = []
        row: dict[str, Any] = {}
        with Clock(self.progress, "validation") as clock:
            if self.run.recipe.engine.kind == "teacher":
                row |= self.trace_loss(settings.problems, window)
            for made in settings.blend if settings.samples else ():
                use = f"validation.{made.name}" if made.name else "validation"
                found = self._score(made, settings, window, journal=self.run.journal(step, use), calls=self.run.calls(step, use))
                self.run.write_rollouts(step, rollout_rows(found.scored, step), use)
                measured.append((made, found))
            row |= blend(measured) if measured else {}
        if not measured:
            return row | {"time/validation_s": clock.seconds}
        taken = {"validation/window": settings.at(window), "validation/key": settings.key(window)}
        return row | taken | {"time/validation_s": clock.seconds}

    def trace_loss(self, problems: int, window: int) -> dict[str, float]:
        """`validation/loss`: minus the mean log-prob, in nats, of the learnt tokens of so many validation traces of each domain.

        Nothing where no validation problem has a trace: then responses are sampled (`refuse_untold`).
        """
        recipe, tasks = self.run.recipe, self.own.tasks
        teacher, untold = TeacherEngine(tasks, self.tokenizer, trace_calls(recipe)), 0
        for place, (domain, task) in enumerate(tasks.items()):
            for index in range(min(problems, task.size("validation") or problems)):
                problem = replace(task.problem("validation", index), domain=domain)
                ids = prompt_ids(self.tokenizer, problem, self.limits)
                told = has_trace(task, problem)
                untold += not told
                if told and ids is not None:
                    teacher.submit(Request(RolloutId(place, index), problem, ids, window, Sampling(), 0))
        groups = [Group(r.problem, (r,), (Verdict(0.0, "ok"),), (0.0,)) for r in teacher.finished()]
        if not groups and untold:
            return {}
        if not groups:
            raise TaskError("the validation split has no prompt that fits rollout.max_prompt_tokens")
        batch = Batch.of(groups)
        if not batch.loss_mask.any():
            raise TaskError(f"no validation trace has a token to learn within the window of {window}; raise rollout.window")
        found = self.cluster.logprobs(batch, LossSettings(kind="nll", old_logprobs="learner"), recipe.rollout.temperature)
        assert found.old_logprobs is not None
        return {"validation/loss": float(-found.old_logprobs[batch.loss_mask].mean(dtype=np.float64))}

    def _score(
        self,
        made: ValidationSet,
        settings: ValidationSettings,
        window: int,
        *,
        journal: Journal | None = None,
        calls: Path | None = None,
        seed: int | None = None,
    ) -> Evaluation:
        sampling = Sampling(settings.temperature)
        return self.evaluate(
            "validation",
            made.problems,
            made.samples,
            made.at(window),
            sampling,
            source=self.sources[made.name],
            journal=journal,
            calls=calls,
            seed=seed,
        )

    def choose(self, rows: Sequence[Mapping[str, Any]], settings: ValidationSettings, window: int) -> dict[str, Any]:
        """The best of some validated checkpoints, scored again with fresh samples at the window that comes next.

        `rows` are the validations they were chosen for, and each checkpoint is there, but for that of the run's last step, whose
        weights are the current ones. The best of several noisy scores is too high on average: where the fresh samples are taken
        as the first were, what the winner of `rows` loses is reported as `selection_bias`. Source: ours.
        """
        run, found = self.run, []
        held = run.folder / ".held"
        shutil.rmtree(held, ignore_errors=True)
        held.mkdir()
        self.cluster.save(held)
        seed = derive_seed(run.recipe.seed, "finalists", run.step)
        with self.cluster.evaluation():  # rollouts of training wait for their own weights
            for row in rows:
                step = int(row["step"])
                self.cluster.load(held if step == run.step else checkpoint.checkpoint_path(run.folder, step), optimizer=False)
                self.cluster.sync(run.policy_version)
                calls = {made.name: run.calls(run.step, f"finalist.{step}.{made.name}") for made in settings.blend}
                scores = [self._score(made, settings, window, calls=calls[made.name], seed=seed) for made in settings.blend]
                again = blend(list(zip(settings.blend, scores, strict=True)))
                fresh = {key: again[f"validation/{key}"] for key in ("accuracy", "low", "high")}
                found.append({"step": step, "chosen_by": float(row["validation/accuracy"]), **fresh})
            self.cluster.load(held, optimizer=True)
            self.cluster.sync(run.policy_version)
        shutil.rmtree(held)
        first, best = found[0], max(found, key=lambda f: (f["accuracy"], f["step"]))
        alike = rows[0].get("validation/key") == settings.key(window)
        bias = {"selection_bias": first["chosen_by"] - first["accuracy"]} if alike else {}
        return {"step": best["step"], **bias, "window": settings.at(window), "finalists": found}
