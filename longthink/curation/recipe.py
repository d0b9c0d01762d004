"""A curation recipe: one TOML file of sources and steps, validated before anything is read."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from longthink.curation.steps.base import Step
from longthink.errors import RecipeError, nearest
from longthink.part import explain, load_part
from longthink.recipe import override, read_table
from longthink.tables import Table

__all__ = ["Curation", "Output", "Source", "load_curation"]


class Source(Table):
    """Where rows come from: files here, a data set of the Hugging Face hub, or a generator; one of the three.

    Example: `[[source]]` with `name = "math"`, `path = "data/math.jsonl"`, `licence = "MIT"`.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    path: str = Field("", description="a file, or a folder of files that are read in the order of their names")
    hub: str = Field("", description="a data set of the hub as owner/name, fetched once")
    revision: str = Field("main", description="of the data set: a branch, a tag or a commit")
    files: str = Field("*", description="which files of a folder or a data set, by a pattern")
    generate: dict[str, Any] = Field(
        {}, description="a task of longthink/tasks that makes problems, or `puzzles`; and `rows`, how many"
    )
    traces: int = Field(
        0, ge=0, description="with generate: responses of the task's own teacher that each problem gets, to fine-tune on"
    )
    question: str = Field("", description="column, dotted for a nested one; empty looks for the usual names")
    answer: str = Field("", description="likewise; a row may be without one until a step finds it")
    solution: str = Field("solution", description="likewise, or a text with {column} in it; a row may be without one")
    id: str = Field("", description="column of the source's own ids: a second row of one is rejected; empty: rows are numbered")
    suffix: str = Field("", description="an instruction that questions carry behind them, taken off where it stands")
    keep: tuple[str, ...] = Field((), description="columns that stay with the row")
    where: dict[str, str] = Field({}, description="only rows whose columns have these values, as text; others are rejected")
    licence: str = Field("", description="what it says of itself; it stays with every row")
    limit: int = Field(0, ge=0, description="use only the first rows; 0 for all")
    max_chars: int = Field(100_000, ge=1, description="of a question, an answer and a solution each; longer rows are rejected")
    paper: int = Field(0, ge=0, description="rows the paper reports, shown beside ours")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if bool(self.path) + bool(self.hub) + bool(self.generate) != 1:
            raise ValueError("expected one of path, hub and generate")
        if self.traces and (not self.generate or self.generate.get("kind") == "puzzles"):
            raise ValueError("traces are those of a generated task with a teacher, such as countdown")
        rows = self.generate.get("rows")
        if self.generate and (not isinstance(rows, int) or isinstance(rows, bool) or rows < 1):
            raise ValueError("generate needs `rows`, how many problems to make: a whole number from 1")
        return self


class Output(Table):
    """What is written at the end, in columns that longthink, verl and TRL read."""

    formats: tuple[Literal["parquet", "jsonl"], ...] = Field(("parquet", "jsonl"), min_length=1)
    prompt_suffix: str = Field("", description="put behind the question in the prompt column, one space between")
    apart: bool = Field(False, description="a file of each source, SPLIT.SOURCE.parquet: what has a verifier of its own")
    ability: str = Field("math", description="of verl's column of that name, where a row's `kept` has none")


class Curation(Table):
    """A complete curation. Each step takes what the one before it kept unless its `from` says otherwise; the last is the data."""

    name: str = Field(min_length=1)
    seed: int = Field(0, ge=0)
    source: tuple[Source, ...] = Field(min_length=1)
    step: tuple[dict[str, Any], ...] = Field((), description="tables of longthink/curation/steps, in order")
    output: Output = Output()

    @cached_property
    def steps(self) -> list[tuple[Step, list[str]]]:
        """The steps with the names of their inputs. Raises: RecipeError for one that is wrong."""
        known, made = [source.name for source in self.source], []
        sources = set(known)
        for number, table in enumerate(self.step):
            step = load_part(Step, table, f"step.{number}")
            wanted = step.wants(known[-1])
            for name in wanted:
                plain = name.removesuffix(".rejected")
                if plain not in known:
                    raise RecipeError(f"step.{number} ({step.title}) takes from {name!r}; {nearest(plain, known)}")
                if plain in sources and plain != name:
                    raise RecipeError(
                        f"step.{number} ({step.title}) takes from {name!r}: what a source drops is no question; take out "
                        "its `where`, or take from what a step has dropped"
                    )
            if odd := [name for name in getattr(step, "prefer", ()) if name not in sources]:
                raise RecipeError(f"step.{number} ({step.title}) prefers {odd[0]!r}; {nearest(odd[0], sorted(sources))}")
            if step.title in known:
                raise RecipeError(f"step.{number}: {step.title!r} is a name twice; give it another `name`")
            known.append(step.title)
            made.append((step, wanted))
        taken = {name.removesuffix(".rejected") for _, wanted in made for name in wanted}
        idle = [source.name for source in self.source if source.name not in taken]
        if idle and (made or len(self.source) > 1):
            raise RecipeError(
                f"no step takes from source {idle[0]!r}; name it in a step's `from`, in the `take` of a `mix`, or take it out"
            )
        return made


def load_curation(path: Path, overrides: Sequence[str] = ()) -> Curation:
    """Read and validate a curation recipe. Raises: RecipeError with one clear message."""
    table = read_table(path)
    for text in overrides:
        override(table, text)
    try:
        found = Curation.model_validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as e:
        raise RecipeError("\n".join(f"{path}: {explain(error, Curation)}" for error in e.errors())) from None
    names = [source.name for source in found.source]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(f"{path}: two sources are called {twice[0]!r}; give one another name")
    try:
        found.steps  # noqa: B018 (built now, so that a wrong one is told before anything starts)
    except RecipeError as e:
        raise RecipeError(f"{path}: {e}") from None
    return found
