"""A recipe: one TOML file, one run. Validated before anything starts; the resolved copy lies beside the run."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from longthink.contradictions import contradiction
from longthink.errors import RecipeError, nearest
from longthink.part import explain
from longthink.staging import CHANGEABLE, Rule, Stage
from longthink.study import StudySettings
from longthink.tables import (
    MOVING,
    AdvantageSettings,
    BudgetSettings,
    CheckpointSettings,
    ClusterSettings,
    DomainSettings,
    EngineSettings,
    LearnerSettings,
    LoraSettings,
    LossSettings,
    ModelSettings,
    PoolSettings,
    ProbeSettings,
    ReferenceSettings,
    RolloutSettings,
    SelectionSettings,
    Table,
    ValidationSettings,
)
from longthink.tools.settings import ToolSettings

__all__ = ["Recipe", "load_recipe", "load_study", "override", "parse_recipe", "profiles", "read_table"]


FIXED = {
    "rollout": {"max_prompt_tokens", "long_prompts"},
    "learner": {"checkpoint_layers"},
    "validation": {"sets"},
}  # read once, at the start


class Recipe(Table):
    """A complete run. Parts that are chosen by `kind` stay tables here and are built by `load_part`."""

    name: str = Field(min_length=1)
    seed: int = Field(0, ge=0)
    model: ModelSettings
    cluster: ClusterSettings = ClusterSettings()
    task: dict[str, Any] = Field({}, description="where problems come from (longthink/tasks)")
    reward: dict[str, Any] = Field({}, description="their verifier (longthink/rewards)")
    domain: tuple[DomainSettings, ...] = Field((), description="a mixture, in place of task and reward")
    pools: PoolSettings | None = None
    lora: LoraSettings | None = None
    workers: int = Field(2, ge=1, description="verifier processes")
    reward_servers: tuple[str, ...] = Field((), description="host:port of `longthink serve-rewards`; empty grades here")
    engine: EngineSettings = EngineSettings()
    tool: ToolSettings | None = None
    rollout: RolloutSettings = RolloutSettings()
    shape: tuple[dict[str, Any], ...] = Field((), description="parts of the reward (longthink/shaping); empty: the verdict alone")
    selection: SelectionSettings = SelectionSettings()
    advantage: AdvantageSettings = AdvantageSettings()
    reference: ReferenceSettings = ReferenceSettings()
    loss: LossSettings = LossSettings()
    learner: LearnerSettings = LearnerSettings()
    validation: ValidationSettings = ValidationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    budget: BudgetSettings = BudgetSettings()
    probe: ProbeSettings = ProbeSettings()
    stage: tuple[Stage, ...] = ()
    window: Literal["first", "auto"] = Field(
        "first", description="auto: begin in the stage of the window the analysis recommends"
    )
    rule: tuple[Rule, ...] = ()
    tensorboard: bool = False
    aliases: tuple[Literal["verl", "trl"], ...] = Field((), description="also log under these projects' names")
    max_constant_steps: int = Field(20, ge=1, description="steps in a row without one mixed group before the run stops")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if why := contradiction(self):
            raise ValueError(why)
        return self

    @property
    def staged(self) -> tuple["Recipe", ...]:
        """What is in force in each stage, as a recipe without stages and rules; one of them where it has no stages."""
        made: list[Recipe] = []
        for index, stage in enumerate(self.stage):
            before = made[-1] if made else self.model_copy(update={"stage": (), "rule": (), "window": "first"})
            try:
                made.append(before.changed(stage.changes))
            except ValueError as e:
                raise ValueError(f"stage.{index}: {e}") from None
        return tuple(made) or (self.model_copy(update={"rule": ()}),)

    def changed(self, changes: Mapping[str, Any]) -> "Recipe":
        """The recipe with some keys of its tables changed, checked as any other.

        A window, a cycle and a signal take each other away, domains are named by their names, `shape` takes the place of all
        parts there were.
        Raises: ValueError that names what is wrong.
        """
        table = self.model_dump(mode="json")
        for name, change in changes.items():
            if name not in CHANGEABLE:
                raise ValueError(f"{name} cannot change in a run; expected keys of {', '.join(CHANGEABLE)}")
            if name == "shape":
                table["shape"] = change
                continue
            if not isinstance(change, Mapping):
                raise ValueError(f"{name} is {change!r}, expected a table of keys")
            if fixed := sorted(FIXED.get(name, set()) & change.keys()):
                raise ValueError(f"{name}.{fixed[0]} cannot change in a run")
            if name == "domain":
                domains = {d["name"]: d for d in table["domain"]}
                for domain, keys in change.items():
                    if domain not in domains:
                        raise ValueError(f"domain: {domain!r} is no domain; {nearest(domain, list(domains))}")
                    if not isinstance(keys, Mapping) or keys.keys() - {"weight"}:
                        raise ValueError(f"domain.{domain} is {keys!r}; only a domain's weight can change")
                    domains[domain] |= keys
            else:
                table[name] |= (_one_window(change) if name == "rollout" else {}) | dict(change)
        try:
            return Recipe.model_validate_json(json.dumps(table, default=str), strict=True)
        except ValidationError as e:
            raise ValueError("; ".join(explain(error, Recipe) for error in e.errors())) from None

    @property
    def domains(self) -> tuple[DomainSettings, ...]:
        """The mixture's domains; a recipe with one task has one, without a name."""
        return self.domain or (DomainSettings(task=self.task, reward=self.reward),)

    @property
    def graded(self) -> bool:
        """Whether anything is: fine-tuning may go without a verifier."""
        return any(domain.reward.get("kind") != "none" for domain in self.domains)

    @property
    def last_window(self) -> int:
        """The widest window any stage may reach."""
        return max(r.rollout.widest for r in self.staged)


def _one_window(change: Mapping[str, Any]) -> dict[str, None]:
    """What a change of the window takes away: the cycle or the signal in force."""
    named = MOVING & change.keys()
    return dict.fromkeys(key for key in ("cycle", "signal") if named and key not in named)


def load_recipe(path: str | Path, overrides: Sequence[str] = (), arm: str = "", on: str = "", engine: str = "") -> Recipe:
    """Read, override and validate a recipe, or one arm of its study, whose seeded keys get the seed, for hardware `on`.

    `engine` is the kind of engine it has where it names none; one that counts epochs is fine-tuning.
    Raises: RecipeError with one clear message.
    """
    table = read_table(Path(path))
    study = _study(table, str(path))
    if arm:
        if study is None or arm not in study.arms:
            raise RecipeError(f"{path}: no arm {arm!r}; {nearest(arm, list(study.arms)) if study else 'it has no [study]'}")
        _merge(table, study.arms[arm])
    if on:
        _merge(table, _profile(on))
    for text in overrides:
        override(table, text)
    if study is not None:
        seed = table.get("seed", 0)
        for key in study.seeded:
            override(table, f"{key}={seed}")
        table = _with_seed(table, str(seed))
    budget = table.get("budget")
    engine = engine or ("teacher" if isinstance(budget, dict) and budget.get("max_epochs") else "")
    if engine and isinstance(table.setdefault("engine", {}), dict):
        table["engine"].setdefault("kind", engine)
    return parse_recipe(_fine_tuning(table), str(path))


def _with_seed(value: Any, seed: str) -> Any:
    """A table with the seed in place of `{seed}` in its texts."""
    if isinstance(value, dict):
        return {key: _with_seed(held, seed) for key, held in value.items()}
    if isinstance(value, list):
        return [_with_seed(held, seed) for held in value]
    return value.replace("{seed}", seed) if isinstance(value, str) else value


def _fine_tuning(table: dict[str, Any]) -> dict[str, Any]:
    """A recipe's table with what it need not say where the task's own traces are learnt: its loss, groups of one, no verifier."""
    engine = table.get("engine")
    if not isinstance(engine, dict) or engine.get("kind") != "teacher":
        return table
    made: dict[str, Any] = {"loss": {"kind": "nll"}, "rollout": {"group_size": 1, "truncated": "as_graded", "unscored": "zero"}}
    task = table.get("task")
    if isinstance(task, dict) and "reward" not in table and "domain" not in table:
        made |= {"reward": {"kind": "none"}, "validation": {"samples": 0}}
        made |= {"task": {"empty_golds": "keep"}} if task.get("kind") == "file" else {}
    _merge(made, table)
    return made


def profiles() -> dict[str, Path]:
    """Our hardware profiles by name."""
    return {path.stem: path for path in (Path(__file__).parent / "planning" / "profiles").glob("*.toml")}


def _profile(on: str) -> dict[str, Any]:
    """The settings of a hardware profile: one of ours by name, or a TOML file."""
    ours = profiles()
    if on not in ours and not on.endswith(".toml"):
        raise RecipeError(f"--on {on!r}: expected a TOML file with a recipe's tables, or one of ours: {', '.join(sorted(ours))}")
    return read_table(ours.get(on, Path(on)))


def load_study(path: str | Path) -> StudySettings | None:
    """The `[study]` of a recipe, where it has one. Raises: RecipeError with one clear message."""
    return _study(read_table(Path(path)), str(path))


def _study(table: dict[str, Any], where: str) -> StudySettings | None:
    """Take the study out of a recipe's table."""
    found = table.pop("study", None)
    try:
        return None if found is None else StudySettings.model_validate_json(json.dumps(found, default=str), strict=True)
    except ValidationError as e:
        raise RecipeError("\n".join(f"{where}: study: {explain(error, StudySettings)}" for error in e.errors())) from None


def _merge(table: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Tables are merged, everything else is replaced."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value


def read_table(path: Path) -> dict[str, Any]:
    """A TOML file. Raises: RecipeError where it is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe") from None
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path}: cannot be read ({e})") from None
    except tomllib.TOMLDecodeError as e:
        raise RecipeError(f"{path}: not TOML: {e}") from None


def parse_recipe(table: dict[str, Any], where: str) -> Recipe:
    """Validate a parsed table; `where` begins every message."""
    try:
        # JSON mode: strict, yet a TOML list may fill a tuple
        return Recipe.model_validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as e:
        raise RecipeError("\n".join(f"{where}: {explain(error, Recipe)}" for error in e.errors())) from None


def override(table: dict[str, Any], text: str) -> None:
    """Apply `a.b=c`; c is read as TOML, or as a string when it is none. `stage.0.max_steps=64` indexes a list."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise RecipeError(f"--set {text}: expected key=value, for example --set rollout.window=128")
    try:
        parsed = tomllib.loads(f"v = {value}")["v"] if "\n" not in value else value
    except tomllib.TOMLDecodeError:
        parsed = value
    at: Any = table
    *path, last = (int(part) if part.isdigit() else part for part in key.split("."))
    try:
        for part in path:
            at = at[part] if isinstance(at, list) or isinstance(part, int) else at.setdefault(part, {})
        if isinstance(last, int):
            at[last]  # an index must be there already
        at[last] = parsed
    except (KeyError, IndexError, AttributeError, TypeError):
        raise RecipeError(f"--set {text}: there is no {key} in the recipe") from None
