"""The loop. A step is `train_step`; everything else here is what happens between steps."""

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from longthink import checkpoint, storage
from longthink.advantage import advantages
from longthink.checkpoint import Parent
from longthink.clusters.cluster import Cluster
from longthink.collect import Collector, Grading, rollout_rows
from longthink.data import DataSource, load_domains
from longthink.errors import EngineError, LearnerError, RecipeError, WorkerLost
from longthink.evaluate import Evaluation
from longthink.fit import prompt_limits, refuse_misfit
from longthink.folder import ModelFolder
from longthink.machine import resolve
from longthink.metrics import aliased
from longthink.part import load_part
from longthink.pools import Pools
from longthink.probe import probe
from longthink.progress import Clock, Progress
from longthink.recipe import Recipe
from longthink.reward_client import open_pool
from longthink.rewards.base import Reward
from longthink.run import Run
from longthink.settings import Settings, fold
from longthink.sft import by_epochs, refuse_untold
from longthink.shape import Parts, pin_files
from longthink.stages import Triggers, changes_nothing, decision
from longthink.start import SAMPLES, begin_where
from longthink.summarize import staleness, summarize
from longthink.telling import action_in_words, evidence_in_words
from longthink.tensorboard import TensorBoard
from longthink.trial import tried_files
from longthink.types import Batch, Sampling
from longthink.validation import Source, Validator, sources

__all__ = ["Training", "train"]


NOTHING_LEARNT = ("group/constant_share", "select/discarded_share")  # shares that are 1 where a step taught nothing


def train(recipe: Recipe, folder: Path, *, resume: bool = False, parent: Parent | None = None) -> Run:
    """Run a recipe to the end of its budget, or until Ctrl-C; the run's files are in `folder`.

    Raises: a LongthinkError before any work where possible; what was written stays usable.
    """
    recipe = recipe if resume else by_epochs(pin_files(resolve(recipe)))
    lost: list[WorkerLost] = []  # since the newest checkpoint
    saved = -1
    while True:
        again = resume or (bool(lost) and (folder / "recipe.toml").exists())
        try:
            with Training(recipe, folder, resume=again, parent=parent) as training:
                try:
                    training.loop()
                except WorkerLost as why:
                    print(f"{why}; the other processes are ended", flush=True)  # which may take a while on a broken network
                    if training.progress.stop_requested:
                        raise EngineError(f"{why} while the run was stopping; go on with --resume") from None
                    raise
                return training.run
        except WorkerLost as why:
            newest = max(checkpoint.steps(folder), default=-1)
            lost, saved = [*(lost if newest == saved else []), why], newest
            if len(lost) > recipe.cluster.restarts:
                raise EngineError(f"{why}; {len(lost)} such losses since the last checkpoint. Go on with --resume") from None
            print(f"{why}; all processes are started again, and the run goes on from step {max(newest, 0)}", flush=True)


class Training:
    """The holders of a run, opened together: cluster (learner and engines), data source, verifier pool, run folder."""

    def __init__(self, recipe: Recipe, folder: Path, *, resume: bool, parent: Parent | None) -> None:
        self.recipe, self._saved, self._stack = recipe, -1, ExitStack()
        model = ModelFolder(recipe.model.path)
        self.config = model.config
        refuse_misfit(recipe, model.config)
        if recipe.lora and parent is not None:
            raise RecipeError(f"[lora] trains updates of model.path; to go on from weights set model.path = '{parent.folder}'")
        self.tasks, rewards = load_domains(recipe)
        self.grading = Grading(rewards)
        parts = {name: part for r in recipe.staged for name, part in Parts(r.shape).verifiers.items()}
        self.second = load_part(Reward, recipe.probe.reward, "probe.reward") if recipe.probe.every else None
        self.triggers = Triggers(recipe)
        self.tokenizer, self.side_files = model.tokenizer, model.side_files()
        self.limits = prompt_limits(recipe, model.config)
        pools = Pools(recipe.pools, recipe.seed) if recipe.pools else None
        weighted = {d.name: (self.tasks[d.name], d.weight) for d in recipe.domains}
        self.data = DataSource(weighted, self.tokenizer, self.limits, pools)
        own = Source(self.tasks, self.grading)
        sets = sources(recipe, own)
        if any(r.validation.every for r in recipe.staged) or recipe.window == "auto":
            for source in sets.values():
                for task in source.tasks.values():
                    task.size("validation")
        tried_files(self.tasks, rewards, parts, sets)
        refuse_untold(recipe, self.tasks)
        if resume:
            self.run = Run.open(folder, recipe)
        else:
            Run.refuse_existing(folder)
        self.progress = Progress(recipe.name, recipe.budget.max_steps, every=max(1, recipe.budget.max_steps // 50))
        try:
            self.cluster = Cluster(recipe, self.progress.note)
            self._stack.callback(self.cluster.close)
            self.pool = self._stack.enter_context(open_pool(recipe, next(iter(rewards.values())), self.progress.note))
            if not resume:
                self.run = Run.create(folder, recipe, parent.lineage() if parent else {})
            self.collector = Collector(self.cluster, self.data, self.pool, recipe.seed)
            self.validator = Validator(self.run, self.cluster, self.pool, self.tokenizer, own, sets, self.limits, self.progress)
            self._restore(resume, parent)
            self.board = TensorBoard(folder, self.run.step) if recipe.tensorboard else None
            if self.board is not None:
                self._stack.callback(self.board.close)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "Training":
        self._stack.enter_context(self.progress)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _restore(self, resume: bool, parent: Parent | None) -> None:
        """Fill the holders from the newest checkpoint, from a parent, or leave them fresh."""
        found = self.run.rewind() if resume else None
        for why in self.run.refused:
            self.progress.note(f"not used: {why}")
        line = self.run.lineage()
        if resume and line:
            parent = Parent(Path(line["parent"]), optimizer=line["with_optimizer"], data=line["with_data"])
        if found is not None:
            self._saved = self.run.step
            self.data.load(found, self.run.step)
            self.cluster.load(found, optimizer=True)
            self.cluster.sync(self.run.policy_version)
            return
        if parent is not None:
            self.cluster.load(parent.folder, optimizer=parent.optimizer)
            if parent.data:
                self.data.load(parent.folder, 0)
        if not self.cluster.has_reference():  # a parent's optimizer comes with its reference
            self._replace_reference(hard=False)
        self.cluster.sync(0)
        self.run.step = -1

    # -- the loop -----------------------------------------------------------------------------------------------

    def loop(self) -> None:
        """Step after step until the budget ends."""
        if self.run.step < 0:
            self._begin()
        while not self.run.complete and not self.progress.stop_requested:
            step, started = self.run.step + 1, time.perf_counter()
            settings = fold(self.recipe, self.run.events, self.run.rows)
            row = self._labels(step, settings) | self.train_step(step, settings)
            every = settings.recipe.validation.every
            if every and step % every == 0:
                row |= self.validator.validate(step, settings.recipe.validation, settings.rollout.window)
            row["time/step_s"] = time.perf_counter() - started
            self._finish_step(step, settings, row)
        if self._saved != self.run.step:  # a stop was asked for after the step had been finished
            self._checkpoint(self.run.step)
        if self.run.complete:
            self._choose_last()
        self._prune()  # again, for a run that was killed between its last checkpoint and this

    def train_step(self, step: int, settings: Settings) -> dict[str, Any]:
        """One step: collect groups, give every token an advantage, update the weights."""
        run, now, loss = self.run, settings.recipe, settings.loss
        self.cluster.write_calls(run.calls(step))
        with Clock(self.progress, "rollouts") as sampled:
            last = min(step + settings.rollout.staleness, self.recipe.budget.max_steps)
            for ahead in range(step, max(step, last) + 1):
                self._admit(ahead, settings if ahead == step else fold(self.recipe, run.events, run.rows, ahead - step))
            self.cluster.hand_out()
            asked, scored, groups, chosen, selected = self.collector.collect(step, self.progress.rollouts)
            probed: dict[str, float] = {}
            if self.second is not None and step % self.recipe.probe.every == 0:
                share, journal = self.recipe.probe.share, run.journal(step)
                scored, probed = probe(self.pool, scored, self.second, share, seed=self.recipe.seed, step=step, journal=journal)
            run.write_rollouts(step, rollout_rows(scored, step, chosen))
        with Clock(self.progress, "update") as updated:
            row = (
                {"window": asked.window}
                | summarize(scored, groups, run.generated_tokens, asked.graded_tokens, graded=self.recipe.graded)
                | (staleness(scored, run.policy_version, self.collector) if asked.staleness else {})
                | self.data.metrics()
                | selected
                | probed
            )
            if chosen:
                batch = Batch.of(chosen)
                batch = self.cluster.logprobs(batch, loss, asked.temperature, now.learner)
                kl = row["loss/kl/coefficient"] = self.cluster.kl_weight(loss)
                batch = advantages(batch, now.advantage, loss, kl)
                row |= self.cluster.update(batch, loss, asked.temperature, now.learner).means()
                row["policy/entropy/coefficient"] = loss.entropy
            run.policy_version += 1
            self.cluster.sync(run.policy_version)
            if now.cluster.samplers:
                row |= {"sync/gap": self.cluster.gap, "sync/resyncs": self.cluster.resyncs}
        return row | {"time/rollout_s": sampled.seconds, "time/update_s": updated.seconds}

    def _admit(self, step: int, settings: Settings) -> None:
        """Ask for the rollouts of a step, unless that was done."""
        now = settings.recipe
        room = min(self.limits.max_prompt_tokens, prompt_limits(now, self.config).max_prompt_tokens)
        self.data.begin(step, {d.name: d.weight for d in now.domains}, room)
        grading, journal = replace(self.grading, parts=Parts(now.shape)), self.run.journal(step)
        self.collector.admit(step, settings.rollout, grading=grading, selection=now.selection, journal=journal)

    def _begin(self) -> None:
        """Validate the untouched model and write the checkpoint every later one descends from."""
        if self.recipe.window == "auto":
            self._choose_first()
        settings = fold(self.recipe, self.run.events)
        row = self._labels(0, settings) | {"tokens/generated": 0}
        if settings.recipe.validation.every:
            row |= self.validator.validate(0, settings.recipe.validation, settings.rollout.window)
        self.run.step = 0
        self.run.append_row(row)
        self._checkpoint(0)

    def _labels(self, step: int, settings: Settings) -> dict[str, Any]:
        return {
            "step": step,
            "policy_version": self.run.policy_version,
            "stage": settings.stage,
            "window": settings.rollout.window,
        }

    def _finish_step(self, step: int, settings: Settings, row: dict[str, Any]) -> None:
        """Write the row, decide, act, and save what is due: in this order, so that a resumed run repeats it."""
        run = self.run
        run.append_row(aliased(row, self.recipe.aliases))
        if self.board is not None:
            self.board.write(run.rows[-1])
        run.step = step
        event = run.recorded.get(step) or self._fairly(decision(self.recipe, settings, run, self.triggers, self._fit), settings)
        if event is not None:
            if self.recipe.checkpoint.twins and event["kind"] in ("stage", "rule") and not changes_nothing(event["action"]):
                self._save(run.folder / "twins", step)
            run.append_event(event)
            self.progress.note(f"step {step}: {action_in_words(event['action'])}, because {evidence_in_words(event['evidence'])}")
            self._act(event)
        else:
            self._refuse_silence(settings)
        reference = settings.recipe.reference
        if reference.replace_every and step % reference.replace_every == 0:
            self._replace_reference(hard=reference.optimizer == "reset")
        is_best = step in self._finest(settings)
        last = self.run.complete or self.progress.stop_requested
        if event is not None or is_best or last or step % self.recipe.checkpoint.every == 0:
            self.progress.phase("checkpoint")
            self._checkpoint(step)
        self.progress.step(row, last=last)

    def _refuse_silence(self, settings: Settings) -> None:
        """Stop a run that has learnt nothing for many steps, with nothing changed, because no group had two different rewards."""
        limit = self.recipe.max_constant_steps
        since = max([0, *(int(e["step"]) for e in self.run.events if not changes_nothing(e["action"]))])
        shares = [max(r.get(key, 0.0) for key in NOTHING_LEARNT) for r in self.run.rows[-limit:] if r["step"] > since]
        if settings.loss.kind == "grpo" and len(shares) == limit and min(shares) == 1.0:
            mean = self.run.rows[-1].get("reward/mean", 0.0)
            raise LearnerError(
                f"no group had two different rewards for {limit} steps (mean reward {mean:.3f}): there is nothing to learn from. "
                "Look at verdict/ shares and rollouts/; use easier or harder problems, a wider window, or more rollouts per group"
            )

    # -- control ------------------------------------------------------------------------------------------------

    def _act(self, event: Mapping[str, Any]) -> None:
        """Do what an event says: begin a stage, reset, go back to a checkpoint, or end the run for now."""
        action = event["action"]
        stage = self.recipe.stage[action["stage"]] if "stage" in action else None
        hard = action.get("do") == "reset" or (stage is not None and stage.reset == "hard")
        origin = int(action.get("from_step", event["step"]))
        if origin != event["step"]:
            source = checkpoint.checkpoint_path(self.run.folder, origin)
            checkpoint.verify(source)
            self.cluster.load(source, optimizer=not hard)
            self.cluster.forget()  # rollouts of the weights that are left
            self.collector.drop()
        if hard or (stage is not None and stage.reset == "reference"):
            self._replace_reference(hard=hard)
        now = fold(self.recipe, self.run.events, self.run.rows).recipe
        if now.loss.kl and not self.cluster.has_reference():
            self.cluster.freeze_reference()
        if action.get("do") == "pause":
            self.progress.stop_requested = True
        self.run.policy_version += 1
        self.cluster.sync(self.run.policy_version)

    def _replace_reference(self, *, hard: bool) -> None:
        """Make the policy its own reference; `hard` (NVIDIA 3.3.1) begins the optimizer and its schedules afresh too."""
        if hard:
            self.cluster.reset_optimizer()
        now = fold(self.recipe, self.run.events, self.run.rows).recipe
        if any(made.loss.kl for made in (now, *self.recipe.staged)):
            self.cluster.freeze_reference()

    def _fit(self, made: Recipe) -> None:
        """Raises: LongthinkError for a recipe that cannot be in force in this run: parts or windows that do not fit."""
        Parts(made.shape)
        refuse_misfit(made, self.config)

    def evaluate(self, split: str, problems: int, samples: int, window: int, sampling: Sampling) -> Evaluation:
        """Evaluate the current weights with this run's task, verifier and engine."""
        return self.validator.evaluate(split, problems, samples, window, sampling)

    def _choose_first(self) -> None:
        """Begin in the stage of the recommended window (start.py), and draw the curve it is read off."""
        if (recorded := self.run.recorded.get(0)) is not None:
            self.run.append_event(recorded)
            return
        self.progress.phase("window analysis")
        first = self.recipe.staged[0]
        sampling = Sampling(first.rollout.temperature)
        found = self.evaluate("validation", first.validation.problems, SAMPLES, self.recipe.last_window, sampling)
        event, curve = begin_where(self.recipe, found)
        storage.replace_file(self.run.folder / "window_curve.json", json.dumps(curve, indent=2).encode())
        self.run.append_event(event)
        self.progress.note(f"window: {curve['reason']}")

    def _finest(self, settings: Settings) -> set[int]:
        """The steps of the stage's best validated checkpoints, as many as may be chosen from, of each way they were taken."""
        found: dict[Any, list[dict[str, Any]]] = {}
        for row in sorted(self.run.validated(settings.stage), key=lambda r: (r["validation/accuracy"], r["step"]), reverse=True):
            found.setdefault(row.get("validation/key"), []).append(row)
        return {int(r["step"]) for rows in found.values() for r in rows[: settings.recipe.validation.finalists]}

    def _finalists(self, settings: Settings) -> list[dict[str, Any]]:
        """Their validations, best first, of those that are there or are the current weights."""
        there = {*checkpoint.steps(self.run.folder), self.run.step}
        return [r for r in self.run.finest(settings.stage, settings.recipe.validation.finalists) if r["step"] in there]

    def _fairly(self, event: dict[str, Any] | None, settings: Settings) -> dict[str, Any] | None:
        """The event with the best checkpoint it goes back to chosen among the finalists by fresh samples."""
        if event is None or event["action"].get("chosen") != "best":
            return event
        rows = [r for r in self._finalists(settings) if event["action"].get("do") != "rollback" or r["step"] < self.run.step]
        if len(rows) < 2:
            return event
        following = fold(self.recipe, [*self.run.events, event], self.run.rows)
        found = self.validator.choose(rows, following.recipe.validation, following.rollout.window)
        return {
            **event,
            "action": {**event["action"], "from_step": found.pop("step")},
            "evidence": {**event["evidence"], **found},
        }

    def _choose_last(self) -> None:
        """Score the finalists of a run's last stage again, and write which is best into best.json, once."""
        settings, path = fold(self.recipe, self.run.events, self.run.rows), self.run.folder / "best.json"
        rows = self._finalists(settings)
        if len(rows) > 1 and not path.exists():
            found = self.validator.choose(rows, settings.recipe.validation, settings.rollout.window)
            storage.replace_file(path, json.dumps(found, indent=2).encode())
            self.progress.note(f"best checkpoint by fresh samples: step {found['step']}")

    # -- checkpoints --------------------------------------------------------------------------------------------

    def _checkpoint(self, step: int) -> None:
        """Save the holders, and remove the checkpoints nobody needs any more."""
        self._save(self.run.folder, step)
        self._saved = step
        self._prune()

    def _save(self, folder: Path, step: int) -> None:
        before = [s for s in checkpoint.steps(self.run.folder) if s < step]
        facts = {"run_id": self.run.id, "policy_version": self.run.policy_version, "parent_step": before[-1] if before else None}
        checkpoint.save_checkpoint(folder, step, [self.cluster, self.data], self.side_files, facts)

    def _prune(self) -> None:
        """Keep the newest checkpoints, the stage's best, and what a later event goes back to."""
        run, step = self.run, self.run.step
        newest = set([s for s in checkpoint.steps(run.folder) if s <= step][-self.recipe.checkpoint.keep :])
        named = {int(e["action"]["from_step"]) for e in run.events if e["step"] > min(newest) and "from_step" in e["action"]}
        checkpoint.prune(run.folder, newest | named | self._finest(fold(self.recipe, run.events, run.rows)))
