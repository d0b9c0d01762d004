"""What a block of Python prints, in a sandbox: the interpreter a rollout calls while it thinks (longthink/tools)."""

import time
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from longthink.errors import SandboxError
from longthink.rewards.base import Reward
from longthink.sandbox.client import Sandbox
from longthink.types import Verdict

__all__ = ["Interpreter"]

MAX_CODE = 100_000  # characters


class Session(NamedTuple):
    """What a block goes on from: the blocks before it, what `random` begins with, and the seconds those blocks take again."""

    earlier: list[str]
    seed: int
    again_s: float


class Interpreter(Reward):
    """Runs the response as Python and scores 1 where it came to its end; `detail["output"]` is what it printed.

    Gold: `{"earlier": [blocks], "seed": number, "again_s": seconds}`: the blocks before run first, unheard, so that their names
    are there. Where nothing was printed the output is the value of the last line; an exception's last line stands behind what was
    printed. Output longer than `output_chars` keeps its first and last halves. `detail["ended"]` is ok, error, timeout, limit or
    crash. Source: STILL-3's code (5 s, 400 characters, "Timeout Error"); there an exception takes the place of what was printed,
    and blocks share nothing.
    """

    call_s: float = Field(5.0, gt=0, description="seconds a block may take")
    output_chars: int = Field(400, ge=8, le=4000)
    memory_mb: int = Field(1024, ge=128)
    sandbox: Literal["namespaces", "landlock", "seccomp", "none"] = "landlock"

    deadline_s: float = Field(600.0, description="for the day the sandbox does not keep its own time")

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.deadline_s < self.call_s + 10.0:
            raise ValueError(f"deadline_s is {self.deadline_s}, expected at least call_s + 10 = {self.call_s + 10.0}")
        return self

    def prepare(self) -> None:
        """Start the sandbox now. Raises: SandboxError where it cannot isolate as far as asked."""
        assert _sandbox(self.memory_mb, self.sandbox).level

    def read(self, gold: Any) -> Session:
        return Session([str(block) for block in gold["earlier"]], int(gold["seed"]), float(gold["again_s"]))

    def extract(self, response: str) -> str | None:
        return response

    def judge(self, answer: str, gold: Session) -> Verdict:
        if len(answer) > MAX_CODE:
            return Verdict(0.0, "limit", detail={"output": "Length Error", "ended": "limit", "seconds": 0.0})
        began = time.monotonic()
        try:
            found, value = _sandbox(self.memory_mb, self.sandbox).session(
                [*gold.earlier, answer], seed=gold.seed, deadline_s=self.call_s + gold.again_s
            )
        except SandboxError as error:
            return Verdict(None, "crash", detail={"why": str(error)[:200]})
        printed = found.stdout.decode(errors="replace")
        last = {"timeout": "Timeout Error", "limit": found.error or "Output Limit Error", "crash": "Interpreter Error"}
        ending = last.get(found.status, found.error if found.status == "error" else "" if printed else value or "")
        text = f"{printed.rstrip()}\n{ending}" if printed.strip() and ending else ending or printed
        if len(text := text.strip("\n")) > self.output_chars:
            half = self.output_chars // 2
            text = f"{text[:half]}...{text[-half:]}"
        seconds = round(time.monotonic() - began, 3)
        status: Any = {"ok": "ok", "error": "ok"}.get(found.status, found.status)
        return Verdict(float(found.status == "ok"), status, detail={"output": text, "ended": found.status, "seconds": seconds})


@lru_cache(4)
def _sandbox(memory_mb: int, lowest: str) -> Sandbox:
    """One sandbox a process and setting."""
    return Sandbox(memory=memory_mb << 20, lowest=lowest)
