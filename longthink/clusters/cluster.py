"""The controller: learner ranks and samplers as one learner and one engine. No algorithm lives here.

Every worker answers calls in the order they are sent; `_turn` takes the answers that are there, and all waiting is done in it.
Samplers are asked for a slice at a time, a few passes of the model, so that what they have ended is taken while the ranks
compute, and new weights reach them between two slices. Without samplers of their own the ranks sample, and rank 0 is the caller's
process.

A sampler that is lost is replaced, given the weights of the day and asked again for what it owes. With a learner rank a part of
the learner is lost: that ends the cluster, and the run goes on from its last checkpoint (train.py).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longthink.canary import misplaced, misused
from longthink.clusters.local import LocalPlacement
from longthink.clusters.peers import Due, Inline, Place, Placement
from longthink.clusters.weights import Weights, parameters_of, wide
from longthink.clusters.workers import Rank, SharedSum, find_store, make_rank, make_sampler, scored_rows
from longthink.engines.embedded import EmbeddedEngine
from longthink.errors import EngineError, LearnerLost, LongthinkError, WorkerLost
from longthink.folder import ModelFolder, Tokenizer
from longthink.learners.local import LocalLearner
from longthink.metrics import Sums
from longthink.recipe import Recipe
from longthink.tables import LearnerSettings, LossSettings
from longthink.tools.calls import Calls
from longthink.types import Batch, Floats, Request, Rollout, RolloutId

__all__ = ["Cluster"]

PASSES = 16  # of the model in a slice
AHEAD = 2  # slices a sampler elsewhere is asked for in advance, so that it never waits for the controller


class Cluster:
    """The ranks and samplers of a recipe. A recipe with one process starts no other."""

    def __init__(self, recipe: Recipe, note: Callable[[str], None] = lambda _: None) -> None:
        asked, dtype = recipe.cluster, getattr(torch, recipe.model.dtype)
        folder = ModelFolder(recipe.model.path)
        self.tokenizer, self.note = folder.tokenizer, note
        self.world, self._sharded, self.patience_s = asked.learners, asked.shard, asked.patience_s
        self.evaluating = False
        self._waiting: dict[bool, list[Request]] = {False: [], True: []}
        self._ended: dict[bool, deque[Rollout]] = {False: deque(), True: deque()}
        self._vocabulary = folder.config.vocab_size
        self.tries, self.gap, self.resyncs, self.digests = asked.resyncs, 0.0, 0, dict[str, int]()
        self._version, self._posted, self._holding = -1, None, False
        self.restarts = asked.restarts
        self.calls = _calls(recipe, self.tokenizer)
        self.ranks: list[Place] = []
        self.samplers: list[Place] = []
        self.placement = _placed(recipe)
        try:
            self._store = find_store(self.placement.address, self.world) if asked.shard else None
            self._start(recipe, self.placement.weights(folder.config, dtype) if asked.samplers else None)
        except BaseException:
            self.close()
            raise

    def _start(self, recipe: Recipe, weights: Weights | None) -> None:
        slots, store = None, (self.placement.address, self._store.port) if self._store else None
        if self.world > 1 and not self._sharded:
            config, dtype = ModelFolder(recipe.model.path).config, getattr(torch, recipe.model.dtype)
            slots = torch.zeros(self.world, parameters_of(config), dtype=wide(dtype)).share_memory_()
        inline = None if weights is not None else Inline()
        for rank in range(self.world):
            make = partial(make_rank, recipe, rank, slots, store, weights)
            here = inline if rank == 0 else None
            self.ranks.append(Place(f"rank {rank}", make, here or self.placement.start(f"rank {rank}", make)))
        for number in range(recipe.cluster.samplers):
            assert weights is not None
            name, sampler = f"sampler {number}", partial(make_sampler, recipe, weights, number)
            self.samplers.append(Place(name, sampler, self.placement.start(name, sampler)))
        for place in (*self.ranks, *self.samplers):
            if place.peer is not inline:
                self._ask(place, partial(setattr, place, "where"), "start")
        if inline is not None:
            assert isinstance(self.placement, LocalPlacement)  # Ray places samplers too (contradictions.py)
            reduce = None if slots is None else SharedSum(slots, 0, self.placement.meet)
            inline.rank = Rank(recipe, 0, reduce, self._store, None)
        self._settle()
        self.hosts = self.samplers or self.ranks
        if self.samplers:
            self.sync(0)

    # -- calls and answers --------------------------------------------------------------------------------------

    def _ask(self, place: Place, take: Callable[[Any], object], name: str, *args: Any) -> None:
        place.since = place.since if place.due else time.monotonic()
        place.due.append(Due(take, name, args))
        place.peer.send(name, *args)

    def _all(self, places: Sequence[Place], name: str, *args: Any) -> list[Any]:
        """The answers of these workers, in order. Other processes are asked before this one computes."""
        answers: dict[str, Any] = {}
        for place in reversed(places):
            self._ask(place, partial(answers.__setitem__, place.name), name, *args)
        while len(answers) < len(places):
            self._turn()
        return [answers[place.name] for place in places]

    def _settle(self) -> None:
        while any(place.due for place in (*self.ranks, *self.samplers)):
            self._turn()

    def _turn(self) -> None:
        """Take the oldest answer of every worker that has one; wait for the first.

        A rank in this process goes first: what the others say while it computes an update is for it to hear, in `meet`.
        """
        owing = [place for place in (*self.ranks, *self.samplers) if place.due]
        here = [place for place in owing if isinstance(place.peer, Inline)]
        for place in here:
            self._take(place)
        others = {id(place.peer): place for place in owing if place not in here}
        left = min([place.since for place in others.values()], default=0.0) + self.patience_s - time.monotonic()
        ready = self.placement.wait([p.peer for p in others.values()], 0.0 if here else max(left, 0.0)) if others else []
        for peer in ready:
            self._take(others[id(peer)])
        for place in others.values():
            if place.due and place.peer not in ready and time.monotonic() - place.since > self.patience_s:
                what = f"{place.name} has not answered {place.due[0].name!r}"
                self._lose(place, WorkerLost(f"{what} in {self.patience_s:g} s (its stacks are above)"))

    def _lose(self, place: Place, lost: WorkerLost) -> None:
        """Replace a sampler. Raises: the loss of a rank, or of what a sampler needs of one."""
        if place not in self.samplers or isinstance(lost, LearnerLost):
            raise lost
        self._replace(place, lost)

    def _take(self, place: Place) -> None:
        try:
            answer = place.peer.receive()
        except WorkerLost as lost:
            self._lose(place, lost)
        except (LongthinkError, RuntimeError) as error:
            if self._sharded and place in self.ranks:
                self._raise_cause(place, error)
            raise
        else:
            place.since = time.monotonic()
            place.due.popleft().take(answer)

    def _raise_cause(self, place: Place, error: Exception) -> None:
        """Where a rank's group broke because another rank was lost or refused a call: that one's story."""
        for other in self.ranks:
            if other is place or not other.due:
                continue
            if not self.placement.wait([other.peer], 2.0):
                error = WorkerLost(f"{other.name} is silent, and {place.name} no longer waits for it")
            else:
                try:
                    other.peer.receive()
                except LongthinkError as e:
                    error = e if isinstance(e, WorkerLost) or type(e) is not EngineError else error
        raise error

    def _replace(self, place: Place, lost: WorkerLost) -> None:
        """Another process in a sampler's place: it gets the weights, answers what was asked, and samples what was not ended."""
        place.losses += 1
        if place.losses > self.restarts:
            raise EngineError(f"{lost}; lost {place.losses} times, and no rollout ended in between. Go on with --resume")
        self.note(f"{lost}; another takes its place")
        place.peer.kill()
        owed = place.begin_again(self.placement.start(place.name, place.make))
        self._ask(place, partial(setattr, place, "where"), "start")
        if self._version >= 0:
            self._ask(place, lambda _: None, "load", self._version, self._posted)
            self._ask(place, partial(self._must_have, place), "arrived")
        for due in owed:
            if due.name not in ("start", "sample"):
                self._ask(place, due.take, due.name, *due.args)
        self._feed(place)

    def _must_have(self, place: Place, arrived: tuple[int, dict[str, int]]) -> None:
        if why := misplaced(*arrived, self._version, self.digests):
            raise EngineError(f"{place.name}: {why}")

    def cpu_seconds(self) -> float:
        """CPU time all processes have used so far."""
        return float(sum(self._all([*self.ranks, *self.samplers], "cpu_seconds")))

    def close(self) -> None:
        """End the other processes."""
        self.placement.close()
        if self.calls is not None:
            self.calls.close()
        if self._sharded:
            from longthink.learners.sharded import leave

            leave()

    # -- the learner's side -------------------------------------------------------------------------------------

    @property
    def learner(self) -> LocalLearner:
        """The learner of rank 0, where that is this process."""
        peer = self.ranks[0].peer
        assert isinstance(peer, Inline) and peer.rank is not None
        return peer.rank.learner

    def kl_weight(self, loss: LossSettings) -> float:
        """The KL's coefficient at the next update."""
        return float(self._all(self.ranks[:1], "kl_weight", loss)[0])

    def has_reference(self) -> bool:
        return bool(self._all(self.ranks[:1], "has_reference")[0])

    def logprobs(self, batch: Batch, loss: LossSettings, temperature: float, settings: LearnerSettings | None = None) -> Batch:
        """The batch with the log-probs its loss needs (longthink/learners/local.py), each rank computing a share."""
        if not loss.kl and loss.old_logprobs == "sampler":
            return batch.with_(old_logprobs=batch.sampler_logprobs)
        whole: dict[str, Floats] = {}
        for rank, part in enumerate(self._all(self.ranks, "logprobs", batch, loss, temperature, settings)):
            for name, array in part.items():
                found = whole.setdefault(name, np.zeros_like(batch.sampler_logprobs))
                found[batch.tokens_of(scored_rows(batch, rank, self.world))] = array
        return batch.with_(**whole)

    def update(self, batch: Batch, loss: LossSettings, temperature: float, settings: LearnerSettings) -> Sums:
        """Take the updates of a batch on every rank; the metrics of all."""
        while any(place.due for place in self.ranks):  # an answer of an earlier call is nothing that ranks meet by
            self._turn()
        first: Sums
        first, *others = self._all(self.ranks, "update", batch, loss, temperature, settings)
        for sums in others:
            first.merge(sums)
        return first

    def sync(self, version: int) -> None:
        """Sample from the learner's weights from now on, under this version; rollouts that run go on with them.

        Samplers in processes of their own are asked what they have (canary.py) before anything is sampled. Where it is not what
        the learner has they are given it again. The largest gap of a log-prob is in `gap`, and how often it was given again in
        `resyncs`. Raises: EngineError when that does not help either.
        """
        self.resyncs, failures, self._holding = 0, [""], True
        while any(due.name != "sample" for place in self.samplers for due in place.due):
            self._turn()  # one that has just begun gets the weights it asked for first
        self._version = -1  # whoever begins from here on gets the weights that come now
        while failures:
            self.digests, self._posted = self._all(self.ranks, "sync", version)[0]
            self._version = version
            self._all(self.samplers, "load", version, self._posted)
            failures = self._mismatches(version)
            if failures and self.resyncs == self.tries:
                raise EngineError(
                    f"{'; '.join(failures)}. Given the weights {self.tries + 1} times in all; nothing was sampled from them. "
                    "Start again with --resume; if it happens again, look for a broken machine or another build of the engine"
                )
            self.resyncs += bool(failures)
        self._holding = False
        for place in self.hosts:
            self._feed(place)

    def _mismatches(self, version: int) -> list[str]:
        """What the canary finds: a sentence for each sampler that has not what the learner has."""
        self.gap = 0.0
        arrived = [misplaced(there, had, version, self.digests) for there, had in self._all(self.samplers, "arrived")]
        for at, rollout in enumerate([] if any(arrived) else self._all(self.samplers, "probe", self._vocabulary)):
            gap, arrived[at] = misused(rollout, version, *self._all(self.ranks, "probed", rollout)[0])
            self.gap = max(self.gap, gap)
        return [f"{place.name}: {why}" for place, why in zip(self.samplers, arrived, strict=True) if why]

    def load(self, folder: Path, *, optimizer: bool) -> None:
        """Load weights, and with `optimizer` the whole learner, from a checkpoint on every rank."""
        self._all(self.ranks, "load", folder, optimizer)

    def freeze_reference(self) -> None:
        self._all(self.ranks, "freeze_reference")

    def reset_optimizer(self) -> None:
        self._all(self.ranks, "reset_optimizer")

    def save(self, folder: Path) -> None:
        """Write the learner; sharded ranks write a part each."""
        self._all(self.ranks if self._sharded else self.ranks[:1], "save", folder)

    # -- the engine's side --------------------------------------------------------------------------------------

    @contextmanager
    def evaluation(self, journal: Path | None = None) -> Iterator[None]:
        """Within it the engine's side is for evaluation, calls are written there; rollouts of training wait where they are."""
        before, self.evaluating = self.evaluating, True
        calls = self.calls.journal if self.calls else None
        self.write_calls(journal)
        try:
            yield
        finally:
            self.evaluating = before
            self.write_calls(calls)
            if not before:
                self.hand_out()

    def write_calls(self, journal: Path | None) -> None:
        """Where calls of a tool are written down from now on."""
        if self.calls is not None:
            self.calls.open(journal)

    def forget(self) -> None:
        """Drop every rollout of training that was submitted, wherever it is."""
        self._holding = True
        self._all(self.samplers, "forget")
        for place in self.hosts:
            place.forget(False)
        if self.calls is not None:
            self.calls.forget(False)
        self._waiting[False].clear()
        self._ended[False].clear()
        self._holding = False

    def hand_out(self) -> None:
        """Give what was submitted to the samplers; they begin at once."""
        use = self.evaluating
        for request in self._waiting[use]:
            self.hosts[request.id.group % len(self.hosts)].fresh[use].append(request)
        self._waiting[use].clear()
        for place in self.samplers:
            self._feed(place)

    def submit(self, request: Request) -> None:
        asked = request if self.calls is None else replace(request, calls=self.calls.format)
        self._waiting[self.evaluating].append(asked)

    def abort(self, id: RolloutId) -> Rollout:
        """Take out a request that no sampler has yet."""
        for index, request in enumerate(self._waiting[self.evaluating]):
            if request.id == id:
                return EmbeddedEngine.ended(self._waiting[self.evaluating].pop(index), "aborted", request.segments)
        raise EngineError(f"rollout {tuple(id)} is with a sampler or was never submitted")

    def finished(self) -> Iterator[Rollout]:
        """All rollouts as they end, of training or, while `evaluating`, of evaluation, round by round.

        A request submitted while a round runs joins the next one: what a process samples side by side then never
        depends on timing. A group's requests share a process. What is left when the caller stops goes on.
        """
        use = self.evaluating
        waiting, ended = self._waiting[use], self._ended[use]
        while waiting or ended or self._open(use):
            self.hand_out()
            while ended or self._open(use):
                for place in self.hosts:
                    self._feed(place)
                while ended:
                    yield ended.popleft()
                if self._open(use):
                    self._turn()

    def _open(self, use: bool) -> bool:
        return any(place.busy(use) for place in self.hosts)

    def _feed(self, place: Place) -> None:
        """Ask a worker to sample on, as long as it has something to sample."""
        use, ahead = self.evaluating, 1 if isinstance(place.peer, Inline) else AHEAD
        while not self._holding and place.slices < ahead and self._called_back(place, use) and place.busy(use):
            self._ask(place, partial(self._sampled, place, use), "sample", use, place.hand_over(use), PASSES)

    def _called_back(self, place: Place, use: bool) -> bool:
        """Let rollouts go on whose calls have ended; False while nothing is left but to wait for late ones."""
        if self.calls is None:
            return True
        owed = any(other.due for other in (*self.ranks, *self.samplers))
        self._ended[use] += (over := self.calls.go_on(place, use, wait=not owed)) or ()
        return over is not None

    def _sampled(self, place: Place, use: bool, rollouts: Sequence[Rollout]) -> None:
        for request, rollout in place.take(use, rollouts):
            if rollout.finish_reason != "call":
                self._ended[use].append(rollout)
            else:
                assert self.calls is not None
                self.calls.begin(use, request, rollout)
        self._feed(place)


def _calls(recipe: Recipe, tokenizer: Tokenizer) -> Calls | None:
    """Who runs what rollouts call; None where nothing is sampled, or nothing run."""
    sampled = recipe.engine.kind != "teacher" or any(r.validation.every and r.validation.samples for r in recipe.staged)
    runs = recipe.tool is not None and recipe.tool.run and sampled
    return Calls(recipe.tool, tokenizer, in_order=not recipe.rollout.staleness) if recipe.tool and runs else None


def _placed(recipe: Recipe) -> Placement:
    if recipe.cluster.place == "ray":
        from longthink.clusters.ray import RayPlacement

        return RayPlacement(recipe)
    return LocalPlacement(recipe.cluster.patience_s, shard=recipe.cluster.shard)
