"""The interface of a reward: one rollout in, one verdict out, no state between calls."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal

from pydantic import Field

from longthink.part import Part
from longthink.types import Verdict

__all__ = ["BAD_GOLD", "Reward", "TextReward", "Think", "answer_region"]

Think = Literal["optional", "template", "required"]
BAD_GOLD = (ValueError, TypeError, KeyError, IndexError, ArithmeticError, SyntaxError, RecursionError, AttributeError)


class Reward(Part):
    """A verifier. It runs in worker processes under a deadline; it need not defend against hanging itself.

    A kind says where the answer stands (`extract`), how a gold is read (`read`) and what an answer is worth (`judge`).
    A response without an answer in its place scores 0; what it would have scored by a guess at its answer is kept in
    `detail["lenient"]`, never as a reward: learning the format and learning the task can be told apart by it.
    """

    answers_are_golds: ClassVar[bool] = False
    """Whether an answer can stand as a gold, so that two answers can be compared."""

    think: Think = "optional"
    deadline_s: float = Field(5.0, gt=0, description="seconds a verdict may take")

    def prepare(self) -> None:
        """Load what the first verdict would otherwise wait for; called once in each worker."""

    @abstractmethod
    def read(self, gold: Any) -> Any:
        """The gold as `judge` wants it. Raises: one of BAD_GOLD for a gold that cannot be used."""

    @abstractmethod
    def extract(self, response: str) -> str | None:
        """The answer from where it belongs, or None."""

    @abstractmethod
    def judge(self, answer: str, gold: Any) -> Verdict:
        """What an answer is worth; `gold` is what `read` returned."""

    def guess(self, response: str) -> str | None:
        """What the answer might be in a response that has none in its place: tags and boxes are not needed here."""

    def judge_guess(self, answer: str, gold: Any) -> float | None:
        """What a guessed answer is worth; cheap where `judge` may take long."""
        return self.judge(answer, gold).score

    def example(self, gold: Any) -> str | None:
        """A response this verifier must accept, made from a gold as stored; None if that cannot be made."""

    def grade(self, response: str, gold: Any) -> Verdict:
        """The verdict on one complete response. Raises nothing for any response; a bad gold is `verifier_error`."""
        try:
            expected = self.read(gold)
        except BAD_GOLD as error:
            why = f"the gold cannot be used: {type(error).__name__}: {error}"
            return Verdict(None, "verifier_error", detail={"why": why[:200], "gold": repr(gold)[:200]})
        answer = self.extract(response)
        if answer is not None:
            return self.judge(answer, expected)
        guess = self.guess(response)
        if guess is None:
            return Verdict(0.0, "no_answer")
        return Verdict(0.0, "no_answer", detail={"lenient": self.judge_guess(guess, expected), "lenient_answer": guess[:200]})


class TextReward(Reward):
    """What a response is worth by its text alone; the gold is not looked at."""

    @abstractmethod
    def score(self, response: str) -> float:
        """The value of a response, whatever the right answer is."""

    def read(self, gold: Any) -> Any:
        return None

    def extract(self, response: str) -> str | None:
        return response

    def judge(self, answer: str, gold: Any) -> Verdict:
        return Verdict(self.score(answer), "ok")


def answer_region(response: str, think: Think) -> str | None:
    """The text after the last `</think>`, or None where thinking has not ended.

    `required`: the response opens and closes its thinking; `template`: the prompt's template opened it; `optional`:
    a response that opens no thinking is all answer.

    >>> [answer_region("so </think> 7", think) for think in ("optional", "template", "required")]
    [' 7', ' 7', None]
    >>> [answer_region(text, "optional") for text in ("7", "<think> 7", "<think> 7 </think> 8 <think> 9")]
    ['7', None, None]
    """
    before, closed, after = response.rpartition("</think>")
    if "<think>" in after or (not closed and think != "optional"):
        return None
    return after if "<think>" in before or think != "required" else None
