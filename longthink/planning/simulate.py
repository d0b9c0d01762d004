"""The loop as a discrete-event simulation: response lengths in, seconds by phase out, for any number of samplers and ranks.

Samplers batch continuously: a pass gives a token to each row, rows that end make room, and between two ends the time of many
passes has a closed form. The learner takes a step's rollouts when the last has ended, as the loop does (collect.py); with
staleness k the samplers may have work of k steps more. New weights stop the samplers while they are handed over, and what runs
computes its context again. Nothing is drawn at random here: the same lengths give the same times.
"""

import heapq
import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Costs", "Load", "Sampler", "StepTime", "simulate"]


@dataclass(frozen=True)
class Costs:
    """Seconds of the loop's parts.

    A pass of a sampler costs `pass_s` + `row_s` a row + `context_s` a token of the rows' contexts; computing a context
    `prefill_s` a token. The learner costs `logprob_s`, `update_s` and, by the square of a sequence's length, `square_s` a token
    and pair, over all its ranks together, and `step_s` beside. Handing over weights costs `sync_s`.
    """

    pass_s: float
    row_s: float
    context_s: float
    prefill_s: float
    logprob_s: float
    update_s: float
    square_s: float
    step_s: float
    sync_s: float


@dataclass(frozen=True)
class Load:
    """A step: the tokens of each rollout's response, group after group, and of a prompt."""

    lengths: Sequence[int]
    group_size: int
    prompt: int


@dataclass
class StepTime:
    """Seconds of a step by phase: waiting for rollouts, log-probs, update, weights, and all of it."""

    rollout: float
    logprobs: float
    update: float
    sync: float
    samplers_busy: float = 0.0  # seconds, over all samplers

    @property
    def total(self) -> float:
        return self.rollout + self.logprobs + self.update + self.sync


@dataclass
class Sampler:
    """One engine: rows that run and requests that wait, in order; `rows` at most side by side."""

    costs: Costs
    rows: int
    now: float = 0.0
    busy: float = 0.0
    waiting: deque[tuple[int, int, int, bool]] = field(default_factory=deque)  # step, prompt, tokens to come, first of its group
    running: list[tuple[int, int, int, int]] = field(default_factory=list)  # ends at this pass, step, prompt, tokens
    owed: Counter[int] = field(default_factory=Counter)  # rollouts that have not ended, by step
    passes: int = 0
    context: int = 0

    def submit(self, step: int, prompt: int, tokens: int, first: bool, now: float) -> None:
        """One more rollout to sample; the prompt is computed for the first of its group."""
        if not self.running and not self.waiting:
            self.now = max(self.now, now)
        self.waiting.append((step, prompt, max(tokens, 1), first))
        self.owed[step] += 1

    def finish(self, step: int) -> float:
        """Go on until all rollouts of a step have ended; the moment."""
        while self.owed[step]:
            self._until_an_end(math.inf)
        return self.now

    def run(self, until: float) -> None:
        """Go on to a moment, or past it to the end of a pass."""
        while (self.running or self.waiting) and self.now < until:
            self._until_an_end(until)

    def _until_an_end(self, until: float) -> None:
        self._admit()
        left = self.running[0][0] - self.passes
        many = left if self.now + self._seconds(left) <= until else self._fitting(until - self.now, left)
        self._spend(self._seconds(many))
        self.passes += many
        self.context += many * len(self.running)
        while self.running and self.running[0][0] == self.passes:
            _, step, prompt, tokens = heapq.heappop(self.running)
            self.context -= prompt + tokens
            self.owed[step] -= 1

    def interrupt(self, seconds: float, at: float) -> None:
        """Stand still while weights arrive, then compute the contexts of what runs again."""
        self.now = max(self.now, at) + seconds
        self._spend(self.costs.prefill_s * self.context)

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.rows:
            step, prompt, tokens, first = self.waiting.popleft()
            self._spend(self.costs.prefill_s * prompt * first)
            heapq.heappush(self.running, (self.passes + tokens, step, prompt, tokens))
            self.context += prompt

    def _seconds(self, passes: int) -> float:
        """Of so many passes without an end in between: contexts grow by a token a row and pass."""
        rows, c = len(self.running), self.costs
        grown = self.context * passes + rows * passes * (passes + 1) / 2
        return passes * (c.pass_s + c.row_s * rows) + c.context_s * grown

    def _fitting(self, seconds: float, most: int) -> int:
        """The fewest passes that take at least so long."""
        low, high = 1, most
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._seconds(middle) >= seconds else (middle + 1, high)
        return low

    def _spend(self, seconds: float) -> None:
        self.now += seconds
        self.busy += seconds


def simulate(loads: Sequence[Load], costs: Costs, *, samplers: int, rows: int, staleness: int = 0) -> list[StepTime]:
    """The times of these steps, one after the other; `rows` is a sampler's."""
    engines = [Sampler(costs, rows) for _ in range(samplers)]
    times: list[StepTime] = []
    now, admitted = 0.0, 0
    for step, load in enumerate(loads):
        begun, busy = now, sum(e.busy for e in engines)
        while admitted < min(step + staleness + 1, len(loads)):
            for number, tokens in enumerate(loads[admitted].lengths):
                group, sample = divmod(number, loads[admitted].group_size)  # a group's rollouts share a sampler
                engines[group % samplers].submit(admitted, loads[admitted].prompt, int(tokens), sample == 0, now)
            admitted += 1
        now = max([now, *(engine.finish(step) for engine in engines if engine.owed[step])])  # the learner waits
        rollout = now - begun
        tokens = sum(load.lengths) + load.prompt * len(load.lengths)
        squares = sum((load.prompt + n) ** 2 for n in load.lengths)
        logprobs, update = costs.logprob_s * tokens, costs.update_s * tokens + costs.square_s * squares + costs.step_s
        now += logprobs + update
        for engine in engines:  # they went on while it computed
            engine.run(now)
            engine.interrupt(costs.sync_s, now)
        now += costs.sync_s
        times.append(StepTime(rollout, logprobs, update, costs.sync_s, sum(e.busy for e in engines) - busy))
    return times
