"""Worker processes that grade under a deadline: jobs in, verdicts out, and nothing a response does stops them.

    submit -> queue -> handed over, a few to a worker -> answered in order -> drain: verdicts by key
                ^                     |
                +---- jobs behind it -+- deadline passed or process lost: worker replaced, its first job unscored

A worker answers in order, so its first unanswered job is the one it works on, and only that job's clock
runs. The parent is one thread: nothing moves while it is outside `submit` and `drain`, and no job pays for that.
"""

import contextlib
import json
import math
import os
import selectors
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Hashable
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired
from typing import Any, Literal, NamedTuple, Protocol, Self

from longthink.errors import RewardError
from longthink.rewards.base import Reward
from longthink.types import Verdict

__all__ = ["Grader", "RewardPool"]

COMMAND = [sys.executable, "-m", "longthink.rewards.worker"]
MAX_JOBS = 8  # in flight per worker: hides the round trip, and a hanging job holds up no more than these
MAX_BYTES, CHUNK_BYTES = 1 << 20, 1 << 16  # in flight per worker, unless a single job is larger; in one read or write
LAST_WORDS_S = 2.0  # for a worker that ends before it has begun to say why
START_S = 120.0  # a cold disk may take this long to load the libraries
RETIRE_AFTER = 5_000  # jobs
MAX_FRUITLESS = 3  # losses in a row per worker without a job to show for them
# The stacks of a thread pool would fill the address space of a worker; sympy walks through sets, whose order hashes decide.
WORKER_ENV = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


class Grader(Protocol):
    """What grades rollouts: processes here (`RewardPool`) or on other machines (`longthink.reward_client.RemotePool`)."""

    def submit(self, key: Hashable, response: str, gold: Any, reward: Reward | None = None) -> None: ...
    def take(self, key: Hashable) -> Verdict: ...
    def drain(self) -> dict[Hashable, Verdict]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class Job(NamedTuple):
    """A line for a worker, whose verdict it asks for, which reward it needs and how long that may take."""

    number: int
    key: Hashable
    line: bytes
    reward: str
    deadline_s: float


class Worker:
    """One process and its pipes; `jobs` are those handed over and not yet answered."""

    def __init__(self, reward: str) -> None:
        path = os.pathsep.join(filter(None, (str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH"))))
        env = {**os.environ, **WORKER_ENV, "PYTHONPATH": path}
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the pipes)
        self.process = Popen(COMMAND, stdin=PIPE, stdout=PIPE, stderr=self.stderr, bufsize=0, start_new_session=True, env=env)
        assert self.process.stdin and self.process.stdout
        self.files = (self.process.stdin, self.process.stdout, self.stderr)
        self.stdin, self.stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.stdin, False)
        os.set_blocking(self.stdout, False)
        self.prepared: set[str] = set()  # rewards it has loaded; the first is that of its start
        self.done = 0
        self.jobs: deque[Job] = deque()
        self.unsent, self.received = bytearray(), bytearray()
        self.clock = time.monotonic()  # when it last got or gave something
        with contextlib.suppress(BrokenPipeError):
            os.write(self.stdin, reward.encode("ascii") + b"\n")

    def has_room(self, num_bytes: int) -> bool:
        """Whether it can take one more line of this length."""
        held = sum(len(job.line) for job in self.jobs)
        if not self.is_ready or self.done + len(self.jobs) >= RETIRE_AFTER:
            return False
        return not self.jobs or (len(self.jobs) < MAX_JOBS and held + num_bytes <= MAX_BYTES)

    @property
    def is_ready(self) -> bool:
        return bool(self.prepared)

    def due(self) -> float:
        """When its time is up; never while it owes nothing. Loading what a reward needs is not the job's time."""
        if not self.is_ready or (self.jobs and self.jobs[0].reward not in self.prepared):
            return self.clock + START_S
        return self.clock + self.jobs[0].deadline_s if self.jobs else math.inf

    def unsent_of_first(self) -> int:
        """How many bytes of its first job it has not been sent."""
        return max(0, len(self.unsent) - sum(len(job.line) for job in list(self.jobs)[1:]))

    def kill(self) -> None:
        """End the process and everything it started; its pipes stay open."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        for file in self.files:
            file.close()

    def last_words(self) -> str:
        """How it ended and the end of what it wrote to stderr."""
        self.stderr.seek(max(0, self.stderr.seek(0, os.SEEK_END) - 2_000))
        how = f"exit status {code}" if (code := self.process.returncode) >= 0 else f"killed by signal {-code}"
        return f"{how}: {self.stderr.read().decode(errors='replace').strip() or 'nothing on stderr'}"


class RewardPool:
    """Grades in `workers` processes; at most the reward's `deadline_s` seconds a job, counted while it is worked on.

    `reward` is that of jobs which name none, and loaded before the first. A verdict has no score where our part
    failed: `timeout` past the deadline, `crash` where the process was lost (memory, signal, exit), `verifier_error`
    where the gold cannot be sent. `restarts` counts replaced workers by the same statuses. Workers die with the thread
    that started them. Raises: RewardError where workers cannot start.
    """

    def __init__(self, reward: Reward, workers: int) -> None:
        self.restarts: Counter[str] = Counter()
        self._reward, self._tables = reward, {reward: table(reward)}
        self._selector = selectors.DefaultSelector()
        self._workers: list[Worker] = []
        self._queue: deque[Job] = deque()
        self._open: set[Hashable] = set()
        self._decided: dict[Hashable, tuple[int, Verdict]] = {}
        self._num_jobs = self._fruitless = 0
        for _ in range(workers):
            self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, key: Hashable, response: str, gold: Any, reward: Reward | None = None) -> None:
        """Ask for a verdict; it does not wait. Raises: RewardError for a key that is in use until its verdict is taken."""
        if key in self._open or key in self._decided or not self._workers:
            raise RewardError(f"reward pool: job {key!r} was submitted " + ("twice" if self._workers else "after close()"))
        reward = reward or self._reward
        if (name := self._tables.get(reward)) is None:
            name = self._tables[reward] = table(reward)
        self._num_jobs += 1
        try:
            job = {"job": self._num_jobs, "reward": name, "response": response, "gold": gold}
            line = json.dumps(job).encode("ascii") + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            why = f"the gold is not JSON: {error}"[:200]
            self._decided[key] = self._num_jobs, Verdict(None, "verifier_error", detail={"why": why})
            return
        self._open.add(key)
        self._queue.append(Job(self._num_jobs, key, line, name, reward.deadline_s))
        self._turn(0.0)

    def take(self, key: Hashable) -> Verdict:
        """Wait for one verdict and forget it."""
        while key in self._open:
            self._wait()
        return self._decided.pop(key)[1]

    def drain(self) -> dict[Hashable, Verdict]:
        """Wait until all is decided; the verdicts not yet taken, in the order of submission."""
        while self._open:
            self._wait()
        return self.poll(0.0)

    def poll(self, timeout_s: float) -> dict[Hashable, Verdict]:
        """Move things on, waiting at most so long for one to happen; the verdicts not yet taken, in the order of submission."""
        self._wait(0.0 if self._decided else timeout_s)
        decided, self._decided = self._decided, {}
        return {key: verdict for key, (_, verdict) in sorted(decided.items(), key=lambda item: item[1][0])}

    def watch(self, descriptor: int) -> None:
        """Let `poll` return early when this descriptor can be read."""
        self._selector.register(descriptor, selectors.EVENT_READ, None)

    def close(self) -> None:
        """Kill the workers, whatever they are at; undecided jobs are dropped."""
        for worker in self._workers:
            worker.kill()
            worker.close()
        self._workers.clear()
        self._open.clear()
        self._selector.close()

    def _wait(self, timeout_s: float = START_S) -> None:
        due = min(worker.due() for worker in self._workers)
        self._turn(min(max(0.0, due - time.monotonic()), timeout_s))

    def _turn(self, timeout_s: float) -> None:
        """Hand over, wait for a pipe, move bytes, and only then look at the clocks."""
        self._hand_over()
        for event, mask in self._selector.select(timeout_s):
            worker: Worker | None = event.data  # None: a descriptor that is watched
            if worker in self._workers:
                (self._write if mask & selectors.EVENT_WRITE else self._read)(worker)
        now = time.monotonic()
        for worker in list(self._workers):
            if now > worker.due():
                self._lose(worker, "timeout")
        self._hand_over()

    def _hand_over(self) -> None:
        """Give queued jobs to the least busy workers that have room."""
        while self._queue:
            able = [w for w in self._workers if w.has_room(len(self._queue[0].line))]
            if not able:
                return
            worker = min(able, key=lambda w: len(w.jobs))
            if not worker.jobs and worker.process.poll() is not None:
                self._lose(worker, "crash")
                continue
            if not worker.jobs:
                worker.clock = time.monotonic()
            job = self._queue.popleft()
            worker.jobs.append(job)
            if not worker.unsent:
                self._selector.register(worker.stdin, selectors.EVENT_WRITE, worker)
            worker.unsent += job.line

    def _write(self, worker: Worker) -> None:
        try:
            sent = os.write(worker.stdin, bytes(worker.unsent[:CHUNK_BYTES]))
        except BrokenPipeError:  # the end of its stdout tells the rest
            self._selector.unregister(worker.stdin)
            return
        if worker.unsent_of_first():
            worker.clock = time.monotonic()
        del worker.unsent[:sent]
        if not worker.unsent:
            self._selector.unregister(worker.stdin)

    def _read(self, worker: Worker) -> None:
        data = os.read(worker.stdout, CHUNK_BYTES)
        if not data:
            self._lose(worker, "crash")
            return
        worker.clock = time.monotonic()
        worker.received += data
        *lines, rest = worker.received.split(b"\n")
        worker.received = rest
        for line in lines:
            message = json.loads(line)
            if "prepared" in message:
                worker.prepared.add(message["prepared"])
                continue
            job = worker.jobs.popleft()
            worker.done += 1
            assert job.number == message.pop("job"), "a reward worker answered out of order"
            self._fruitless = 0
            self._decide(job, Verdict(**message))
        if worker.done >= RETIRE_AFTER and not worker.jobs and worker in self._workers:
            self._replace(worker)

    def _decide(self, job: Job, verdict: Verdict) -> None:
        self._open.remove(job.key)
        self._decided[job.key] = job.number, verdict

    def _start(self) -> None:
        worker = Worker(self._tables[self._reward])
        self._workers.append(worker)
        self._selector.register(worker.stdout, selectors.EVENT_READ, worker)

    def _lose(self, worker: Worker, status: Literal["timeout", "crash"]) -> None:
        """Replace a worker; the job it was at has no score, those behind it go to the front of the queue."""
        if status == "crash" and not worker.is_ready:
            with contextlib.suppress(TimeoutExpired):
                worker.process.wait(LAST_WORDS_S)
        self._remove(worker)
        first = worker.jobs[0].deadline_s if worker.jobs else 0.0
        why = f"no answer in {first} s" if status == "timeout" and worker.is_ready else worker.last_words()
        worker.close()
        if not worker.is_ready:
            raise RewardError(f"reward {self._reward.kind}: a worker did not start ({why})")
        if worker.jobs and worker.unsent_of_first() < len(worker.jobs[0].line):
            self._decide(worker.jobs.popleft(), Verdict(None, status, detail={"why": why}))
        else:
            self._fruitless += 1
        if self._fruitless > MAX_FRUITLESS * (len(self._workers) + 1):
            raise RewardError(f"reward {self._tables[self._reward]}: workers die before they take a job ({why})")
        self._queue.extendleft(reversed(worker.jobs))
        self.restarts[status] += 1
        self._start()

    def _replace(self, worker: Worker) -> None:
        """A fresh process for one that has done its share: what libraries keep in memory goes with the old one."""
        self._remove(worker)
        worker.close()
        self._start()

    def _remove(self, worker: Worker) -> None:
        worker.kill()
        self._workers.remove(worker)
        for pipe in (worker.stdin, worker.stdout):
            with contextlib.suppress(KeyError):
                self._selector.unregister(pipe)


def table(reward: Reward) -> str:
    """What a worker builds the reward from."""
    return json.dumps({"kind": reward.kind, **reward.model_dump(mode="json")})
