"""Supervised fine-tuning: what a recipe need not say where the task's own traces are learnt, and how long an epoch is."""

import math
from collections.abc import Mapping, Sequence

from longthink.data import load_domains
from longthink.engines.teacher import TeacherEngine, trace_calls
from longthink.errors import RecipeError, TaskError
from longthink.folder import Tokenizer
from longthink.recipe import Recipe
from longthink.tasks.base import Task
from longthink.types import Problem

__all__ = ["by_epochs", "has_trace", "refuse_untold", "trace_lengths"]


def refuse_untold(recipe: Recipe, tasks: Mapping[str, Task]) -> None:
    """Raises: TaskError for the first problem without a trace, where traces are learnt: all that the tasks hold are looked at.

    Validation problems may lack them where responses are sampled too: the loss is over those that have one.
    """
    if recipe.engine.kind != "teacher":
        return
    for task in tasks.values():
        for index in range(1 if (size := task.size("train")) is None else size):
            task.trace(task.problem("train", index), 0)
    for task in tasks.values() if recipe.validation.every else ():
        size = min(task.size("validation") or 1, recipe.validation.problems)
        problems = [task.problem("validation", index) for index in range(size)]
        untold = [problem for problem in problems if not has_trace(task, problem)]
        wrong = [problem for problem in untold if problem.meta.get("response")]  # there, and none that can be learnt
        if wrong or (len(untold) == size and not recipe.validation.samples):
            task.trace([*wrong, *untold][0], 0)


def has_trace(task: Task, problem: Problem) -> bool:
    """Whether there is a response to learn."""
    try:
        task.trace(problem, 0)
    except TaskError:
        return False
    return True


def trace_lengths(recipe: Recipe, tasks: Mapping[str, Task], tokenizer: Tokenizer, problems: Sequence[Problem]) -> list[int]:
    """The tokens of these problems' traces, uncut."""
    teacher = TeacherEngine(tasks, tokenizer, trace_calls(recipe))
    prompts = map(tokenizer.prompt_ids, problems)
    return [sum(len(s.token_ids) for s in teacher.segments(p, 0, ids)) for p, ids in zip(problems, prompts, strict=True)]


def by_epochs(recipe: Recipe) -> Recipe:
    """The recipe with `budget.max_steps` for its epochs, and a cosine schedule that ends with them if it has no end.

    A step takes `rollout.prompts` traces, the last one of an epoch those that are left and the first of the next.
    Raises: RecipeError where the problems never end, or there are several domains.
    """
    epochs = recipe.budget.max_epochs
    if not epochs:
        return recipe
    tasks, _ = load_domains(recipe)
    sizes = {name: task.size("train") for name, task in tasks.items()}
    if len(sizes) > 1 or None in sizes.values():
        why = "there are several domains" if len(sizes) > 1 else "its task makes new problems for ever"
        raise RecipeError(f"budget.max_epochs is {epochs:g}, and {why}; expected budget.max_steps")
    (size,) = sizes.values()
    steps = max(1, math.ceil(epochs * (size or 0) / recipe.rollout.prompts))
    updates = (
        steps * recipe.learner.epochs * (recipe.rollout.prompts // (recipe.learner.minibatch_prompts or recipe.rollout.prompts))
    )
    learner = recipe.learner
    if learner.schedule == "cosine" and not learner.total_updates:
        if updates <= learner.warmup_updates:
            raise RecipeError(f"learner.warmup_updates is {learner.warmup_updates}, and all epochs are {updates} updates")
        learner = learner.model_copy(update={"total_updates": updates})
    budget = recipe.budget.model_copy(update={"max_steps": steps})
    return recipe.model_copy(update={"budget": budget, "learner": learner})
