"""No verifier: for fine-tuning on responses whose answers nobody grades."""

from longthink.rewards.base import TextReward

__all__ = ["Nothing"]


class Nothing(TextReward):
    """0 for every response; the gold is not looked at. Example: `longthink sft` of a recipe without `[reward]`."""

    def score(self, response: str) -> float:
        return 0.0
