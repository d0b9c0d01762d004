"""A recipe: one TOML file, one run. Validated before anything starts; the resolved copy lies beside the run."""

import difflib
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from longthink.errors import RecipeError

__all__ = ["AdvantageSettings", "Recipe", "Stage", "load_recipe", "nearest", "override", "parse_recipe"]

Dtype = Literal["auto", "float32", "bfloat16", "float64"]


class Table(BaseModel):
    """Base of every table: frozen, unknown keys refused, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelSettings(Table):
    """Where the model comes from and how it computes."""

    path: str
    device: str = "cpu"
    dtype: Dtype = Field("auto", description="dtype of matmuls; master weights are fp32 (float64 when this is)")
    processes: int = Field(0, ge=0, description="replicas that share sampling and updates; 0: one per core, one on a GPU")
    threads: int = Field(0, ge=0, description="CPU threads per process; 0: the cores divided by the processes")


class RolloutSettings(Table):
    """What is sampled in a step."""

    prompts: int = Field(16, ge=1, description="N, prompts per step")
    group_size: int = Field(16, ge=1, description="G, rollouts per prompt")
    window: int = Field(192, ge=1, description="longest response in tokens")
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    max_prompt_tokens: int = Field(1024, ge=1)
    long_prompts: Literal["error", "drop"] = "error"
    truncated: Literal["zero", "as_graded"] = Field("zero", description="score of a rollout that met the window")
    unscored: Literal["exclude", "zero"] = Field("exclude", description="a rollout our own part failed to score")


class EngineSettings(Table):
    """The sampler."""

    kind: Literal["embedded", "teacher"] = Field("embedded", description="teacher: the task's own traces, for fine-tuning")
    max_rows: int = Field(256, ge=1, description="rollouts generated side by side")
    cache_gb: float = Field(8.0, gt=0)


class AdvantageSettings(Table):
    """How rewards become advantages (advantage.py)."""

    baseline: Literal["group_mean", "leave_one_out"] = "group_mean"
    std: Literal["unbiased", "none"] = "unbiased"
    epsilon: float = Field(1e-6, ge=0)
    whiten: bool = Field(False, description="then subtract the mean of all trained tokens and divide by their std")


class LossSettings(Table):
    """The objective (losses.py)."""

    kind: Literal["grpo", "nll"] = "grpo"
    aggregation: Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "constant"] = "token_mean"
    normalizer: int = Field(0, ge=0, description="tokens a response's loss is divided by when aggregation is constant")
    ratio: Literal["token", "sequence", "sequence_mean"] = "token"
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.2, gt=0)
    dual_clip: float = Field(0.0, ge=0, description="bound of the loss in units of a negative advantage, above 1; 0 for none")
    kl: float = Field(0.0, ge=0, description="coefficient of the KL to a frozen reference; 0 keeps no reference")
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    kl_schedule: Literal["constant", "cosine"] = "constant"
    kl_horizon: int = Field(0, ge=0, description="updates until a cosine KL is 0")
    entropy: float = Field(0.0, description="entropy bonus coefficient; negative is a penalty")


class LearnerSettings(Table):
    """The optimizer and how a batch is cut."""

    lr: float = Field(1e-6, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_updates: int = Field(0, ge=0)
    total_updates: int = Field(0, ge=0, description="updates until the cosine's floor; needed by `cosine`")
    floor: float = Field(0.1, ge=0, le=1, description="cosine's last value as a share of lr")
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    minibatch_prompts: int = Field(0, ge=0, description="prompts per update; 0 takes the whole batch (on-policy)")
    epochs: int = Field(1, ge=1, description="passes over a rollout batch")
    microbatch_tokens: int = Field(
        2048, ge=1, description="tokens held at once, before padding in attention; changes memory, not results"
    )
    head_chunk: int = Field(2048, ge=1, description="rows of logits held at once")
    checkpoint_layers: bool = Field(False, description="recompute layers in the backward pass to save memory")


class ValidationSettings(Table):
    """Evaluation while training, at the window in force unless one is given."""

    every: int = Field(0, ge=0, description="steps between validations; 0 for none")
    problems: int = Field(64, ge=1)
    samples: int = Field(2, ge=1)
    temperature: float = Field(1.0, ge=0)
    window: int = Field(0, ge=0, description="response tokens; 0 follows the window in force")


class CheckpointSettings(Table):
    """What is kept for resuming and for going back."""

    every: int = Field(10, ge=1, description="steps between checkpoints; the last step and stage changes always")
    keep: int = Field(2, ge=1, description="newest ones kept, beside the best one and those an event still needs")


class ProbeSettings(Table):
    """Regrading a share of the rollouts by a second verifier, to notice when the first is wrong or gamed (probe.py)."""

    every: int = Field(0, ge=0, description="steps between probes; 0 for none")
    share: float = Field(0.1, gt=0, le=1, description="of a step's graded rollouts; at least one")
    reward: dict[str, Any] = Field({}, description="the second verifier; required when `every` is set")


class BudgetSettings(Table):
    """When the run ends: whichever comes first."""

    max_steps: int = Field(100, ge=1)
    max_generated_tokens: int = Field(0, ge=0, description="generated while training; 0 for no limit")


class Stage(Table):
    """One stage: what changes when it begins, and what ends it.

    `until` names the trigger (longthink/control); a stage without one lasts to the end of the budget.
    """

    window: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, gt=0)
    group_size: int | None = Field(None, ge=1)
    lr: float | None = Field(None, gt=0)
    max_steps: int = Field(0, ge=0, description="end the stage after so many steps anyway; 0 for no limit")
    until: dict[str, Any] | None = None
    begin_from: Literal["best", "last"] = "best"
    optimizer: Literal["keep", "reset"] = "keep"


class Recipe(Table):
    """A complete run. Parts that are chosen by `kind` stay tables here and are built by `load_part`."""

    name: str = Field(min_length=1)
    seed: int = Field(0, ge=0)
    model: ModelSettings
    task: dict[str, Any]
    reward: dict[str, Any]
    workers: int = Field(2, ge=1, description="verifier processes")
    reward_servers: tuple[str, ...] = Field((), description="host:port of `longthink serve-rewards`; empty grades here")
    engine: EngineSettings = EngineSettings()
    rollout: RolloutSettings = RolloutSettings()
    advantage: AdvantageSettings = AdvantageSettings()
    loss: LossSettings = LossSettings()
    learner: LearnerSettings = LearnerSettings()
    validation: ValidationSettings = ValidationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    budget: BudgetSettings = BudgetSettings()
    probe: ProbeSettings = ProbeSettings()
    stage: tuple[Stage, ...] = ()
    tensorboard: bool = False
    aliases: tuple[Literal["verl", "trl"], ...] = Field((), description="also log under these projects' names")
    max_constant_steps: int = Field(20, ge=1, description="steps in a row without one mixed group before the run stops")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        r, learner = self.rollout, self.learner
        if not all(0.0 <= beta < 1.0 for beta in learner.betas):
            raise ValueError(f"learner.betas is {list(learner.betas)}, expected two numbers of at least 0 and below 1")
        loss = self.loss
        if 0 < loss.dual_clip <= 1:
            raise ValueError(f"loss.dual_clip is {loss.dual_clip}, expected above 1, or 0 for none")
        if (loss.aggregation == "constant") != bool(loss.normalizer):
            raise ValueError("loss.aggregation = 'constant' and loss.normalizer (tokens, the longest response, say) go together")
        if (loss.kl_schedule == "cosine") != bool(loss.kl_horizon) or (loss.kl_horizon and not loss.kl):
            raise ValueError("loss.kl_schedule = 'cosine' needs loss.kl above 0 and loss.kl_horizon, the updates until it is 0")
        for server in self.reward_servers:
            if not re.fullmatch(r"(?:http://)?[^\s:/]+:\d{1,5}/?", server):
                raise ValueError(f"reward_servers names {server!r}, expected host:port")
        if self.probe.every and not self.probe.reward:
            raise ValueError("probe.every is set without probe.reward; expected the table of a second verifier")
        if self.engine.kind == "teacher" and self.loss.kind != "nll":
            raise ValueError("engine.kind is teacher, whose rollouts have no log-probs; expected loss.kind = 'nll'")
        if any(not s.until and not s.max_steps for s in self.stage[:-1]):
            raise ValueError("stage: one that is not the last has neither until nor max_steps and would never end")
        if self.loss.kind == "grpo":
            if r.group_size == 1 or any(s.group_size == 1 for s in self.stage):
                raise ValueError("rollout.group_size is 1: a group of one has no advantage; expected at least 2")
            if r.top_p < 1 or r.top_k > 0:
                raise ValueError(
                    "rollout.top_p / top_k restrict sampling, which biases the policy gradient; no correction exists yet: "
                    "set top_p = 1 and top_k = 0 (evaluation may restrict)"
                )
            if r.temperature == 0:
                raise ValueError("rollout.temperature is 0: greedy rollouts of a group are all equal; expected above 0")
        if learner.minibatch_prompts and r.prompts % learner.minibatch_prompts:
            raise ValueError(
                f"learner.minibatch_prompts is {learner.minibatch_prompts}, which does not divide rollout.prompts = {r.prompts}"
            )
        if learner.schedule == "cosine" and learner.total_updates <= learner.warmup_updates:
            raise ValueError("learner.schedule is cosine: set learner.total_updates above learner.warmup_updates")
        windows = [s.window for s in self.stage if s.window]
        if self.stage and not self.stage[-1].window and windows:
            raise ValueError("stage: the last stage names no window although an earlier one does; write it out")
        if any(s.until and not self.validation.every for s in self.stage):
            raise ValueError("stage.until needs validation: set validation.every above 0")
        return self

    @property
    def last_window(self) -> int:
        """The widest window any stage may reach."""
        return max([self.rollout.window, *(s.window or 0 for s in self.stage)])


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe. Raises: RecipeError with one clear message."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe") from None
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path}: cannot be read ({e})") from None
    except tomllib.TOMLDecodeError as e:
        raise RecipeError(f"{path}: not TOML: {e}") from None
    for text in overrides:
        override(table, text)
    return parse_recipe(table, str(path))


def parse_recipe(table: dict[str, Any], where: str) -> Recipe:
    """Validate a parsed table; `where` begins every message."""
    try:
        # JSON mode: strict, yet a TOML list may fill a tuple
        return Recipe.model_validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as e:
        raise RecipeError("\n".join(f"{where}: {_explain(dict(error))}" for error in e.errors())) from None


def override(table: dict[str, Any], text: str) -> None:
    """Apply `a.b=c`; c is read as TOML, or as a string when it is none. `stage.0.window=64` indexes a list."""
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


def _explain(error: dict[str, Any]) -> str:
    """One sentence for one pydantic error, naming the nearest key for an unknown one."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}; {nearest(location[-1], _keys_at(location[:-1]))}"
    if error["type"] == "missing":
        return f"{key} is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message if not key else f"{key}: {message}, got {error['input']!r}"


def nearest(key: str, known: Sequence[str]) -> str:
    """What was probably meant, in words.

    >>> nearest("windw", ["prompts", "window"])
    'did you mean window?'
    """
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"


def _keys_at(path: list[str]) -> list[str]:
    """The keys the table at `path` may have."""
    model: Any = Recipe
    for part in path:
        if part.isdigit():
            continue
        annotation = model.model_fields[part].annotation
        model = next((a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")), None)
        if model is None:
            return []
    return sorted(model.model_fields)
