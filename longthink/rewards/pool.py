"""Worker processes that grade under a deadline: jobs in, verdicts out, and nothing a response does stops them.

    submit -> queue -> handed over, a few to a worker -> answered in order -> drain: verdicts by key
                ^                     |
                +---- jobs behind it -+- deadline passed or process lost: worker replaced, its first job unscored

A worker answers in order, so its first unanswered job is the one it works on, and only that job's clock
runs. The parent is one thread: nothing moves while it is outside `submit` and `drain`, and no job pays for that.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from longthink.errors import RewardError
from longthink.rewards.base import Reward
from longthink.types import Verdict

__all__ = ["RewardPool"]

MAX_JOBS = 8  # in flight per worker: hides the round trip, and a hanging job holds up no more than these
MAX_BYTES = 1 << 20  # in flight per worker, unless a single job is larger
CHUNK_BYTES = 1 << 16
START_S = 120.0  # a cold disk may take this long to load the libraries
MAX_FRUITLESS = 3  # losses in a row per worker without a job to show for them
# One thread each, for the stacks of a thread pool would fill the address space a worker may use; one hash
# seed, because sympy walks through sets.
WORKER_ENV = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


class Job(NamedTuple):
    """A line for a worker, and whose verdict it asks for."""

    number: int
    key: Hashable
    line: bytes


class Worker:
    """One process and its pipes; `jobs` are those handed over and not yet answered."""

    def __init__(self, table: dict[str, Any]) -> None:
        path = os.pathsep.join(filter(None, (str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH"))))
        self.stderr = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "longthink.rewards.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            bufsize=0,
            close_fds=True,
            start_new_session=True,
            env={**os.environ, **WORKER_ENV, "PYTHONPATH": path},
        )
        assert self.process.stdin and self.process.stdout
        self.stdin, self.stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.stdin, False)
        os.set_blocking(self.stdout, False)
        self.is_ready = False
        self.jobs: deque[Job] = deque()
        self.unsent = bytearray(json.dumps({"reward": table}).encode("ascii") + b"\n")
        self.received = bytearray()
        self.clock = time.monotonic()  # when it last got or gave something

    def has_room(self, num_bytes: int) -> bool:
        """Whether it can take one more line of this length."""
        held = sum(len(job.line) for job in self.jobs)
        return self.is_ready and (not self.jobs or (len(self.jobs) < MAX_JOBS and held + num_bytes <= MAX_BYTES))

    def unsent_of_first(self) -> int:
        """How many bytes of its first job it has not been sent."""
        return max(0, len(self.unsent) - sum(len(job.line) for job in list(self.jobs)[1:]))

    def kill(self) -> None:
        """End the process and everything it started; its pipes stay open."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        for stream in (self.process.stdin, self.process.stdout, self.stderr):
            stream.close()

    def last_words(self) -> str:
        """How it ended and the end of what it wrote to stderr."""
        code = self.process.returncode
        size = self.stderr.seek(0, os.SEEK_END)
        self.stderr.seek(max(0, size - 2_000))
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        return f"{how}: {self.stderr.read().decode(errors='replace').strip() or 'nothing on stderr'}"


class RewardPool:
    """Grades in `workers` processes; at most `reward.deadline_s` seconds a job, counted while it is worked on.

    A verdict has no score where our part failed: `timeout` past the deadline, `crash` where the process was
    lost (memory, signal, exit), `verifier_error` where the gold cannot be sent. `restarts` counts replaced
    workers by the same statuses. Create it in a thread that outlives it: workers die with that thread.
    Raises: RewardError where workers cannot start.
    """

    def __init__(self, reward: Reward, kind: str, workers: int) -> None:
        self.restarts: Counter[str] = Counter()
        self._deadline_s = reward.deadline_s
        self._table = {"kind": kind, **reward.model_dump(mode="json")}
        self._selector = selectors.DefaultSelector()
        self._workers: list[Worker] = []
        self._queue: deque[Job] = deque()
        self._verdicts: dict[Hashable, Verdict | None] = {}
        self._num_open = self._num_jobs = self._fruitless = 0
        try:
            for _ in range(workers):
                self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The process of each worker."""
        return [worker.process.pid for worker in self._workers]

    def submit(self, key: Hashable, response: str, gold: Any) -> None:
        """Ask for a verdict; it does not wait. Raises: RewardError for a key that is in use until the next drain."""
        if key in self._verdicts or not self._workers:
            raise RewardError(f"reward pool: job {key!r} was submitted " + ("twice" if self._workers else "after close()"))
        self._num_jobs += 1
        try:
            line = json.dumps({"job": self._num_jobs, "response": response, "gold": gold}).encode("ascii") + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            self._verdicts[key] = Verdict(None, "verifier_error", detail={"why": f"the gold is not JSON: {error}"[:200]})
            return
        self._verdicts[key] = None
        self._num_open += 1
        self._queue.append(Job(self._num_jobs, key, line))
        self._turn(0.0)

    def drain(self) -> dict[Hashable, Verdict]:
        """Wait until all is decided; the verdicts since the last drain, in the order of submission."""
        while self._num_open:
            now = time.monotonic()
            ends = (w.clock + (self._deadline_s if w.is_ready else START_S) for w in self._workers if w.jobs or not w.is_ready)
            self._turn(max(0.0, min(ends, default=now) - now))
        decided = {key: verdict for key, verdict in self._verdicts.items() if verdict is not None}
        self._verdicts.clear()
        return decided

    def close(self) -> None:
        """Kill the workers, whatever they are at; undecided jobs are dropped."""
        for worker in self._workers:
            worker.kill()
            worker.close()
        self._workers.clear()
        self._selector.close()

    def _turn(self, timeout_s: float) -> None:
        """Hand over, wait for a pipe, move bytes, and only then look at the clocks."""
        self._hand_over()
        for event, mask in self._selector.select(timeout_s):
            worker: Worker = event.data
            if worker in self._workers:
                (self._write if mask & selectors.EVENT_WRITE else self._read)(worker)
        now = time.monotonic()
        for worker in list(self._workers):
            if not worker.is_ready and now - worker.clock > START_S:
                worker.kill()
                self._lose(worker, "timeout")
            elif worker.is_ready and worker.jobs and now - worker.clock > self._deadline_s:
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
            if "ready" in message:
                worker.is_ready = True
                continue
            job = worker.jobs.popleft()
            assert job.number == message.pop("job"), "a reward worker answered out of order"
            self._fruitless = 0
            self._decide(job, Verdict(**message))

    def _decide(self, job: Job, verdict: Verdict) -> None:
        self._verdicts[job.key] = verdict
        self._num_open -= 1

    def _start(self) -> None:
        worker = Worker(self._table)
        self._workers.append(worker)
        self._selector.register(worker.stdout, selectors.EVENT_READ, worker)
        self._selector.register(worker.stdin, selectors.EVENT_WRITE, worker)

    def _lose(self, worker: Worker, status: Literal["timeout", "crash"]) -> None:
        """Replace a worker; the job it was at has no score, those behind it go to the front of the queue."""
        worker.kill()
        self._workers.remove(worker)
        for pipe in (worker.stdin, worker.stdout):
            with contextlib.suppress(KeyError):
                self._selector.unregister(pipe)
        why = worker.last_words()
        worker.close()
        if not worker.is_ready:
            raise RewardError(f"reward {self._table['kind']!r}: a worker did not start ({why})")
        if worker.jobs and worker.unsent_of_first() < len(worker.jobs[0].line):
            self._decide(worker.jobs.popleft(), Verdict(None, status, detail={"why": why}))
        else:
            self._fruitless += 1
        if self._fruitless > MAX_FRUITLESS * (len(self._workers) + 1):
            raise RewardError(f"reward {self._table['kind']!r}: workers die before they take a job ({why})")
        self._queue.extendleft(reversed(worker.jobs))
        self.restarts[status] += 1
        self._start()
