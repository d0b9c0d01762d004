"""Protocols as data files: how many samples, how they are drawn, what is put around a question, and how answers are read."""

import json
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longthink.errors import TaskError, nearest

__all__ = ["Domain", "Protocol", "protocol_names", "read_protocol"]

Domain = Literal["math", "code", "stem", "logic", "instructions"]
FOLDER = Path(__file__).parent / "protocols"


class Protocol(BaseModel):
    """One protocol's data file. Fields under `math` are the task's and the verifier's where a benchmark is of mathematics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    samples: int = Field(16, ge=1)
    until: float = Field(0.0, ge=0, lt=0.5, description="half the width of the interval over samples to reach; 0: no")
    temperature: float = Field(0.6, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    window: int = Field(32768, ge=1)
    truncated: Literal["zero", "as_graded"] = "zero"
    task: dict[Domain, dict[str, Any]] = {}
    reward: dict[Domain, dict[str, Any]] = {}

    def of(self, domain: Domain) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of task and verifier it sets for a domain."""
        return self.task.get(domain, {}), self.reward.get(domain, {})


def protocol_names() -> list[str]:
    """The protocols that come with longthink."""
    return sorted(p.stem for p in FOLDER.glob("*.toml"))


def read_protocol(name: str) -> Protocol:
    """A protocol of ours by its name, or that of a TOML file. Raises: TaskError for one that is not there or cannot be used."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise TaskError(f"--protocol {name}: no such file, and {nearest(name, protocol_names())}")
    try:
        return Protocol.model_validate_json(json.dumps(tomllib.loads(path.read_text())), strict=True)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise TaskError(f"{path}: cannot be read ({e}); expected a protocol's TOML file") from None
    except ValidationError as e:
        errors = (f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in e.errors())
        raise TaskError(f"{path}: not a protocol: {'; '.join(errors)}") from None
