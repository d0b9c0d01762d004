"""The `[tool]` table of a recipe."""

from typing import Literal

from pydantic import Field

from longthink.tables import Table

__all__ = ["ToolSettings"]


class ToolSettings(Table):
    """A Python interpreter inside the thinking (longthink/tools): code in a response runs, and its output goes on in it.

    What is written there counts as part of the response, and in the window; it is in no loss. Source: STILL-3 4.4.
    """

    format: Literal["still", "tora", "tags"] = Field(
        "still", description="how a call and its output are written (longthink/tools/formats.py)"
    )
    run: bool = Field(True, description="false: code is written and nothing runs it, STILL-3's ablation")
    calls: int = Field(4, ge=1, le=64, description="of a rollout; code behind the last of them is text like any other")
    call_s: float = Field(5.0, gt=0, description="seconds of the clock a block may take; earlier ones, when they run again, too")
    total_s: float = Field(30.0, gt=0, description="of a rollout's calls, earlier blocks not counted; then nothing runs any more")
    output_chars: int = Field(400, ge=8, le=4000, description="of a call; the middle of longer output is left out")
    output_tokens: int = Field(4096, ge=1, description="of a rollout's outputs, after which nothing runs any more")
    patience_s: float = Field(
        2.0,
        ge=0,
        description="how long the rollouts beside it wait for a call that runs, or whose room calls take that have run as long; "
        "then they end without it, and it goes on after them",
    )
    learn_output: bool = Field(
        False, description="fine-tuning: the output in a trace is learnt like the rest, as STILL-3's code does"
    )
    at_once: int = Field(0, ge=0, le=256, description="calls that run side by side; 0: two a core")
    memory_mb: int = Field(1024, ge=128)
    sandbox: Literal["namespaces", "landlock", "seccomp", "none"] = Field(
        "landlock", description="the isolation asked for at least"
    )
