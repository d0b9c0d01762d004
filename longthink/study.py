"""The `[study]` of a recipe: runs that are compared."""

from typing import Annotated, Any

from pydantic import Field

from longthink.tables import Table

__all__ = ["StudySettings"]


class StudySettings(Table):
    """Runs of one recipe that differ in some settings: what they are compared for, and how (sweep.py)."""

    claim: str = Field("", description="what is to be seen, with its source")
    seeds: int = Field(3, ge=1)
    seeded: tuple[str, ...] = Field(("seed",), description="keys that get a run's seed, as `{seed}` in texts")
    problems: int = Field(256, ge=1, description="of the test split, for each run's last weights, at temperature 1")
    samples: int = Field(4, ge=1)
    window: int = Field(0, ge=0, description="response tokens of the test; 0 takes the widest of the recipe as it is")
    reward: dict[str, Any] = Field({}, description="the test's verifier, for all domains; empty: the run's own")
    arms: dict[Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")], dict[str, Any]] = Field(
        min_length=1, description="by name, what an arm changes; the first is what others are compared with"
    )
