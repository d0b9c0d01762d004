"""The tables of a recipe, one class each: every option with its default and its meaning."""

import zlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "MOVING",
    "AdvantageSettings",
    "BudgetSettings",
    "CheckpointSettings",
    "ClusterSettings",
    "CycleSettings",
    "DomainSettings",
    "EngineSettings",
    "LearnerSettings",
    "LoraSettings",
    "LossSettings",
    "ModelSettings",
    "PoolSettings",
    "ProbeSettings",
    "ReferenceSettings",
    "RolloutSettings",
    "SelectionSettings",
    "SignalSettings",
    "Table",
    "ValidationSet",
    "ValidationSettings",
]

Dtype = Literal["auto", "float32", "bfloat16", "float64"]
Level = Literal["token", "sequence", "sequence_mean"]


class Table(BaseModel):
    """Base of every table: frozen, unknown keys refused, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelSettings(Table):
    """Where the model comes from and how it computes."""

    path: str
    device: str = "cpu"
    dtype: Dtype = Field("auto", description="dtype of matmuls; master weights are fp32 (float64 when this is)")


class ClusterSettings(Table):
    """What runs where: the only table that changes from a laptop to a cluster."""

    learners: int = Field(0, ge=0, description="learner ranks that share an update; 0: one per core, one on a GPU")
    threads: int = Field(
        0, ge=0, description="CPU threads of a process; 0: the cores divided by the processes that compute at once"
    )
    samplers: int = Field(0, ge=0, description="processes that sample and do nothing else; 0: the learner ranks sample too")
    resyncs: int = Field(
        2, ge=0, description="how often samplers are given weights again that did not arrive, before the run stops"
    )
    shard: bool = Field(False, description="FSDP2: weights, gradients and optimizer cut over the ranks; else each holds all")
    place: Literal["local", "ray"] = Field("local", description="processes of this machine, or actors that Ray places")
    spread: Literal["pack", "spread", "strict_pack", "strict_spread"] = Field(
        "pack", description="over the machines Ray has: on few, or on as many as there are; strict ones fail instead"
    )
    restarts: int = Field(
        3, ge=0, description="how often a lost or stuck process is replaced without progress before the run stops"
    )
    patience_s: float = Field(1800.0, gt=0, description="a process that owes an answer for so long is stuck")


class CycleSettings(Table):
    """A window that shrinks and grows again, cycle after cycle (schedules.py: window_at)."""

    shape: Literal["stair", "cosine", "stair_cosine"]
    low: int = Field(ge=1, description="tokens at the end of compression")
    high: int = Field(ge=1, description="tokens at the end of expansion")
    period: int = Field(ge=2, description="steps of a whole cycle")
    first: Literal["compression", "expansion"] = Field("compression", description="the half a stair begins with")


MOVING = frozenset({"window", "cycle", "signal"})  # keys of [rollout] that decide the window, one of them at a time


class SignalSettings(Table):
    """A window that goes where a generated token teaches most (signals.py: window_by_signal)."""

    low: int = Field(ge=1, description="narrowest window in tokens; candidates are two a doubling from here")
    high: int = Field(ge=1, description="widest window, where the probing groups sample")
    aim: Literal["full", "own"] = Field("full", description="what a window teaches about the widest one, or about itself")
    probe: float = Field(
        0.125,
        gt=0,
        le=1,
        description="share of the prompts that sample up to `high`, at least one in each round; they are trained on too",
    )
    every: int = Field(2, ge=1, description="steps between choices")
    over: int = Field(4, ge=1, description="steps whose rollouts a choice is made from")
    margin: float = Field(0.1, ge=0, description="how much better, as a share, a window must be to take over")


class RolloutSettings(Table):
    """What is sampled in a step."""

    prompts: int = Field(16, ge=1, description="N, prompts per step")
    group_size: int = Field(16, ge=1, description="G, rollouts per prompt")
    window: int = Field(192, ge=1, description="longest response in tokens; a cycle or signal takes its place")
    cycle: CycleSettings | None = None
    signal: SignalSettings | None = None
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    max_prompt_tokens: int = Field(1024, ge=1)
    long_prompts: Literal["error", "drop", "cut"] = Field("error", description="cut keeps the last tokens of a prompt")
    truncated: Literal["zero", "as_graded", "penalize", "exclude", "mask"] = Field(
        "zero", description="a rollout that met the window: what it scores, or that it leaves the group or the loss"
    )
    truncated_reward: float = Field(-1.0, description="the whole reward of a truncated rollout when `truncated` is penalize")
    graded_tokens: int = Field(0, ge=0, description="the verifier sees so many tokens of a response; 0 for all")
    staleness: int = Field(
        0, ge=0, description="steps whose rollouts may be sampled while earlier ones are trained on; 0: one after the other"
    )
    unscored: Literal["exclude", "zero"] = Field("exclude", description="a rollout our own part failed to score")

    @property
    def widest(self) -> int:
        """The longest response any step may ask for."""
        moving = self.cycle or self.signal
        return moving.high if moving else self.window

    @property
    def narrowest(self) -> int:
        """The shortest window a step may have."""
        moving = self.cycle or self.signal
        return moving.low if moving else self.window


class EngineSettings(Table):
    """The sampler."""

    kind: Literal["embedded", "vllm", "teacher"] = Field(
        "embedded",
        description="vllm: in samplers of their own, of the pinned version; teacher: the task's own traces, for sft",
    )
    max_rows: int = Field(256, ge=1, description="rollouts generated side by side")
    cache_gb: float = Field(8.0, gt=0)
    servers: tuple[str, ...] = Field((), description="addresses of vLLM servers, one for each sampler; none: in its process")
    transfer: str = Field(
        "/dev/shm", min_length=1, description="how servers get weights: nccl, or a folder that they and the samplers see"
    )


class SelectionSettings(Table):
    """Which groups and rollouts are trained on (selection.py)."""

    dynamic: Literal["off", "shrink", "refill"] = Field("off", description="groups outside the band are dropped, or replaced")
    metric: Literal["accuracy", "reward"] = Field("accuracy", description="what must differ within a group")
    low: float = Field(0.0, description="smallest mean accuracy of a group in the band")
    high: float = Field(1.0, description="largest mean accuracy of a group in the band")
    tolerance: float = Field(0.0, ge=0, description="a group whose values differ by no more than this is out of the band")
    max_rounds: int = Field(10, ge=1, description="rounds of sampling a step may take to refill")
    oversample: float = Field(1.0, ge=1, description="prompts of the first round as a multiple of rollout.prompts")
    surplus: Literal["carry", "discard"] = Field(
        "carry", description="prompts whose groups were not needed: sampled again, or not"
    )
    questions: Literal["all", "longer_right"] = Field("all", description="longer_right: STILL-3's question selection (QS)")
    responses: Literal["all", "pair"] = Field("all", description="pair: STILL-3's response selection (RS)")
    pair_advantage: Literal["group", "pair"] = Field("group", description="whose mean and std a pair's advantages come from")


class DomainSettings(Table):
    """One domain of a mixture: its problems, its verifier, its share of the prompts."""

    name: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$")
    weight: float = Field(1.0, ge=0, description="share of the prompts, relative to the other domains")
    task: dict[str, Any]
    reward: dict[str, Any]


class PoolSettings(Table):
    """Which problems are drawn, by each problem's own pass rate when it was drawn before (pools.py)."""

    retire_right: int = Field(0, ge=0, description="draws in a row all right before a problem rests; 0 for never")
    retire_wrong: int = Field(0, ge=0, description="draws in a row all wrong before a problem rests; 0 for never")
    rest_steps: int = Field(100, ge=1, description="steps a problem rests before it returns")
    memory: int = Field(4, ge=1, description="draws of a problem its pass rate is the mean of")
    hard_below: float = Field(0.2, ge=0, le=1, description="pass rates below it are hard")
    easy_above: float = Field(0.8, ge=0, le=1, description="pass rates above it are easy")
    new: float = Field(1.0, ge=0, description="how likely a problem that was never drawn is taken when it comes up")
    hard: float = Field(1.0, ge=0, description="the same for a hard one; the likeliest pool is always taken")
    middle: float = Field(1.0, ge=0)
    easy: float = Field(1.0, ge=0)


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
    ratio: Level = "token"
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.2, gt=0)
    dual_clip: float = Field(0.0, ge=0, description="bound of the loss in units of a negative advantage, above 1; 0 for none")
    old_logprobs: Literal["sampler", "learner"] = Field("sampler", description="whose log-probs the ratio is taken to")
    correction: Literal["none", "truncate", "mask"] = Field("none", description="of the learner's old log-probs to the sampler's")
    correction_level: Level = "token"
    correction_low: float = Field(0.5, ge=0, description="ratios below it are masked")
    correction_high: float = Field(2.0, gt=0, description="ratios above it are masked, or cut to it")
    kl: float = Field(0.0, ge=0, description="coefficient of the KL to the reference policy; 0 keeps no reference")
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    kl_level: Level = "token"
    kl_in: Literal["loss", "reward"] = Field("loss", description="reward: each token's advantage loses the KL from it on")
    kl_schedule: Literal["constant", "cosine"] = "constant"
    kl_horizon: int = Field(0, ge=0, description="updates until a cosine KL is 0")
    entropy: float = Field(0.0, description="entropy bonus coefficient; negative is a penalty")
    entropy_target: float = Field(0.0, ge=0, description="nats: the bonus is on only below this, and adapts; 0 for a fixed one")
    entropy_step: float = Field(0.0, ge=0, description="the bonus grows by this a step below the target, and shrinks above")


class ReferenceSettings(Table):
    """When the reference policy becomes the policy of the day; without a KL there is none."""

    replace_every: int = Field(0, ge=0, description="steps; 0 keeps it frozen but for stages that reset it")
    optimizer: Literal["keep", "reset"] = Field("keep", description="reset makes every replacement a hard reset")
    on_host: bool = Field(
        False, description="it waits in the host's memory and is on the GPU only while its log-probs are computed"
    )


class LearnerSettings(Table):
    """The optimizer and how a batch is cut."""

    lr: float = Field(1e-6, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_updates: int = Field(0, ge=0)
    total_updates: int = Field(
        0, ge=0, description="updates until the cosine's floor; needed by `cosine`, but where budget.max_epochs says how many"
    )
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
    non_finite: Literal["error", "skip"] = Field("error", description="an update whose loss or gradient is not finite")
    checkpoint_layers: bool = Field(False, description="recompute layers in the backward pass to save memory")


class LoraSettings(Table):
    """Low-rank updates of frozen weights are trained in place of the weights (learners/adapter.py)."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0, description="updates are scaled by alpha / rank")
    targets: tuple[Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), min_length=1
    )


Window = Annotated[int, Field(ge=1)] | Literal["training"]


class ValidationSet(Table):
    """One set of a validation: its share of the blend, and what differs from the others."""

    name: str = Field("", pattern=r"^[A-Za-z0-9_-]*$")
    weight: float = Field(1.0, ge=0, description="share of the blend, relative to the other sets; 0 only reports it")
    problems: int = Field(0, ge=0, description="0: as [validation] has it")
    samples: int = Field(0, ge=0, description="0: as [validation] has it")
    window: Window | None = Field(None, description="none: as [validation] has it")
    task: dict[str, Any] = Field({}, description="problems of its own (their validation split); empty: the run's")
    reward: dict[str, Any] = Field({}, description="their verifier; needed beside a task")

    def at(self, training: int) -> int:
        """The window in tokens while training has one of `training`."""
        return self.window if isinstance(self.window, int) else training


class ValidationSettings(Table):
    """Evaluation while training: the run's own validation problems, or a blend of sets."""

    every: int = Field(0, ge=0, description="steps between validations; 0 for none")
    problems: int = Field(64, ge=1)
    samples: int = Field(2, ge=0, description="0, where traces are learnt: their loss alone is measured")
    temperature: float = Field(1.0, ge=0)
    window: Window = Field("training", description="response tokens; training follows the window in force")
    sets: tuple[ValidationSet, ...] = Field((), description="their blend takes the place of the run's own problems alone")
    finalists: int = Field(1, ge=1, description="of the best checkpoints so many get fresh samples before one is chosen; 1: none")

    @property
    def blend(self) -> tuple[ValidationSet, ...]:
        """The sets with what they inherit; one without a name where none is given."""
        own: dict[str, Any] = {"problems": self.problems, "samples": self.samples, "window": self.window}
        return tuple(
            made.model_copy(update={key: getattr(made, key) or value for key, value in own.items()})
            for made in self.sets or (ValidationSet(),)
        )

    def at(self, training: int) -> int:
        """The widest window of a weighted set while training has one of `training`."""
        return max(made.at(training) for made in self.blend if made.weight)

    def key(self, training: int) -> int:
        """A number for how the blend is taken: only scores with the same one are compared."""
        taken = [(made.name, made.weight, made.problems, made.samples, made.at(training)) for made in self.blend if made.weight]
        return zlib.crc32(repr((self.temperature, taken)).encode())

    @property
    def widest(self) -> int:
        """The widest fixed window; 0 where there is none."""
        return max(made.at(0) for made in self.blend)


class CheckpointSettings(Table):
    """What is kept for resuming and for going back."""

    every: int = Field(10, ge=1, description="steps between checkpoints; the last step and stage changes always")
    keep: int = Field(2, ge=1, description="newest ones kept, beside the best one and those an event still needs")
    twins: bool = Field(False, description="keep the state before every automatic decision, for `longthink twins`")


class ProbeSettings(Table):
    """Regrading a share of the rollouts by a second verifier, to notice when the first is wrong or gamed (probe.py)."""

    every: int = Field(0, ge=0, description="steps between probes; 0 for none")
    share: float = Field(0.1, gt=0, le=1, description="of a step's graded rollouts; at least one")
    reward: dict[str, Any] = Field({}, description="the second verifier; required when `every` is set")


class BudgetSettings(Table):
    """When the run ends: whichever comes first; by time and money before the step that would go beyond."""

    max_steps: int = Field(100, ge=1)
    max_epochs: float = Field(
        0.0,
        ge=0,
        description="passes over the traces to fine-tune on (engine.kind is teacher then), in place of max_steps; 0 for none",
    )
    max_generated_tokens: int = Field(0, ge=0, description="generated while training; 0 for no limit")
    max_hours: float = Field(0.0, ge=0, description="of steps, validations included; 0 for no limit")
    max_gpu_hours: float = Field(0.0, ge=0, description="the same times the learner ranks and samplers; 0 for no limit")
    max_cost: float = Field(0.0, ge=0, description="gpu_hours times price; 0 for no limit")
    price: float = Field(0.0, ge=0, description="of an hour of one process; needed by max_cost")
