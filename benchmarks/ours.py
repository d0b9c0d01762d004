"""Our side of the bench: one process, one dtype. Asked for a measure, it answers tokens and seconds."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from limit import matmul_rates
from prepare import bench_recipe, prompt_requests
from protocol import Clock, Handlers, serve

from longthink.engines.embedded import EmbeddedEngine
from longthink.folder import ModelFolder
from longthink.learners.local import LocalLearner
from longthink.machine import keep_memory
from longthink.recipe import Recipe
from longthink.settings import fold
from longthink.train import Training
from longthink.types import Batch


class Generation:
    """The embedded engine on the next prompts, all their requests at once."""

    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        self.folder, self.rollout, self.calls = ModelFolder(recipe.model.path), recipe.rollout, 0
        rows = self.rollout.prompts * self.rollout.group_size
        self.engine = EmbeddedEngine(dtype=dtype, stop_ids=self.folder.tokenizer.stop_ids, max_rows=rows)
        self.engine.load(self.folder.decoder(), 0)

    def __call__(self) -> dict[str, Any]:
        r = self.rollout
        requests = prompt_requests(self.folder, r.prompts, r.group_size, r.window, first=self.calls * r.prompts)
        self.calls += 1
        clock = Clock()
        for request in requests:
            self.engine.submit(request)
        rollouts = list(self.engine.finished())
        times = clock.read()
        lengths = np.array([r.num_tokens for r in rollouts])
        context = float((lengths * (len(requests[0].prompt_ids) + lengths / 2)).sum() / lengths.sum())
        return {"tokens": int(lengths.sum()), **times, "context": context}


class Updates:
    """The learner's updates of the shared batch; a rate of almost nothing keeps the weights, so every call does the same."""

    def __init__(self, recipe: Recipe, dtype: torch.dtype, batch: Path) -> None:
        self.loss, self.temperature = recipe.loss, recipe.rollout.temperature
        slow = recipe.learner.model_copy(update={"lr": 1e-9})
        self.learner = LocalLearner(ModelFolder(recipe.model.path).decoder(), slow, dtype=dtype)
        self.batch = self.learner.logprobs(Batch(**np.load(batch)), self.loss, self.temperature)

    def __call__(self) -> dict[str, Any]:
        clock = Clock()
        self.learner.update(self.batch, self.loss, self.temperature).means()
        times = clock.read()
        lengths = self.batch.lengths
        return {"tokens": int(lengths.sum()), **times, "context": float((lengths**2 / 2).sum() / lengths.sum())}


class Steps:
    """The training loop's own step: collect and grade, update, weights to the sampler, rollouts and metrics to disk."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.training = Training(recipe, out, resume=False, parent=None)
        self.settings, self.step = fold(recipe, []), 0

    def __call__(self) -> dict[str, Any]:
        clock, graders = Clock(), children_cpu_seconds()
        row = self.training.train_step(self.step, self.settings)
        self.training.run.append_row({"step": self.step} | row)
        times = clock.read()
        times["cpu_seconds"] += children_cpu_seconds() - graders
        self.step += 1
        parts = {key: row[f"time/{key}"] for key in ("rollout_s", "update_s")}
        return {"tokens": row["tokens/step"], **times, "reward": row["reward/mean"], **parts}


def children_cpu_seconds() -> float:
    """Processor time of the verifier's processes so far."""
    pids = [pid for tasks in Path("/proc/self/task").glob("*/children") for pid in tasks.read_text().split()]
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9


def start() -> Handlers:
    """The measures of this side: model folder, work folder and dtype are on the command line."""
    model, work, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    keep_memory()
    recipe, dtype = bench_recipe(model, name), getattr(torch, name)
    config = ModelFolder(model).config
    return {
        "generation": Generation(recipe, dtype),
        "training": Updates(recipe, dtype, work / "batch.npz"),
        "step": Steps(recipe, work / f"steps-{name}"),
        "limit": lambda: matmul_rates(config, dtype, recipe),
    }


if __name__ == "__main__":
    serve(start)
