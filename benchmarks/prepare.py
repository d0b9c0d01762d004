"""What is made before anything is measured: the model, the recipe, the problems and the batch both sides train on."""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longthink.advantage import advantages
from longthink.engines.embedded import EmbeddedEngine
from longthink.errors import TaskError
from longthink.folder import ModelFolder, tiny_folder
from longthink.machine import resolve
from longthink.quickstart import RECIPES, TEMPLATE
from longthink.recipe import Recipe, load_recipe
from longthink.rewards.countdown import Countdown as Verifier
from longthink.rng import derive_seed
from longthink.tasks.countdown import WORDS, Countdown
from longthink.train import Training
from longthink.types import Batch, Group, Request, Rollout, RolloutId, Sampling, Verdict

WARM_STEPS = 40  # fine-tuning steps of the model the bench makes: enough for lengths that vary as a real run's do
MAX_GROUPS = 256
SETTINGS = (  # what the peer is given too; everything else is the shipped recipe's
    "cluster.learners=1",
    "cluster.threads=1",
    "workers=1",
    "rollout.prompts=16",
    "rollout.group_size=16",
    "rollout.window=192",
    "rollout.temperature=1.0",
    "learner.minibatch_prompts=8",
    "learner.epochs=1",
    "loss.clip_low=0.2",
    "loss.clip_high=0.28",
    "loss.kl=0.0",
    "loss.entropy=0.0",
    "validation.every=0",
    "stage=[]",
)


def bench_recipe(model: Path, dtype: str) -> Recipe:
    """The shipped recipe of the quickstart's reinforcement learning with the bench's settings, resolved."""
    return resolve(load_recipe(RECIPES / "countdown_grpo_cpu.toml", [f"model.path={model}", f"model.dtype={dtype}", *SETTINGS]))


def make_model(out: Path) -> Path:
    """Write a tiny model and fine-tune it with the shipped recipe for a fixed number of steps."""
    shutil.rmtree(out, ignore_errors=True)
    tiny_folder(out / "model", WORDS, seed=0, template=TEMPLATE)
    path = RECIPES / "countdown_sft_cpu.toml"
    shipped = load_recipe(path)
    updates = WARM_STEPS * shipped.rollout.prompts // shipped.learner.minibatch_prompts
    sets = [f"budget.max_steps={WARM_STEPS}", f"learner.total_updates={updates}", f"model.path={out}/model"]
    with Training(resolve(load_recipe(path, sets)), out / "warm", resume=False, parent=None) as training:
        training.loop()
        return training.run.last_checkpoint


def prepare(model: Path, work: Path) -> dict[str, Any]:
    """Write problems.jsonl, settings.json and batch.npz into `work`; the facts of the batch are returned."""
    work.mkdir(parents=True, exist_ok=True)
    recipe = bench_recipe(model, "float32")
    write_problems(ModelFolder(model), work / "problems.jsonl", 64 * recipe.rollout.prompts)
    (work / "settings.json").write_text(json.dumps(peer_settings(recipe)))
    batch = mixed_batch(ModelFolder(model), recipe)
    arrays = ("tokens", "offsets", "loss_mask", "sampler_logprobs", "rewards", "group", "counted", "advantages")
    np.savez(work / "batch.npz", **{name: getattr(batch, name) for name in arrays})
    return {"sequences": len(batch), "tokens": len(batch.tokens), "longest": int(batch.lengths.max())}


def peer_settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe's numbers, as flat names for the side that cannot import longthink."""
    r, loss, learner = recipe.rollout, recipe.loss, recipe.learner
    return {
        "prompts": r.prompts,
        "group_size": r.group_size,
        "window": r.window,
        "temperature": r.temperature,
        "clip_low": loss.clip_low,
        "clip_high": loss.clip_high,
        "lr": learner.lr,
        "warmup": learner.warmup_updates,
        "betas": learner.betas,
        "weight_decay": learner.weight_decay,
        "grad_clip": learner.grad_clip,
        "updates": r.prompts // learner.minibatch_prompts,
    }


def write_problems(folder: ModelFolder, path: Path, count: int) -> None:
    """The first training problems, in the order our own run draws them: prompt text, its ids, numbers and target."""
    task, lines = Countdown(), []
    for index in range(count):
        problem = task.problem("train", index)
        ids = folder.tokenizer.prompt_ids(problem).tolist()
        prompt = folder.tokenizer.inner.decode(ids, skip_special_tokens=False)
        lines.append(json.dumps({"prompt": prompt, "ids": ids, **problem.gold}))
    path.write_text("\n".join(lines))


def mixed_batch(folder: ModelFolder, recipe: Recipe) -> Batch:
    """One rollout batch of groups with mixed rewards: our learner skips the others, which would flatter it here."""
    found = itertools.islice((g for g in sampled_groups(folder, recipe) if not g.constant), recipe.rollout.prompts)
    groups = list(found)
    if len(groups) < recipe.rollout.prompts:
        raise TaskError(
            f"the model solves too few Countdown problems to measure with: {len(groups)} mixed groups of {MAX_GROUPS}"
        )
    return advantages(Batch.of(groups), recipe.advantage)


def sampled_groups(folder: ModelFolder, recipe: Recipe) -> Iterator[Group]:
    """Scored groups of training problems, problem after problem."""
    r, verifier = recipe.rollout, Verifier()
    engine = EmbeddedEngine(dtype=torch.float32, stop_ids=folder.tokenizer.stop_ids)
    engine.load(folder.decoder(), 0)
    for start in range(0, MAX_GROUPS, r.prompts):
        requests = prompt_requests(folder, r.prompts, r.group_size, r.window, first=start)
        for request in requests:
            engine.submit(request)
        rollouts = sorted(engine.finished(), key=lambda rollout: rollout.id)
        verdicts = [grade(verifier, folder, rollout) for rollout in rollouts]
        for at in range(0, len(rollouts), r.group_size):
            some, scores = tuple(rollouts[at : at + r.group_size]), tuple(verdicts[at : at + r.group_size])
            yield Group(some[0].problem, some, scores, tuple(float(v.score or 0.0) for v in scores))


def prompt_requests(folder: ModelFolder, prompts: int, group_size: int, window: int, *, first: int) -> list[Request]:
    """The requests for `prompts` training problems from number `first` on."""
    problems = [Countdown().problem("train", first + i) for i in range(prompts)]
    ids = [folder.tokenizer.prompt_ids(p) for p in problems]
    return [
        Request(RolloutId(first + i, j), problems[i], ids[i], window, Sampling(), derive_seed(0, "bench", first + i, j))
        for i in range(prompts)
        for j in range(group_size)
    ]


def grade(verifier: Verifier, folder: ModelFolder, rollout: Rollout) -> Verdict:
    if rollout.truncated:
        return Verdict(0.0, "truncated")
    return verifier.grade(folder.tokenizer.decode(rollout.response_ids), rollout.problem.gold)
