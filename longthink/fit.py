"""Whether a recipe fits a model: the positions its windows and prompts need."""

from longthink.errors import RecipeError
from longthink.model import ModelConfig
from longthink.recipe import Recipe
from longthink.tables import RolloutSettings

__all__ = ["prompt_limits", "refuse_misfit"]


def refuse_misfit(recipe: Recipe, config: ModelConfig) -> None:
    """Refuse a window the model has no positions for, before anything is loaded."""
    widest = max(recipe.last_window, *(made.validation.widest for made in recipe.staged))
    if widest >= config.max_positions:
        raise RecipeError(
            f"the widest window is {widest} tokens, {recipe.model.path} has {config.max_positions} positions for prompt and "
            "response together; lower rollout.window, its cycle and the stages' windows"
        )


def prompt_limits(recipe: Recipe, config: ModelConfig) -> RolloutSettings:
    """The recipe's prompt rules, tightened so that a prompt and the widest window fit the model's positions."""
    room = config.max_positions - max(recipe.last_window, *(made.validation.widest for made in recipe.staged))
    return recipe.rollout.model_copy(update={"max_prompt_tokens": min(recipe.rollout.max_prompt_tokens, room)})
