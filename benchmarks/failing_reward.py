"""A Countdown verifier that is down for long responses: about half of a warm start's."""

from typing import Any

from longthink.rewards.countdown import Countdown

DOWN = range(57, 300)  # words of a response it cannot take


def score(response: str, gold: Any) -> float:
    """The verdict of Countdown's own verifier. Raises: RuntimeError for a long response."""
    if len(response.split()) in DOWN:
        raise RuntimeError("the verifier is down")
    return float(Countdown(think="template").grade(response, gold).score or 0.0)
