"""The interface of a task: numbered problems in splits that never share one."""

from abc import abstractmethod
from collections.abc import Sequence

from longthink.errors import TaskError
from longthink.part import Part
from longthink.tools.formats import Piece
from longthink.types import Problem

__all__ = ["Task"]


class Task(Part):
    """A source of problems. `problem(split, index)` is pure: the data cursor is just an integer."""

    @abstractmethod
    def problem(self, split: str, index: int) -> Problem:
        """Problem `index` of `split`; an endless task wraps or generates for ever."""

    @abstractmethod
    def size(self, split: str) -> int | None:
        """How many distinct problems the split holds; None when generated without end."""

    def trace(self, problem: Problem, draw: int) -> str | Sequence[Piece]:
        """A teacher's response for supervised fine-tuning: text, or pieces of which only the policy's are learnt.

        Raises: TaskError where there is no teacher.
        """
        raise TaskError(f"task kind {type(self).__module__.split('.')[-1]} has no teacher; engine.kind = 'teacher' needs one")

    def gold_response(self, problem: Problem) -> str | None:
        """A response the task's verifier must accept, used by `check`; None where the task knows nothing but the gold."""
