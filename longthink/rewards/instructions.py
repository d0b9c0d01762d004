"""Instructions: what a response must look like, checked by IFEval's 25 rules."""

import json
from typing import Any, Literal, NamedTuple

from longthink.ifeval import CHECKS, arguments, detect_language
from longthink.rewards.base import Reward, answer_region
from longthink.types import Verdict

__all__ = ["Instruction", "Instructions"]

MAX_EXTRACTED = 1000  # characters kept of an answer


class Instruction(NamedTuple):
    """One instruction of a gold: its id and what its check is called with."""

    id: str
    kwargs: dict[str, Any]


class Instructions(Reward):
    """1 for an answer that follows every instruction and 0 otherwise, or the share of those followed (`credit`).

    Gold: `{"instruction_id_list": [...], "kwargs": [...]}`, or the JSON of it, one object of arguments for each id; empty
    arguments are dropped. The answer is the text after the last `</think>` and the blanks behind it. The checks are the strict
    ones: the text as it stands, no second try without its first line, its last line or its stars. `fraction` is smoother to
    learn from; the benchmark's prompt-level accuracy is the mean of `all`. Source: see `longthink.ifeval`.
    """

    credit: Literal["fraction", "all"] = "all"

    def prepare(self) -> None:
        """Load the profiles of languages, which takes most of a second."""
        detect_language("The profiles of all languages are read when the first text is looked at.")

    def read(self, gold: Any) -> list[Instruction]:
        gold = json.loads(gold) if isinstance(gold, str) else gold
        if not isinstance(gold, dict) or not {"instruction_id_list", "kwargs"} <= set(gold):
            raise TypeError('expected {"instruction_id_list": [...], "kwargs": [...]}')
        if len(gold["instruction_id_list"]) != len(gold["kwargs"]):
            raise ValueError(f"{len(gold['instruction_id_list'])} instructions and {len(gold['kwargs'])} tables of arguments")
        pairs = zip(gold["instruction_id_list"], gold["kwargs"], strict=True)
        instructions = [Instruction(name, arguments(name, kwargs)) for name, kwargs in pairs]
        if not instructions:
            raise ValueError("no instructions")
        return instructions

    def extract(self, response: str) -> str | None:
        region = answer_region(response, self.think)
        if region is None or not region.strip():
            return None
        return region.lstrip() if "</think>" in response else region

    def guess(self, response: str) -> str | None:
        return response.rpartition("</think>")[2].strip().removeprefix("<think>").strip() or None

    def judge(self, answer: str, gold: list[Instruction]) -> Verdict:
        verdicts = [CHECKS[one.id](answer, **one.kwargs) for one in gold]
        followed = sum(verdicts)
        score = followed / len(verdicts) if self.credit == "fraction" else float(all(verdicts))
        detail = {"per_instruction": verdicts, "followed": followed, "instructions": len(verdicts)}
        return Verdict(score, "ok", answer[:MAX_EXTRACTED], detail)
