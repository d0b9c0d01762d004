"""`longthink plan`: memory, seconds a step by phase, tokens, GPU hours and money of a recipe, before spending any."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longthink import storage
from longthink.data import first_problems, load_domains
from longthink.errors import RecipeError
from longthink.folder import ModelFolder
from longthink.planning.hardware import Hardware, costs, reached, shape_of
from longthink.planning.memory import GIB, Shape, needs
from longthink.planning.simulate import Load, simulate
from longthink.recipe import Recipe, load_recipe, profiles
from longthink.rng import derive_seed
from longthink.schedules import window_at
from longthink.sft import by_epochs, trace_lengths

__all__ = ["Lengths", "StagePlan", "command", "plan", "planned", "stage_plan"]

STEPS = 6  # simulated of each stage; the first of samplers that work ahead are left out
TRACES = 1000  # looked at to know how long they are
ROOM = 0.9  # of a GPU's memory that is planned with


@dataclass(frozen=True)
class Lengths:
    """How long responses would be without a window: log-normal, or drawn from those a run has measured."""

    median: float
    spread: float  # standard deviation of the logarithm
    measured: tuple[int, ...] = ()

    @classmethod
    def of(cls, text: str) -> "Lengths":
        """`4000` or `4000:0.8` (median and spread), or a run folder. Raises: RecipeError for other text."""
        if (Path(text) / "rollouts").is_dir():
            paths = sorted(path for path in (Path(text) / "rollouts").glob("step_*.jsonl") if "." not in path.stem)
            lengths = tuple(len(row["response_ids"]) for path in paths for row in storage.read_lines(path))
            if not lengths:
                raise RecipeError(f"--lengths {text}: the run has no rollouts yet")
            return cls(float(np.median(lengths)), 0.0, lengths)
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(?::(\d+(?:\.\d+)?))?", text)
        if found is None or not float(found[1]):
            raise RecipeError(
                f"--lengths {text!r}: expected a run folder, or the median of responses without a window, as 4000:0.8"
            )
        return cls(float(found[1]), float(found[2] or 0.8))

    def draw(self, count: int, window: int, seed: int) -> list[int]:
        """The lengths of so many rollouts, each cut at the window."""
        generator = np.random.default_rng(seed)
        if self.measured:
            drawn = generator.choice(np.array(self.measured), count)
        else:
            drawn = self.median * np.exp(self.spread * generator.standard_normal(count))
        return [int(n) for n in np.clip(np.ceil(drawn), 1, window)]


@dataclass(frozen=True)
class StagePlan:
    """What a stage costs: seconds of a step by phase, and of all its steps."""

    window: int
    steps: int
    rollout: float
    logprobs: float
    update: float
    sync: float
    other: float
    tokens: float  # generated in a step
    clipped: float
    busy: float  # share of the samplers' time

    @property
    def step(self) -> float:
        return self.rollout + self.logprobs + self.update + self.sync + self.other


def stage_plan(made: Recipe, steps: int, shape: Shape, hardware: Hardware, lengths: Lengths, window: int = 0) -> StagePlan:
    """The plan of one stage. GPUs are shared in turn by samplers and learner, or divided where samplers work ahead."""
    r = made.rollout
    window = window or r.window
    ahead = r.staleness > 0
    samplers = max(1, hardware.gpus // 2) if ahead else hardware.gpus
    learners = max(1, hardware.gpus - samplers) if ahead else hardware.gpus
    spent = costs(shape, hardware, made, learners, samplers)
    rank, sampler, _ = needs(sharded(made, learners), shape)
    passing = {"gathered layers", "activations", "logits"}  # while it computes; the rest of the learner stays beside a sampler
    stays = 0.0 if ahead else sum(size for use, size in rank.items() if use not in passing)
    free = GIB * (hardware.gib * ROOM - sampler["sampler weights"] - stays)
    prompt = min(r.max_prompt_tokens, 200)
    count = r.prompts * r.group_size
    mean = sum(lengths.draw(1000, window, 0)) / 1000
    rows = int(min(made.engine.max_rows, free / (2 * shape.kv_numbers) / (prompt + mean)))
    if rows < 1:
        raise RecipeError(f"{hardware.name}: {hardware.gib:.0f} GiB hold neither this model nor one rollout of {window} tokens")
    loads = [
        Load(lengths.draw(count, window, derive_seed(0, "plan", step)), r.group_size, prompt)
        for step in range(STEPS + 2 * r.staleness)
    ]
    times = simulate(loads, spent, samplers=min(samplers, r.prompts), rows=rows, staleness=r.staleness)
    kept = times[r.staleness + 1 : len(times) - r.staleness] if ahead else times  # with as much ahead as there will be
    mean_of = {name: float(np.mean([getattr(t, name) for t in kept])) for name in ("rollout", "logprobs", "update", "sync")}
    other = sum(mean_of.values()) * reached("other")
    every = [n for load in loads for n in load.lengths]
    busy = sum(t.samplers_busy for t in kept) / (samplers * max(sum(t.total for t in kept), 1e-9))
    return StagePlan(
        window,
        steps,
        **mean_of,
        other=other,
        tokens=sum(every) / len(loads),
        clipped=float(np.mean([n >= window for n in every])),
        busy=busy,
    )


def sharded(recipe: Recipe, learners: int) -> Recipe:
    """The recipe with its learner cut over so many GPUs."""
    return recipe.model_copy(update={"cluster": recipe.cluster.model_copy(update={"learners": learners, "shard": learners > 1})})


def plan(recipe: Recipe, hardware: Hardware, lengths: Lengths) -> list[StagePlan]:
    """Each stage's plan; one that ends by measurement is planned to its last possible step."""
    shape = shape_of(recipe.model.path)
    left, stages = recipe.budget.max_steps, []
    for index, made in enumerate(recipe.staged):
        bound = recipe.stage[index].max_steps if recipe.stage else 0
        steps = min(left, bound or left)
        cycle = made.rollout.cycle
        window = round(float(np.mean([window_at(s, cycle) for s in range(cycle.period)]))) if cycle else made.rollout.widest
        if steps:
            stages.append(stage_plan(made, steps, shape, hardware, lengths, window))
        left -= steps
    return stages


def usual(recipe: Recipe) -> Lengths:
    """The lengths to plan with where none are given: those of the traces to learn, if they and the model are here."""
    if recipe.engine.kind == "teacher" and Path(recipe.model.path).exists():
        tasks, _ = load_domains(recipe)
        problems = [p for name, task in tasks.items() for p in first_problems(name, task, TRACES)]
        measured = trace_lengths(recipe, tasks, ModelFolder(recipe.model.path).tokenizer, problems)
        return Lengths(float(np.median(measured)), 0.0, tuple(measured))
    return Lengths.of("4000:0.8")


def planned(recipe: Recipe, on: str, lengths: str, price: float = 0.0) -> list[str]:
    """The plan as lines for a terminal."""
    hardware, shape = Hardware.of(on), shape_of(recipe.model.path)
    learners = hardware.gpus // 2 or 1 if recipe.rollout.staleness else hardware.gpus
    uses = needs(sharded(recipe, learners), shape)[0]
    lines = [
        f"{recipe.name} on {hardware.gpus} {hardware.name} ({hardware.machines} machine(s)), "
        f"{shape.parameters / 1e9:.2f} B parameters",
        f"memory of a learner's GPU: {sum(uses.values()):.1f} of {hardware.gib:.0f} GiB: "
        + ", ".join(f"{name} {size:.1f}" for name, size in uses.items()),
    ]
    if (over := sum(uses.values()) - hardware.gib * ROOM) > 0:
        more = "" if recipe.learner.checkpoint_layers else "learner.checkpoint_layers = true, "
        return [
            *lines,
            f"TOO LARGE by {over:.1f} GiB ({ROOM:.0%} of the memory is planned with): use more GPUs, {more}reference.on_host, "
            "or a smaller learner.microbatch_tokens, head_chunk or window",
        ]
    names = (
        "stage",
        "window",
        "steps",
        "tokens/step",
        "clipped",
        "rollouts",
        "log-probs",
        "update",
        "other",
        "step s",
        "GPU hours",
        "samplers busy",
    )
    rows, total, tokens = [list(names)], 0.0, 0.0
    for index, s in enumerate(plan(recipe, hardware, Lengths.of(lengths) if lengths else usual(recipe))):
        hours = s.steps * s.step * hardware.gpus / 3600
        total, tokens = total + hours, tokens + s.steps * s.tokens
        seconds = (f"{x:,.0f}" for x in (s.rollout, s.logprobs, s.update, s.sync + s.other, s.step, hours))
        rows.append([str(index), f"{s.window}", f"{s.steps}", f"{s.tokens:,.0f}", f"{s.clipped:.0%}", *seconds, f"{s.busy:.0%}"])
    lines += ["  ".join(cell.rjust(len(name)) for cell, name in zip(row, names, strict=True)) for row in rows]
    price = price or hardware.price
    money = f", ${total * price:,.0f} at ${price:g}" if price else " (no price is known: give --price)"
    days = total / hardware.gpus / 24
    return [
        *lines,
        f"all: {tokens / 1e6:,.0f} M tokens, {total:,.0f} GPU hours{money}, {days:.1f} days; validations are not in it",
    ]


def command(args: argparse.Namespace) -> int:
    """`longthink plan`."""
    profile = args.on if args.on in profiles() else ""
    recipe = by_epochs(load_recipe(args.recipe, args.set, args.arm, profile))
    print("\n".join(planned(recipe, args.on, args.lengths, args.price)))
    return 0
