"""The data source: a cursor over a task's training problems."""

import json
from pathlib import Path

from longthink import storage
from longthink.errors import TaskError
from longthink.folder import Tokenizer
from longthink.tables import RolloutSettings
from longthink.tasks.base import Task
from longthink.types import Ints, Problem

__all__ = ["DataSource", "prompt_ids"]


def prompt_ids(tokenizer: Tokenizer, problem: Problem, settings: RolloutSettings) -> Ints | None:
    """The prompt's tokens; None when it is too long and the recipe drops such prompts.

    Raises: TaskError for a prompt that is too long and must not be dropped.
    """
    ids = tokenizer.prompt_ids(problem)
    if len(ids) <= settings.max_prompt_tokens:
        return ids
    if settings.long_prompts == "drop":
        return None
    raise TaskError(
        f"problem {problem.id}: its prompt has {len(ids)} tokens; rollout.max_prompt_tokens and the positions the widest window "
        f'leaves allow {settings.max_prompt_tokens}. Raise the one or lower the other, or set rollout.long_prompts = "drop"'
    )


class DataSource:
    """Hands out problems in order; `cursor` counts those drawn and numbers the groups for ever."""

    def __init__(self, task: Task, tokenizer: Tokenizer, settings: RolloutSettings) -> None:
        self.task, self.tokenizer, self.settings = task, tokenizer, settings
        self.cursor = 0
        self.dropped = 0
        if task.size("train") == 0:
            raise TaskError("the training split is empty; fix `task` in the recipe")

    def draw(self, count: int) -> list[tuple[int, Problem, Ints]]:
        """The next `count` problems that fit, each with its group id and prompt tokens."""
        drawn: list[tuple[int, Problem, Ints]] = []
        skipped = 0
        while len(drawn) < count:
            group, problem = self.cursor, self.task.problem("train", self.cursor)
            self.cursor += 1
            ids = prompt_ids(self.tokenizer, problem, self.settings)
            if ids is not None:
                drawn.append((group, problem, ids))
                continue
            self.dropped, skipped = self.dropped + 1, skipped + 1
            if skipped > 1000 + (self.task.size("train") or 0):
                raise TaskError(
                    f"every prompt is longer than rollout.max_prompt_tokens = {self.settings.max_prompt_tokens}; raise it"
                )
        return drawn

    def save(self, folder: Path) -> None:
        state = {"cursor": self.cursor, "dropped": self.dropped}
        storage.write_bytes(folder / "data.json", json.dumps(state).encode())

    def load(self, folder: Path) -> None:
        state = json.loads((folder / "data.json").read_text())
        self.cursor, self.dropped = state["cursor"], state["dropped"]
