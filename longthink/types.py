"""The nouns that travel through a step: Problem, Request, Rollout, Verdict, Group, Batch.

Letters used in shapes everywhere: N prompts per step, G rollouts per prompt, B = N·G rollouts,
S tokens of all B sequences laid end to end, T tokens of one (padded) sequence, V vocabulary,
H hidden size, D head size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from longthink.tools.formats import CallFormat

__all__ = [
    "Batch",
    "Call",
    "FinishReason",
    "Floats",
    "Group",
    "Ints",
    "Problem",
    "Request",
    "Rollout",
    "RolloutId",
    "Sampling",
    "Segment",
    "Status",
    "Verdict",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
FinishReason = Literal["stop", "length", "call", "aborted"]  # call: of a tool; it goes on
Status = Literal["ok", "no_answer", "truncated", "timeout", "limit", "crash", "verifier_error"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its gold answer. `prompt` holds chat messages; the template is applied later."""

    id: str
    prompt: tuple[Mapping[str, str], ...]
    gold: Any
    meta: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""


class RolloutId(NamedTuple):
    """Names a rollout for ever: `group` counts problems drawn from the data cursor, `sample` runs from 0 to G-1."""

    group: int
    sample: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy; `top_p` 1 and `top_k` 0 leave the distribution whole."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One use of the interpreter: the code, the text that came back, how it ended and how long it ran."""

    code: str
    output: str
    status: Literal["ok", "error", "timeout", "limit", "crash"]
    seconds: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of response tokens from one source.

    `logprobs` (nats) are those of the temperature-scaled, untruncated distribution the token was drawn
    from; they are None unless `source` is "policy", and only policy tokens enter a loss. A tool's tokens say of which `call`
    they are.
    """

    source: Literal["policy", "tool", "prefix"]
    token_ids: Ints
    logprobs: Floats | None = None
    policy_version: int = 0
    call: Call | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine is asked for: a prompt, what was generated so far, and how to go on.

    `max_tokens` bounds the whole response, segments so far included. `calls` says how a call of a tool is written, which ends
    what an engine does; None where nothing is called.
    """

    id: RolloutId
    problem: Problem
    prompt_ids: Ints
    max_tokens: int
    sampling: Sampling
    seed: int
    segments: tuple[Segment, ...] = ()
    calls: "CallFormat | None" = None

    @property
    def num_generated(self) -> int:
        return sum(len(s.token_ids) for s in self.segments)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A response with everything needed to score it, train on it and reproduce it."""

    id: RolloutId
    problem: Problem
    prompt_ids: Ints
    segments: tuple[Segment, ...]
    finish_reason: FinishReason
    sampling: Sampling
    window: int
    text: str = ""

    @property
    def response_ids(self) -> Ints:
        return np.concatenate([np.zeros(0, np.int64), *(s.token_ids for s in self.segments)])

    @property
    def num_tokens(self) -> int:
        return sum(len(s.token_ids) for s in self.segments)

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"

    @property
    def calls(self) -> list[Call]:
        """Its calls of the tool, in order."""
        return [s.call for s in self.segments if s.call is not None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one rollout.

    `score` is None only when our part failed (`verifier_error`); the response's own fault has a score.
    """

    score: float | None
    status: Status
    extracted: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Group:
    """The G scored rollouts of one problem; `rewards` are the scores after shaping.

    `counted` says which of them the group's mean and std are of, `trained` which enter the loss; empty for all.
    """

    problem: Problem
    rollouts: tuple[Rollout, ...]
    verdicts: tuple[Verdict, ...]
    rewards: tuple[float, ...]
    counted: tuple[bool, ...] = ()
    trained: tuple[bool, ...] = ()

    @property
    def constant(self) -> bool:
        """True when no counted rollout is better than another: such a group carries no signal."""
        counted = self.counted or (True,) * len(self.rewards)
        return len({reward for reward, counts in zip(self.rewards, counted, strict=True) if counts}) < 2


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B sequences (prompt then response) laid end to end; padding is the learner's business.

    `offsets` [B+1] cut the flat arrays [S]. `loss_mask` is True on policy tokens of trained rollouts, `counted` [B] on the
    rollouts their group's mean and std are of. `advantages` and the log-probs are per token and meaningless where the mask
    is False. `group` [B] numbers the prompts in
    order, so a mini-batch counted in prompts is a range of it.
    """

    tokens: Ints
    offsets: Ints
    loss_mask: NDArray[np.bool_]
    sampler_logprobs: Floats
    rewards: NDArray[np.float64]
    group: Ints
    counted: NDArray[np.bool_]
    advantages: Floats | None = None
    old_logprobs: Floats | None = None
    reference_logprobs: Floats | None = None

    @classmethod
    def of(cls, groups: Sequence[Group]) -> "Batch":
        """Lay the rollouts of all groups end to end, in order."""
        tokens: list[Ints] = []
        masks: list[NDArray[np.bool_]] = []
        logprobs: list[Floats] = []
        lengths, rewards, group = [0], [], []
        counted: list[bool] = []
        for index, g in enumerate(groups):
            every = (True,) * len(g.rollouts)
            counted += g.counted or every
            for rollout, reward, trained in zip(g.rollouts, g.rewards, g.trained or every, strict=True):
                tokens.append(rollout.prompt_ids)
                masks.append(np.zeros(len(rollout.prompt_ids), np.bool_))
                logprobs.append(np.zeros(len(rollout.prompt_ids), np.float32))
                for s in rollout.segments:
                    is_policy = s.source == "policy"
                    tokens.append(s.token_ids)
                    masks.append(np.full(len(s.token_ids), is_policy and trained))
                    logprobs.append(s.logprobs if s.logprobs is not None else np.zeros(len(s.token_ids), np.float32))
                lengths.append(len(rollout.prompt_ids) + rollout.num_tokens)
                rewards.append(reward)
                group.append(index)
        return cls(
            tokens=np.concatenate(tokens),
            offsets=np.cumsum(lengths),
            loss_mask=np.concatenate(masks),
            sampler_logprobs=np.concatenate(logprobs),
            rewards=np.array(rewards, np.float64),
            group=np.array(group, np.int64),
            counted=np.array(counted, np.bool_),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        return np.diff(self.offsets)

    @property
    def row(self) -> Ints:
        """[S] the sequence each token belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def num_groups(self) -> int:
        return int(self.group[-1]) + 1 if len(self.group) else 0

    def with_(self, **arrays: NDArray[Any]) -> "Batch":
        """The same batch with some per-token arrays replaced."""
        return replace(self, **arrays)

    def tokens_of(self, rows: Ints) -> Ints:
        """Where the tokens of these sequences lie in the flat arrays, in this order."""
        return np.concatenate([np.zeros(0, np.int64), *(np.arange(self.offsets[r], self.offsets[r + 1]) for r in rows)])

    def select(self, rows: Ints) -> "Batch":
        """The sub-batch of these sequences, in this order."""
        index = self.tokens_of(rows)

        def take(array: Any) -> Any:
            return None if array is None else array[index]

        return Batch(
            tokens=self.tokens[index],
            offsets=np.concatenate([[0], np.cumsum(self.lengths[rows])]),
            loss_mask=self.loss_mask[index],
            sampler_logprobs=self.sampler_logprobs[index],
            rewards=self.rewards[rows],
            group=self.group[rows],
            counted=self.counted[rows],
            advantages=take(self.advantages),
            old_logprobs=take(self.old_logprobs),
            reference_logprobs=take(self.reference_logprobs),
        )
