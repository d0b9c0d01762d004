"""Metrics as sums and counts, divided once, so their value does not depend on how a batch was cut."""

import torch

__all__ = ["ALIASES", "Sums", "aliased"]

ALIASES = {
    "verl": {
        "reward/mean": "critic/rewards/mean",
        "length/mean": "response_length/mean",
        "length/max": "response_length/max",
        "length/min": "response_length/min",
        "length/clip_ratio": "response_length/clip_ratio",
        "policy/entropy/mean": "actor/entropy",
        "loss/policy/sum": "actor/pg_loss",
        "loss/clip_fraction/mean": "actor/pg_clipfrac",
        "learner/kl_k1_old/mean": "actor/ppo_kl",
        "loss/kl/mean": "actor/kl_loss",
        "learner/grad_norm/mean": "actor/grad_norm",
        "learner/lr/mean": "actor/lr",
        "time/step_s": "timing_s/step",
        "time/rollout_s": "timing_s/gen",
        "time/update_s": "timing_s/update_actor",
    },
    "trl": {
        "reward/mean": "reward",
        "reward/group_std/mean": "reward_std",
        "group/constant_share": "frac_reward_zero_std",
        "length/mean": "completions/mean_length",
        "length/max": "completions/max_length",
        "length/min": "completions/min_length",
        "length/clip_ratio": "completions/clipped_ratio",
        "policy/entropy/mean": "entropy",
        "loss/kl/mean": "kl",
        "loss/clip_fraction/mean": "clip_ratio/region_mean",
        "learner/grad_norm/mean": "grad_norm",
        "learner/lr/mean": "learning_rate",
        "mismatch/logprob_gap/mean": "sampling/sampling_logp_difference/mean",
        "mismatch/logprob_gap/max": "sampling/sampling_logp_difference/max",
        "tokens/generated": "num_tokens",
        "time/step_s": "step_time",
    },
}


class Sums:
    """Named sums with their counts. Tensors are added without leaving the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor | float] = {}
        self._counts: dict[str, float | None] = {}
        self._largest: set[str] = set()

    def add(self, key: str, value: torch.Tensor | float, count: float | None, *, largest: bool = False) -> None:
        """Add to a sum; `count` None means the sum itself is the metric, `largest` keeps the maximum instead."""
        if isinstance(value, torch.Tensor):
            value = value.detach().to(torch.float64)
        before = self._sums.get(key)
        self._sums[key] = value if before is None else max(before, value) if largest else before + value
        old = self._counts.get(key)
        self._counts[key] = None if count is None else count + (old or 0.0)
        if largest:
            self._largest.add(key)

    def copy(self) -> "Sums":
        """The sums as they are now."""
        made = Sums()
        made._sums, made._counts, made._largest = dict(self._sums), dict(self._counts), set(self._largest)
        return made

    def become(self, other: "Sums") -> None:
        """Be as another was."""
        self._sums, self._counts, self._largest = other._sums, other._counts, other._largest

    def settle(self) -> "Sums":
        """The same sums as plain numbers, fit to cross a process boundary."""
        self._sums = {key: float(value) for key, value in self._sums.items()}
        return self

    def merge(self, other: "Sums") -> None:
        """Add another process's sums; the caller keeps the order of processes."""
        for key, value in other._sums.items():
            self.add(key, value, other._counts[key], largest=key in other._largest)

    def means(self) -> dict[str, float]:
        """Every metric divided by its count; a count of zero gives 0."""
        divisors = {key: 1.0 if count is None else max(count, 1.0) for key, count in self._counts.items()}
        return {key: float(value) / divisors[key] for key, value in self._sums.items()}


def aliased(row: dict[str, object], projects: tuple[str, ...]) -> dict[str, object]:
    """The row with the same values added under other projects' names.

    >>> aliased({"reward/mean": 0.5}, ("trl",))
    {'reward/mean': 0.5, 'reward': 0.5}
    """
    more = {theirs: row[ours] for project in projects for ours, theirs in ALIASES[project].items() if ours in row}
    return row | more
