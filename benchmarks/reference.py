"""Writes docs/recipe.md, every key of a recipe, from the classes that read it. Usage: make reference."""

import json
import re
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from longthink.control.base import Trigger
from longthink.curation.asking import Asking
from longthink.curation.recipe import Curation, Output, Source
from longthink.curation.steps.base import Step
from longthink.part import Part
from longthink.prompts import PROMPTS
from longthink.recipe import Recipe
from longthink.rewards.base import Reward
from longthink.shaping.base import Shape
from longthink.study import StudySettings
from longthink.tasks.base import Task

OUT = Path(__file__).resolve().parents[1] / "docs" / "recipe.md"
PLACES = "`[reward]`, `reward` of a `[[domain]]`, `probe.reward`, or a `[[shape]]`; [rewards.md](rewards.md) describes them."
PARTS = "`[[shape]]` by `kind`, with `name` (the kind), and `weight` (1.0) or `gate = true`; verifiers may be parts too."
FAMILIES: dict[str, tuple[type[Part], str]] = {
    "Tasks": (Task, "`[task]`, or `task` of a `[[domain]]`, by `kind`."),
    "Verifiers": (Reward, PLACES),
    "Parts of a reward": (Shape, PARTS),
    "Steps of a curation": (Step, "`[[step]]` of `longthink curate`, by `kind`; [curation.md](curation.md)."),
    "Triggers": (Trigger, "`until` of a `[[stage]]`, by `kind`."),
}


def kind_of(field: FieldInfo) -> str:
    """The values a field takes, in words."""
    text = str(field.annotation).replace("typing.", "").replace("longthink.tables.", "")
    if text.startswith("Literal"):
        return " \\| ".join(f"`{json.dumps(v)}`" for v in field.annotation.__args__)  # type: ignore[union-attr]
    text = re.sub(r"Annotated\[(\w+), FieldInfo\(.*?metadata=\[(.*?)\]\)\]", lambda m: m[1] + limit_of(m[2]), text)
    for name in ("str", "int", "float", "bool"):
        text = text.replace(f"<class '{name}'>", name)
    text = re.sub(r"tuple\[(.*), \.\.\.\]", r"list of \1", text).replace("tuple[", "[").replace("Literal", "")
    text = re.sub(r"longthink\.[a-z_.]+\.", "", text)
    text = text.replace("dict[str, Any]", "table").replace(" | None", "").replace("<class '", "").replace("'>", "")
    limits = [f"{sign} {getattr(m, name):g}" for m in field.metadata for name, sign in LIMITS if hasattr(m, name)]
    return " ".join([text.replace("|", "\\|"), *limits])


def limit_of(text: str) -> str:
    """The bound inside the text of an annotation."""
    found = re.fullmatch(r"(Ge|Gt|Le|Lt)\(\w+=(.*)\)", text)
    return f" {dict(Ge='≥', Gt='>', Le='≤', Lt='<')[found[1]]} {found[2]}" if found else ""


LIMITS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))


def default_of(field: FieldInfo) -> str:
    """A field's default as TOML has it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, str) and "\n" in value:
        return "a text of ours"
    return "" if value is None or isinstance(value, BaseModel) else f"`{json.dumps(value, default=str)}`"


def rows(model: type[BaseModel], skip: set[str]) -> list[str]:
    found = ["| key | values | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if name not in skip:
            found.append(f"| `{field.alias or name}` | {kind_of(field)} | {default_of(field)} | {field.description or ''} |")
    return found


def nested(field: FieldInfo) -> type[BaseModel] | None:
    """The table a field holds, alone, in a list, or optional."""
    candidates = (field.annotation, *getattr(field.annotation, "__args__", ()))
    return next((a for a in candidates if isinstance(a, type) and issubclass(a, BaseModel)), None)


def about(model: type[BaseModel]) -> str:
    """The first paragraph of what a class says of itself."""
    return (model.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")


def section(title: str, at: str, table: type[BaseModel]) -> list[str]:
    """A table with its keys, then the tables inside it."""
    inside = {name: inner for name, field in table.model_fields.items() if (inner := nested(field))}
    lines = ["", title, "", (table.__doc__ or "").strip().replace("\n    ", " "), "", *rows(table, set(inside))]
    for name, inner in inside.items():
        many = "tuple" in str(table.model_fields[name].annotation)
        said = table.model_fields[name].description
        lines += section(f"### `{at}.{name}`{', a list of tables' * many}" + (f": {said}" if said else ""), f"{at}.{name}", inner)
    return lines


def page() -> str:
    lines = [
        "# Every key of a recipe",
        "",
        "Written by `make reference` from the classes that read recipes. A recipe is one TOML file; `--set a.b=c` changes a key, "
        "`--set stage.0.rollout.window=64` reaches into a list, counted from 0.",
        "",
        "## Top level",
        "",
    ]
    tables = {name: table for name, field in Recipe.model_fields.items() if (table := nested(field))}
    lines += rows(Recipe, set(tables))
    for name, table in tables.items():
        many = "tuple" in str(Recipe.model_fields[name].annotation)
        lines += section(f"## `[[{name}]]`" if many else f"## `[{name}]`", name, table)
    lines += section("## `[study]`", "study", StudySettings)
    for title, (family, said) in FAMILIES.items():
        lines += ["", f"## {title}", "", said]
        common: set[str] = set(family.model_fields)
        if common:
            lines += ["", "All kinds:", "", *rows(family, set())]
        for kind in family.kinds():
            part = family.find(kind)
            lines += ["", f"### `{kind}`", "", about(part), ""]
            if set(part.model_fields) - common:
                lines += rows(part, common)
    lines += ["", "## Prompts", "", "`prompt` of a file task: " + ", ".join(f"`{name}`" for name in PROMPTS) + "."]
    lines += ["", "## Curation", "", "A recipe of `longthink curate`; [curation.md](curation.md) describes it.", ""]
    inside = {"source": Source, "output": Output}
    lines += rows(Curation, set(inside))
    for name, table in inside.items():
        lines += ["", f"### `[[{name}]]`" if name == "source" else f"### `[{name}]`", "", about(table), "", *rows(table, set())]
    lines += ["", "### `model` of a step that asks one", "", about(Asking), "", *rows(Asking, set())]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def main() -> None:
    OUT.write_text(page())
    print(f"{OUT}: {page().count(chr(10))} lines")


if __name__ == "__main__":
    main()
