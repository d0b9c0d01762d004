"""A Countdown verifier that is down for every answer with a multiplication: about half of them."""

from typing import Any

from longthink.rewards.countdown import Countdown


def score(response: str, gold: Any) -> float:
    """The verdict of Countdown's own verifier. Raises: RuntimeError for an answer with a multiplication."""
    if "*" in response.rpartition("</think>")[2]:
        raise RuntimeError("the verifier is down")
    return float(Countdown(think="template").grade(response, gold).score or 0.0)
