"""Requests by hand: checked against the run they are for, then left in its folder for it to take after its next step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longthink import storage
from longthink.errors import RecipeError
from longthink.fit import refuse_misfit
from longthink.folder import ModelFolder
from longthink.run import Run
from longthink.settings import fold, in_force
from longthink.shape import Parts

__all__ = ["ask"]


def ask(folder: Path, action: Mapping[str, Any]) -> None:
    """Leave a request for a run, live or paused. Raises: LongthinkError for what could not be done in it."""
    run = Run.open(folder, None)
    events = storage.read_lines(folder / "events.jsonl")
    waiting = storage.read_lines(folder / "requests.jsonl")[sum(e["kind"] == "hand" for e in events) :]
    settings = fold(run.recipe, events)
    if action["do"] == "next" and settings.stage + 1 >= len(run.recipe.stage):
        raise RecipeError(f"{folder} is in its last stage; there is no next one")
    if action["do"] == "rollback" and not settings.recipe.validation.every:
        raise RecipeError(f"{folder} has no validation, so there is no best checkpoint to go back to")
    asked = [{"step": 0, "action": request} for request in (*waiting, action)]
    model = Path(run.recipe.model.path)
    for stage in range(settings.stage, len(run.recipe.staged)):
        made = in_force(run.recipe, stage, [*events, *asked])
        Parts(made.shape)
        if model.exists():
            refuse_misfit(made, ModelFolder(str(model)).config)
    storage.append_lines(folder / "requests.jsonl", [dict(action)])
