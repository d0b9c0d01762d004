"""`longthink check`: everything about a recipe that can be known before it runs."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from longthink.collect import Grading
from longthink.data import first_problems, load_domains, prompt_ids, refuse_unusable
from longthink.errors import LongthinkError, RecipeError, TaskError
from longthink.fit import prompt_limits, refuse_misfit
from longthink.folder import ModelFolder
from longthink.machine import resolve
from longthink.model import ModelConfig
from longthink.part import load_part
from longthink.planning import memory
from longthink.recipe import Recipe
from longthink.rewards.base import BAD_GOLD, Reward
from longthink.rewards.file import File
from longthink.rewards.pool import RewardPool
from longthink.schedules import window_at
from longthink.sft import by_epochs, refuse_untold, trace_lengths
from longthink.shape import Parts, pin_files
from longthink.stages import Triggers
from longthink.tables import MOVING, CycleSettings
from longthink.tasks.base import Task
from longthink.tools.calls import refuse_unwritable
from longthink.trial import tried_files
from longthink.types import Problem
from longthink.validation import Source, sources

CHART_COLUMNS, CHART_ROWS = 96, 6

__all__ = ["arithmetic", "check", "refused_golds"]


def check(recipe: Recipe, *, golds: int) -> int:
    """Print the batch arithmetic and grade golds; 1 when the recipe's own verifier refuses one.

    Raises: LongthinkError for whatever would stop the run at its start. A missing model folder is only
    named: a recipe can be checked before its model is there.
    """
    if golds < 0:
        raise RecipeError(f"--golds is {golds}, expected at least 0")
    recipe = by_epochs(pin_files(recipe))
    tasks, rewards = load_domains(recipe)
    refuse_unusable(tasks, recipe.pools is not None)
    refuse_untold(recipe, tasks)
    parts = [Parts(made.shape) for made in recipe.staged]
    if recipe.probe.every:
        load_part(Reward, recipe.probe.reward, "probe.reward")
    Triggers(recipe)
    sets = sources(recipe, Source(tasks, Grading(rewards)))
    if any(r.validation.every for r in recipe.staged):
        for source in sets.values():
            for task in source.tasks.values():
                task.size("validation")
    model = ModelFolder(recipe.model.path) if Path(recipe.model.path).exists() else None
    if model is None:
        print(f"model folder {recipe.model.path} is not there: positions, prompts and memory are not checked")
    else:
        refuse_misfit(recipe, model.config)
        if recipe.tool:
            refuse_unwritable(recipe.tool, model.tokenizer)
    problems = [problem for name, task in tasks.items() for problem in first_problems(name, task, golds)]
    if model is not None:
        lengths = [prompt_ids(model.tokenizer, p, prompt_limits(recipe, model.config)) for p in problems]
        kept = [len(ids) for ids in lengths if ids is not None]
        if lengths and not kept:
            raise TaskError(
                f"every prompt is longer than rollout.max_prompt_tokens = {recipe.rollout.max_prompt_tokens}; raise it"
            )
        if kept:
            first = next(ids for ids in lengths if ids is not None)
            print(f"first prompt: {shortened(model.tokenizer.inner.decode(first.tolist()))}")
            print(f"prompts: {min(kept)} to {max(kept)} tokens, {len(lengths) - len(kept)} of {len(lengths)} dropped as too long")
        if recipe.engine.kind == "teacher" and problems:
            print(traces(recipe, trace_lengths(recipe, tasks, model.tokenizer, problems)))
    print("\n".join(arithmetic(resolve_if_possible(recipe), model.config if model else None)))
    for said in dict.fromkeys(str(p) for p in parts if p.names):
        print(f"reward: {said}")
    for line in tried_files(tasks, rewards, {name: part for p in parts for name, part in p.verifiers.items()}, sets):
        print(line)
    if not recipe.graded:
        return 0
    refused = refused_golds(tasks, rewards, problems, recipe.workers)
    print(f"golds: {len(problems) - len(refused)} of {len(problems)} accepted by the recipe's own verifier")
    for line in refused[:10]:
        print(f"  {line}")
    return 1 if refused else 0


def traces(recipe: Recipe, lengths: Sequence[int]) -> str:
    """How long what is learnt is, and how much of it the window cuts."""
    window = recipe.staged[0].rollout.widest
    cut = sum(n > window for n in lengths)
    return (
        f"traces: {min(lengths):,} to {max(lengths):,} tokens, median {statistics.median(lengths):,.0f}; "
        f"{cut} of {len(lengths)} are cut at the window of {window:,}"
    )


def resolve_if_possible(recipe: Recipe) -> Recipe:
    """The resolved recipe, or the recipe itself when it is meant for another machine."""
    try:
        return resolve(recipe)
    except LongthinkError:
        return recipe


def refused_golds(
    tasks: Mapping[str, Task], rewards: Mapping[str, Reward], problems: Sequence[Problem], workers: int
) -> list[str]:
    """One line for every problem whose gold answer its own verifier does not accept.

    Where neither task nor verifier can make a response from a gold (a program, say), the gold must only be readable.
    """
    refused: dict[int, str] = {}
    with RewardPool(next(iter(rewards.values())), workers) as pool:
        for index, problem in enumerate(problems):
            task, reward = tasks[problem.domain], rewards[problem.domain]
            try:
                reward.read(problem.gold)
                if isinstance(reward, File):  # what a right answer earns is its own affair
                    continue
                response = task.gold_response(problem) or reward.example(problem.gold)
            except BAD_GOLD as error:
                refused[index] = f"cannot be used: {error}"
                continue
            if response is not None:
                pool.submit(index, response, problem.gold, reward)
        verdicts = pool.drain()
    refused |= {i: f"graded {v.score} ({v.status})" for i, v in verdicts.items() if v.score != 1.0}  # type: ignore[misc]
    return [f"problem {problems[i].id}: {refused[i]}, gold {short(problems[i].gold)}" for i in sorted(refused)]


def short(gold: object) -> str:
    text = repr(gold)
    return text if len(text) <= 100 else f"{text[:100]}…"


def shortened(text: str) -> str:
    """A prompt on one line: all of it, or its beginning and its end."""
    return repr(text if len(text) <= 400 else f"{text[:150]} … {text[-250:]}")


def arithmetic(recipe: Recipe, config: ModelConfig | None) -> list[str]:
    """Lines that say how many prompts, rollouts, tokens and updates a step has, and what memory it needs."""
    r, s = recipe.staged[0].rollout, recipe.staged[0].learner
    window = r.widest
    minibatch = s.minibatch_prompts or r.prompts
    updates = -(-r.prompts // minibatch) * s.epochs
    lines = [
        f"step: {r.prompts} prompts x {r.group_size} rollouts = {r.prompts * r.group_size} rollouts, "
        f"at most {r.prompts * r.group_size * window:,} tokens at window {window}",
        f"updates: {updates} a step, each over {minibatch} prompts = {minibatch * r.group_size} rollouts, "
        f"computed {s.microbatch_tokens:,} tokens at a time",
        *_choice(recipe),
        f"budget: {recipe.budget.max_steps} steps"
        + (f" or {recipe.budget.max_generated_tokens:,} generated tokens" if recipe.budget.max_generated_tokens else ""),
    ]
    if recipe.rollout.cycle and not recipe.stage:
        lines += drawn(recipe.rollout.cycle, recipe.budget.max_steps)
    for index, stage in enumerate(recipe.stage):
        made, changes = recipe.staged[index], dict(stage.changes)
        made_window = made.rollout.widest
        rest = {k: v for k, v in changes.pop("rollout", {}).items() if k not in MOVING}
        changes |= {"rollout": rest} if rest else {}
        ends = [f"{stage.until['kind']} fires"] if stage.until else []
        ends += [f"{stage.max_steps} steps are done"] if stage.max_steps else []
        last = index + 1 == len(recipe.stage)
        also = "".join(f", {table}.{key} = {value}" for table, keys in changes.items() for key, value in dict(keys).items())
        lines.append(f"stage {index}: window {made_window}{also}, until {'the budget ends' if last else ' or '.join(ends)}")
        if "cycle" in stage.rollout and made.rollout.cycle:
            lines += drawn(made.rollout.cycle, stage.max_steps or recipe.budget.max_steps)
    for index, rule in enumerate(recipe.rule):
        lines.append(f"rule {index}: when {rule.when.get('kind')} fires, {rule.do}, at most {rule.times} time(s)")
    return lines + (memory.lines(recipe, memory.Shape.of(config)) if config else [])


def _choice(recipe: Recipe) -> list[str]:
    """Lines about dynamic sampling, domains and pools, where there are any."""
    s, prompts, lines = recipe.selection, recipe.rollout.prompts, []
    if s.dynamic == "refill":
        first = round(prompts * s.oversample)
        most = (first + (s.max_rounds - 1) * prompts) * recipe.rollout.group_size
        lines.append(
            f"sampling: {first} prompts, then what is missing, for at most {s.max_rounds} rounds: at most {most:,} rollouts"
        )
    total = sum(d.weight for d in recipe.domains)
    if recipe.domain:
        lines.append("domains: " + ", ".join(f"{d.name} {d.weight / total:.0%}" for d in recipe.domains))
    if p := recipe.pools:
        rests = [f"{k} after {n} draws" for k, n in (("solved", p.retire_right), ("never solved", p.retire_wrong)) if n]
        lines.append(
            f"pools: new {p.new:g}, hard {p.hard:g}, middle {p.middle:g}, easy {p.easy:g}; "
            + (f"rest for {p.rest_steps} steps when {' or '.join(rests)}" if rests else "none rests")
        )
    return lines


def drawn(cycle: CycleSettings, steps: int) -> list[str]:
    """A cycle's window over its first steps, at most three periods, as a line of words and a chart of blocks."""
    shown = min(steps, 3 * cycle.period)
    columns = min(shown, CHART_COLUMNS)
    windows = [window_at(round(i * (shown - 1) / max(columns - 1, 1)), cycle) for i in range(columns)]
    eighths = [8 + round(8 * (CHART_ROWS - 1) * (w - cycle.low) / (cycle.high - cycle.low)) for w in windows]
    rows = ["".join(" ▁▂▃▄▅▆▇█"[min(8, max(0, e - 8 * row))] for e in eighths) for row in reversed(range(CHART_ROWS))]
    label = {0: f"{cycle.high:>8,} ", CHART_ROWS - 1: f"{cycle.low:>8,} "}
    quarters = (quarter * cycle.period // 4 for quarter in range(4))
    moments = ", ".join(f"{window_at(t, cycle):,} at {t + 1}" for t in quarters)
    return [
        f"window: {cycle.shape} cycle of {cycle.period} steps; tokens at step: {moments}",
        *(label.get(i, " " * 9) + row for i, row in enumerate(rows)),
        f"{'step':>8} 1{shown:>{len(windows) - 1},}",
    ]
