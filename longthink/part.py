"""Parts: a recipe's `kind` is the name of a file, the file holds one class, the class is its own config."""

import importlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from longthink.errors import RecipeError, nearest

__all__ = ["Part", "explain", "load_part"]

NOT_KINDS = ("__init__", "base", "pool", "worker")  # what else lies in a family's folder

P = TypeVar("P", bound="Part")


class Part(BaseModel):
    """Base of every part: frozen, validated, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    def kind(self) -> str:
        """The name a recipe calls this part by."""
        return type(self).__module__.rsplit(".", 1)[1]

    @classmethod
    def kinds(cls) -> list[str]:
        """The kinds of this family of parts: the files beside the family's base.py."""
        folder = Path(inspect.getfile(cls)).parent
        return sorted(p.stem for p in folder.glob("*.py") if p.stem not in NOT_KINDS)

    @classmethod
    def find(cls, kind: str, where: str = "") -> type[Self]:
        """The class behind `kind`. Raises: RecipeError naming the kinds there are."""
        family = cls.__module__.rsplit(".", 1)[0]
        if kind not in cls.kinds():
            place = where or family.split(".")[-1]
            raise RecipeError(f"{place}: kind is {kind!r}, expected one of {', '.join(cls.kinds())}")
        module = importlib.import_module(f"{family}.{kind}")
        found = [
            c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, cls) and c.__module__ == module.__name__
        ]
        assert len(found) == 1, f"{module.__name__} must hold exactly one {cls.__name__}"
        return found[0]


def load_part(base: type[P], table: dict[str, Any], where: str = "") -> P:
    """Build the part a recipe table describes; `where` is the table's place. Raises: RecipeError for a wrong kind or field."""
    fields = dict(table)
    kind = fields.pop("kind", None)
    if not isinstance(kind, str):
        family, got = base.__module__.split(".")[-2], ", ".join(map(repr, fields)) or "nothing"
        place = where or f"a table of {family}"
        raise RecipeError(f"{place} has no `kind` (it has {got}); expected one of {', '.join(base.kinds())}")
    part = base.find(kind, where)
    try:
        return part.model_validate_json(json.dumps(fields, default=str), strict=True)
    except ValidationError as e:
        where = f"{where or base.__module__.split('.')[-2]}, kind {kind}"
        raise RecipeError("\n".join(f"{where}: {explain(error, part)}" for error in e.errors())) from None


def explain(error: Mapping[str, Any], model: type[BaseModel]) -> str:
    """One sentence for one pydantic error, naming the nearest key for an unknown one."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}; {nearest(location[-1], _keys_at(location[:-1], model))}"
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] in ("tuple_type", "list_type") and isinstance(error["input"], dict):
        how = f"write [[{key}]]" if len(location) == 1 and not issubclass(model, Part) else f"write {location[-1]} = [ ... ]"
        return f"{key} is one table; expected a list: {how}"
    said = str(error["msg"]).removeprefix("Value error, ")
    return f"{key}: {said}, got {error['input']!r}" if key else said


def _keys_at(path: list[str], model: Any) -> list[str]:
    """The keys the table at `path` may have."""
    for part in path:
        if part.isdigit():
            continue
        annotation = model.model_fields[part].annotation
        model = next((a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")), None)
        if model is None:
            return []
    return sorted(field.alias or name for name, field in model.model_fields.items())
