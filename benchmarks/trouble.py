"""`make study NAME=trouble_mini` with one more trouble than a recipe can make: a reference policy that turns to noise.

The arms `reference` and `reference_steered` of recipes/trouble_mini.toml add noise to the reference before step 5.
"""

from typing import Any

import torch

from longthink.settings import Settings
from longthink.train import Training

__all__ = ["Troubled"]

STEP, NOISE = 5, 0.5  # of each tensor's own standard deviation


class Troubled(Training):
    """A training whose reference is corrupted before step 5, where the recipe says that it is to be."""

    def train_step(self, step: int, settings: Settings) -> dict[str, Any]:
        corrupted = step == STEP and self.recipe.name.endswith("corrupted")
        if corrupted and (reference := self.cluster.learner.reference) is not None:
            noise = torch.Generator().manual_seed(self.recipe.seed)
            with torch.no_grad():
                for weight in reference.parameters():
                    weight += NOISE * weight.std(correction=0) * torch.randn(weight.shape, generator=noise)
        return super().train_step(step, settings)
