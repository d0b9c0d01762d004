"""What models were asked: every sample is kept, by the prompt's text, and used again by whoever asks the same."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from longthink import storage
from longthink.curation.rows import Rejected, Row
from longthink.curation.steps.base import Step, Stopped, Work, put
from longthink.engines.served import SEEDS
from longthink.errors import LongthinkError, RecipeError, nearest
from longthink.evaluation.models import Model, open_model, weights_hash
from longthink.part import load_part
from longthink.progress import Progress
from longthink.prompts import PROMPTS, dress
from longthink.rewards.base import Reward
from longthink.rewards.pool import RewardPool
from longthink.rng import derive_seed
from longthink.types import Problem, Request, RolloutId, Sampling, Verdict

__all__ = ["Asker", "Asking", "AskingStep", "GradingStep", "Reply", "judged"]

Messages = Sequence[Mapping[str, str]]
AT_ONCE = 64  # samples written together


class Asking(BaseModel):
    """Which model is asked, and how it samples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(min_length=1, description="a Hugging Face folder, or an OpenAI-compatible server, http://…/v1")
    served: str = Field("", description="the model's name at a server that has several")
    window: int = Field(4096, ge=1, description="longest response in tokens")
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    concurrency: int = Field(32, ge=1, description="requests that are out at a time, to a server")
    timeout_s: float = Field(1800.0, gt=0, description="for one reply of a server")
    settings: dict[str, Any] = Field({}, description="of model, engine and cluster, as in a recipe, for a folder")

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.served or self.path

    @model_validator(mode="after")
    def _of_a_folder(self) -> Self:
        if self.settings and self.path.startswith(("http://", "https://")):
            raise ValueError("settings are for the folder of a model; a server has its own")
        return self

    def digest(self) -> str:
        """What tells two ways of asking apart: the weights (or the server's name for them) and how tokens are drawn."""
        remote = self.path.startswith(("http://", "https://"))
        if not remote and not Path(self.path).is_dir():
            raise RecipeError(f"the model to ask, {self.path!r}, is no folder here; expected one, or http://host:port/v1")
        own = [self.settings.get(name, {}) for name in ("model", "tool") if name == "model" or name in self.settings]
        who = [self.served or self.path] if remote else [weights_hash(Path(self.path)), *own]
        drawn = [*who, self.window, self.temperature, self.top_p, self.top_k]
        return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:16]


class Reply(NamedTuple):
    """A sample: its text, its tokens, and whether the window cut it."""

    text: str
    tokens: int
    truncated: bool


class Place(NamedTuple):
    """Which sample of which prompt, by the prompt's checksum."""

    prompt: str
    sample: int


class Asker:
    """A context manager around a model that is opened only if something has to be asked.

    Draws are keyed by (seed, prompt, sample): what was interrupted ends as what was not, with a folder's weights bit for bit.
    Samples lie in `folder`, a line each; only their places are in memory.
    """

    def __init__(self, asking: Asking, folder: Path, seed: int, progress: Progress) -> None:
        self.asking, self.seed, self.progress = asking, seed, progress
        storage.make_folder(folder)
        self.path = folder / f"{asking.digest()}-{seed}.jsonl"
        self._places: dict[Place, int] = {}
        self._stack = ExitStack()
        self._model: Model | None = None

    def __enter__(self) -> Self:
        self.path.touch()
        with self.path.open("r+b") as file:
            start = 0
            while (line := file.readline()).endswith(b"\n"):
                found = json.loads(line)
                self._places[Place(found["prompt"], found["sample"])] = start
                start = file.tell()
            file.truncate(start)  # a line that a kill has cut
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def replies(self, prompts: Sequence[Messages], samples: int, done: Callable[[int, int], None]) -> list[list[Reply]]:
        """So many samples of each prompt, fewer of one that the model cannot take; a last message of role `prefix` begins them.

        Raises: Stopped, and what the model raises; what has come is kept.
        """
        names = [hashlib.sha256(json.dumps([dict(m) for m in p]).encode()).hexdigest()[:24] for p in prompts]
        wanted = {Place(name, k): prompt for name, prompt in zip(names, prompts, strict=True) for k in range(samples)}
        missing = {place: prompt for place, prompt in wanted.items() if place not in self._places}
        if missing:
            self._ask(missing, done)
        with self.path.open("rb") as file:
            return [[self._read(file, a) for k in range(samples) if (a := Place(name, k)) in self._places] for name in names]

    def _read(self, file: Any, place: Place) -> Reply:
        file.seek(self._places[place])
        found = json.loads(file.readline())
        return Reply(found["text"], found["tokens"], found["truncated"])

    def _ask(self, missing: Mapping[Place, Messages], done: Callable[[int, int], None]) -> None:
        model, fresh, places = self._opened(), [], list(missing)
        sampling = Sampling(self.asking.temperature, self.asking.top_p, self.asking.top_k)
        asked = 0
        for number, (place, messages) in enumerate(missing.items()):
            problem = Problem(place.prompt, tuple(m for m in messages if m["role"] != "prefix"), None)
            try:
                ids, begun = model.prompt(problem), model.begun(messages)
            except RecipeError:  # longer than the model's positions leave room for
                continue
            if sum(len(s.token_ids) for s in begun) >= self.asking.window:
                continue
            seed = derive_seed(self.seed, "asked", place.prompt, place.sample) % SEEDS
            model.engine.submit(Request(RolloutId(number, 0), problem, ids, self.asking.window, sampling, seed, begun))
            asked += 1
        try:
            for count, rollout in enumerate(model.engine.finished(), 1):
                if rollout.finish_reason != "aborted":
                    place = places[rollout.id.group]
                    told = {"text": model.text(rollout), "tokens": rollout.num_tokens, "truncated": rollout.truncated}
                    fresh.append({"prompt": place.prompt, "sample": place.sample, **told})
                if len(fresh) >= AT_ONCE:
                    fresh = self._keep(fresh)
                done(count, asked)
                if self.progress.stop_requested:
                    raise Stopped
        finally:
            self._keep(fresh)

    def _keep(self, fresh: list[dict[str, Any]]) -> list[dict[str, Any]]:
        at = self.path.stat().st_size
        storage.append_lines(self.path, fresh)
        with self.path.open("rb") as file:
            file.seek(at)
            for row in fresh:
                self._places[Place(row["prompt"], row["sample"])] = file.tell()
                file.readline()
        return []

    def _opened(self) -> Model:
        if self._model is None:
            a = self.asking
            asked: dict[str, Any] = {"window": a.window, "table": a.settings, "served": a.served, "concurrency": a.concurrency}
            try:
                opened = open_model(a.path, **asked, timeout_s=a.timeout_s, notice=self.progress.note)
                self._model = self._stack.enter_context(opened)
            except LongthinkError as e:
                raise type(e)(f"the model to ask, {a.path}: {e}") from None
        return self._model


class AskingStep(Step):
    """A step that asks a model about each row."""

    model: Asking

    def reads(self) -> Mapping[str, str]:
        return {"model": self.model.digest()}

    def ask_each(
        self,
        work: Work,
        message: Callable[[Row], Messages],
        samples: int,
        decide: Callable[[Sequence[Row], Sequence[Sequence[Reply]]], list[Row | Rejected]],
    ) -> None:
        """Ask about the rows of a shard, decide over it, and go on with the next."""
        given, numbers = work.inputs[0], work.inputs[0].numbers()
        with Asker(self.model, work.samples, work.seed, work.progress) as asker:
            for done, number in enumerate(numbers):
                work.progress.phase(f"{self.title}: shard {done + 1} of {len(numbers)}")
                if not work.out.is_whole(number):
                    rows = given.shard(number)
                    replies = asker.replies([message(row) for row in rows], samples, work.progress.rollouts)
                    put(work.out, number, decide(rows, replies))


class GradingStep(AskingStep):
    """A step that asks a model each question several times, and has its replies graded."""

    samples: int = Field(4, ge=1)
    prompt: str = Field("bare", description="a prompt of longthink/prompts.py by name")
    reward: dict[str, Any] = Field({"kind": "math"}, description="the verifier (longthink/rewards)")

    @field_validator("prompt")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in PROMPTS:
            raise ValueError(f"no such prompt; {nearest(name, list(PROMPTS))}")
        return name

    def messages(self, row: Row) -> list[dict[str, str]]:
        """What is asked about a row."""
        return dress(self.prompt, [{"role": "user", "content": row.question}])

    def run(self, work: Work) -> None:
        with RewardPool(load_part(Reward, self.reward, f"step {self.title}: reward"), work.workers) as pool:
            self.ask_each(work, self.messages, self.samples, partial(self.decided, pool))

    @abstractmethod
    def decided(self, pool: RewardPool, rows: Sequence[Row], replies: Sequence[Sequence[Reply]]) -> list[Row | Rejected]:
        """What becomes of a shard's rows."""


def judged(rows: Sequence[Row], replies: Sequence[Sequence[Reply]], pool: RewardPool) -> list[list[Verdict]]:
    """A verdict for each reply, by its row's answer; one that the window cut scores 0 without being looked at."""
    verdicts: dict[Any, Verdict] = {}
    for at, (row, own) in enumerate(zip(rows, replies, strict=True)):
        for k, reply in enumerate(own):
            if reply.truncated:
                verdicts[at, k] = Verdict(0.0, "truncated")
            else:
                pool.submit((at, k), reply.text, row.answer)
    verdicts |= pool.drain()
    return [[verdicts[at, k] for k in range(len(own))] for at, own in enumerate(replies)]
