"""The data source: a cursor over each domain's training problems, and whose turn it is."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from longthink import storage
from longthink.errors import TaskError
from longthink.folder import Tokenizer
from longthink.part import load_part
from longthink.pools import Pools
from longthink.recipe import Recipe
from longthink.rewards.base import Reward
from longthink.tables import RolloutSettings
from longthink.tasks.base import Task
from longthink.types import Group, Ints, Problem

__all__ = ["DataSource", "first_problems", "load_domains", "prompt_ids", "refuse_unusable"]


def prompt_ids(
    tokenizer: Tokenizer, problem: Problem, settings: RolloutSettings, counts: Counter[str] | None = None
) -> Ints | None:
    """The prompt's tokens; None when it is too long and the recipe drops such prompts. `counts` learns of those dropped or cut.

    Raises: TaskError for a prompt that is too long and must not be dropped or cut.
    """
    ids = tokenizer.prompt_ids(problem)
    if len(ids) <= settings.max_prompt_tokens:
        return ids
    if settings.long_prompts == "error":
        raise TaskError(
            f"problem {problem.id}: its prompt has {len(ids)} tokens; rollout.max_prompt_tokens and the positions the widest "
            f"window leaves allow {settings.max_prompt_tokens}. Raise the one or lower the other, or set rollout.long_prompts = "
            '"drop" (or "cut")'
        )
    if counts is not None:
        counts[settings.long_prompts] += 1
    return None if settings.long_prompts == "drop" else ids[-settings.max_prompt_tokens :]


def load_domains(recipe: Recipe) -> tuple[dict[str, Task], dict[str, Reward]]:
    """Each domain's task and verifier, by its name."""
    where = {d.name: f"domain.{i}." if recipe.domain else "" for i, d in enumerate(recipe.domains)}
    tasks = {d.name: load_part(Task, d.task, f"{where[d.name]}task") for d in recipe.domains}
    return tasks, {d.name: load_part(Reward, d.reward, f"{where[d.name]}reward") for d in recipe.domains}


def refuse_unusable(tasks: Mapping[str, Task], pools: bool) -> None:
    """Raises: TaskError for a task without training problems, or with endless ones where there are pools."""
    for name, task in tasks.items():
        size = task.size("train")
        if size == 0:
            raise TaskError(f"the training split is empty; fix `task` {f'of domain {name} ' * bool(name)}in the recipe")
        if pools and size is None:
            raise TaskError("pools need problems that come again; this task generates new ones for ever")


class DataSource:
    """Hands out problems in order, each with a number of its own that names its group for ever.

    With several domains the turn goes to the one that is furthest behind its share (smooth weighted round robin), so every
    stretch of draws has the shares of the weights, to less than one problem a domain. Problems given back come first.
    """

    def __init__(
        self,
        tasks: Mapping[str, tuple[Task, float]],
        tokenizer: Tokenizer,
        settings: RolloutSettings,
        pools: Pools | None = None,
    ) -> None:
        self.tasks = {name: task for name, (task, _) in tasks.items()}
        self.weights = {name: weight for name, (_, weight) in tasks.items()}
        self.tokenizer, self.settings, self.pools = tokenizer, settings, pools
        self.cursors = dict.fromkeys(self.tasks, 0)
        self.credits = dict.fromkeys(self.tasks, 0.0)
        self.next_group = self.step = 0
        self.counts: Counter[str] = Counter()  # prompts dropped and cut
        self._returned: list[tuple[str, int]] = []
        self._places: dict[int, tuple[str, int]] = {}  # where the groups came from that were not settled yet
        self._again: list[tuple[int, str, int]] = []  # groups to draw once more, under their own numbers
        refuse_unusable(self.tasks, pools is not None)

    def begin(self, step: int, weights: Mapping[str, float] | None = None, max_prompt_tokens: int = 0) -> None:
        """Draw for this step, with these weights and so long prompts from now on."""
        self.step = step
        self.weights = dict(weights or self.weights)
        if max_prompt_tokens:
            self.settings = self.settings.model_copy(update={"max_prompt_tokens": max_prompt_tokens})

    def draw(self, count: int) -> list[tuple[int, Problem, Ints]]:
        """The next `count` problems that fit and that the pools take, each with its group's number and prompt tokens."""
        drawn: list[tuple[int, Problem, Ints]] = []
        skipped, choosy = 0, self.pools is not None
        patience = 1000 + sum(task.size("train") or 0 for task in self.tasks.values())
        while len(drawn) < count:
            group, domain, place, again = self._turn()
            problem = replace(self.tasks[domain].problem("train", place), domain=domain)
            rests = choosy and not again and self.pools is not None and not self.pools.takes(_name(problem), place, self.step)
            ids = None if rests else prompt_ids(self.tokenizer, problem, self.settings, self.counts)
            if ids is not None:
                self._places[group] = domain, place
                drawn.append((group, problem, ids))
                skipped = 0
                continue
            skipped += 1
            if skipped > patience and choosy and self.pools is not None:  # nobody is left: all rests end, any problem will do
                self.pools.wake()
                skipped, choosy = 0, False
            if skipped > patience:
                raise TaskError(
                    f"every prompt is longer than rollout.max_prompt_tokens = {self.settings.max_prompt_tokens}; raise it"
                )
        return drawn

    def _turn(self) -> tuple[int, str, int, bool]:
        """The next group's number, domain and problem, and whether it was drawn before."""
        if self._again:
            return *self._again.pop(0), True
        self.next_group += 1
        if self._returned:
            return self.next_group - 1, *self._returned.pop(0), True
        total = sum(self.weights.values())
        for name, weight in self.weights.items():
            self.credits[name] += weight / total
        domain = max((name for name, weight in self.weights.items() if weight), key=lambda name: self.credits[name])
        self.credits[domain] -= 1.0
        self.cursors[domain] += 1
        return self.next_group - 1, domain, self.cursors[domain] - 1, False

    def give_back(self, groups: Sequence[int]) -> None:
        """Put the problems of these groups in front, to be drawn again under new numbers."""
        self._returned += [self._places[group] for group in groups]

    def settle(self, groups: Sequence[int]) -> None:
        """These groups are done with: what was drawn and is not settled is drawn again after a restart."""
        for group in groups:
            del self._places[group]

    def draw_again(self) -> None:
        """Draw the groups that are not settled once more, under their own numbers."""
        self._again = self._unsettled()
        self._places = {}

    def _unsettled(self) -> list[tuple[int, str, int]]:
        return [(group, *place) for group, place in sorted(self._places.items())] + self._again

    def record(self, groups: Sequence[Group]) -> None:
        """Tell the pools how this step's problems went."""
        if self.pools is not None:
            for group in groups:
                self.pools.record(_name(group.problem), [v.score or 0.0 for v in group.verdicts], self.step)

    def metrics(self) -> dict[str, Any]:
        row: dict[str, Any] = {"data/dropped_prompts": self.counts["drop"], "data/cut_prompts": self.counts["cut"]}
        return row | (self.pools.counts(self.step) if self.pools is not None else {})

    def save(self, folder: Path) -> None:
        state = {name: getattr(self, name) for name in ("cursors", "credits", "next_group", "counts")}
        state |= {
            "returned": self._returned,
            "again": self._unsettled(),
            "pools": self.pools.state(self.step) if self.pools is not None else None,
        }
        storage.write_bytes(folder / "data.json", json.dumps(state).encode())

    def load(self, folder: Path, step: int) -> None:
        """Go on where a checkpoint was, in a run that has done `step` steps; domains that are not here are forgotten."""
        self.step = step
        state = json.loads((folder / "data.json").read_text())
        for name in self.tasks.keys() & state["cursors"].keys():
            self.cursors[name], self.credits[name] = state["cursors"][name], state["credits"][name]
        self.next_group = state["next_group"]
        self.counts, self._returned = Counter(state["counts"]), [(d, place) for d, place in state["returned"] if d in self.tasks]
        self._places, self._again = {}, [(group, d, place) for group, d, place in state["again"] if d in self.tasks]
        if self.pools is not None and state["pools"] is not None:
            self.pools.restore(state["pools"], step)


def _name(problem: Problem) -> str:
    """What a problem is known by: its id within its domain."""
    return f"{problem.domain}/{problem.id}"


def first_problems(name: str, task: Task, count: int) -> list[Problem]:
    """A domain's first training problems."""
    size = task.size("train")
    return [replace(task.problem("train", i), domain=name) for i in range(count if size is None else min(count, size))]
