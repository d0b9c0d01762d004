"""Inject: responses continued from a phrase that leads into code, and what the interpreter made of it."""

import math
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from longthink.curation.asking import Asker, Messages, Reply
from longthink.curation.rows import Row
from longthink.curation.steps.base import Work, put
from longthink.curation.steps.distill import Distill
from longthink.part import load_part
from longthink.rewards.base import Reward
from longthink.rewards.pool import RewardPool
from longthink.rng import rng
from longthink.tools.formats import FORMATS, THOUGHT, pieces

__all__ = ["BRIDGES", "Inject", "cut"]

TURNS = ("Wait", "But", "Alternatively", "Hmm", "Moreover", "Furthermore")
BRIDGES = (
    "Wait a minute, maybe I could use some code to double-check my reasoning.",
    "Let me compute this with a few lines of Python to be sure.",
    "I could verify this step by running a short program.",
    "Hmm, it is safer to let Python do this calculation.",
    "Before going on, let me check this numerically with code.",
    "Maybe a quick script can tell whether this is right.",
)
FEWEST = 5  # parts a thought must have to be cut


class Inject(Distill):
    """Lets a model without the habit write code: its thought is cut, a phrase that leads into code is put there, and it goes on.

    Each row gets up to `rounds` such calls, a number drawn for each sample. A thought is cut before one of six words of turning
    (Wait, But, …), at a place drawn from behind its first third; the next round cuts what came behind the last output. A
    thought of fewer than five parts stays as it is, and so does one whose draw is 0: `code = "some"` drops both. The model
    must be a folder, with `settings = { tool = { … } }` for the interpreter. Kept are responses that contain code and end right.
    Source: STILL-3 4.4; its code cuts before the same words, draws 0 to 3 calls, needs five parts, and knows 14 phrases of its
    own (six of ours here); it draws code at temperature 1 and the rest at 0.6, here both are the model's.

    Example: `[[step]]` with `kind = "inject"`, `model = { path = "models/R1-Distill-32B", settings = { tool = {} } }`.
    """

    samples: int = Field(1, ge=1)
    rounds: int = Field(3, ge=1, le=6)
    bridges: tuple[str, ...] = Field(BRIDGES, min_length=1)
    code: Literal["any", "some", "none"] = Field(
        "some", description="some: only responses that call the tool and show its output"
    )

    @model_validator(mode="after")
    def _runs(self) -> "Inject":
        tool = self.model.settings.get("tool")
        if not isinstance(tool, dict) or not tool.get("run", True):
            raise ValueError(f"model.settings needs an interpreter that runs: expected tool = {{ format = {self.format!r} }}")
        return self

    def run(self, work: Work) -> None:
        reward = load_part(Reward, self.reward, f"step {self.title}: reward")
        given, numbers = work.inputs[0], work.inputs[0].numbers()
        with RewardPool(reward, work.workers) as pool, Asker(self.model, work.samples, work.seed, work.progress) as asker:
            for done, number in enumerate(numbers):
                work.progress.phase(f"{self.title}: shard {done + 1} of {len(numbers)}")
                if work.out.is_whole(number):
                    continue
                rows = given.shard(number)
                put(work.out, number, self.decided(pool, rows, self._continued(rows, asker, work)))

    def _continued(self, rows: Sequence[Row], asker: Asker, work: Work) -> list[list[Reply]]:
        """Each row's samples after their rounds."""
        prompts = [self.messages(row) for row in rows]
        found = asker.replies(prompts, self.samples, work.progress.rollouts)
        for number in range(self.rounds):
            places, asked = [], list[Messages]()
            for at, own in enumerate(found):
                for k, reply in enumerate(own):
                    if number >= int(rng(work.seed, "inject", rows[at].id, k).integers(0, self.rounds + 1)):
                        continue
                    draw = rng(work.seed, "cut", rows[at].id, k, number)
                    begun = cut(reply.text, self.format, draw)
                    if begun is not None:
                        bridge = self.bridges[int(draw.integers(len(self.bridges)))]
                        opened = f"{begun.rstrip()}\n\n{bridge}\n{FORMATS[self.format].open}"
                        places.append((at, k))
                        asked.append([*prompts[at], {"role": "prefix", "content": f"{opened}\n"}])
            for (at, k), own in zip(places, asker.replies(asked, 1, work.progress.rollouts), strict=True):
                if own:
                    found[at][k] = own[0]
        return found


def cut(text: str, format: str, draw: np.random.Generator) -> str | None:
    """The beginning of a response up to a turn of its thought behind the last output; None where it has too few parts.

    >>> parts = "a. Wait, b. But c. Hmm, d. Wait, e. But f.</think> 7"
    >>> cut(parts, "still", np.random.default_rng(0))
    'a. Wait, b. But c. Hmm, d. Wait, e. '
    """
    thought = text.partition(THOUGHT)[0]
    found = pieces(thought, FORMATS[format])
    held = "".join(piece.text for piece in found[:-1]) if found[-1].source == "policy" else thought
    parts = re.split(rf"(?=\b(?:{'|'.join(TURNS)})\b)", thought[len(held) :])
    parts = [part for part in parts if part]
    if len(parts) < FEWEST:
        return None
    place = int(draw.integers(math.ceil(len(parts) / 3), len(parts)))
    return held + "".join(parts[:place])
