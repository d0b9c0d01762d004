"""Run untrusted programs, from a process that may be trusted with what they should answer."""

import contextlib
import json
import math
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any, Self

from longthink.errors import SandboxError
from longthink.sandbox.jobs import Descriptors, Job, Kept, Outcome, last_line, status_of

__all__ = ["Sandbox", "Session"]

ROOT = str(Path(__file__).resolve().parents[2])
BOOT = f"import sys; sys.path.insert(0, {ROOT!r}); from longthink.sandbox import zygote; zygote.main()"
ENVIRONMENT = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
START_S, KILL_S = 60.0, 5.0  # until a zygote is ready; until a killed child must be gone
STACK_BYTES = 256 << 20  # deep recursion is the programs' daily bread
MAX_ERROR = 1 << 16
MAX_RESULTS = 64 << 20  # of all runs of one program in one child


class Sandbox:
    """One zygote and the programs it forks; started at first need, again when it is lost.

    Every child has no network, starts no process, reads Python's library and nothing else, and writes to a bounded
    folder in memory or nowhere, as far as `level` says. It cannot be asked to keep its own result honest: print it.
    Raises: SandboxError where this machine cannot confine at least to `lowest`, or a zygote does not start.
    """

    def __init__(
        self, *, memory: int = 1 << 30, seconds: int = 60, lowest: str = "landlock", modules: tuple[str, ...] = ()
    ) -> None:
        self.memory, self.seconds, self.lowest, self.modules = memory, seconds, lowest, modules
        self.facts: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._number = 0
        self._jobs: list[Job] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the zygote and every child with it."""
        if self._process is not None:
            for job in list(self._jobs):
                self._leave(job, "the sandbox was closed")
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(self._control)
            self._end()
            self._process = None

    @property
    def level(self) -> str:
        """The isolation reached here: none, seccomp, landlock or namespaces."""
        self._start()
        return str(self.facts["ready"])

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", BOOT, str(self.memory), str(self.seconds), *self.modules],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                preexec_fn=_raise_stack,  # sets a limit and nothing else, whatever threads there are
            )
        self._end = weakref.finalize(self, _end, self._process, self._control)
        message = self._message(time.monotonic() + START_S)
        if message is None or "ready" not in message:
            self.close()
            raise SandboxError("the sandbox did not start; `longthink doctor` shows what this machine allows")
        self.facts = message
        order = ("none", "seccomp", "landlock", "namespaces")
        if order.index(self.facts["ready"]) < order.index(self.lowest):
            self.close()
            raise SandboxError(
                f"this machine isolates programs to level {self.facts['ready']!r} only, {self.lowest!r} is asked for "
                f"({json.dumps(self.facts['failures'])}); set `sandbox` to a lower level where you trust what will run"
            )
        self._selector.register(self._control, selectors.EVENT_READ)

    def _message(self, deadline: float) -> dict[str, Any] | None:
        """The zygote's next message; None when it does not come in time or the zygote is gone."""
        self._control.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            packet = self._control.recv(4096)
        except OSError:
            return None
        return dict(json.loads(packet)) if packet else None

    # -- jobs -------------------------------------------------------------------------------------------------------

    def run(self, source: str, stdin: str, *, deadline_s: float, max_output: int = 8 << 20) -> Outcome:
        """Run a program as a script with this input."""
        with Descriptors() as opened:
            out, err = opened.output(max_output), opened.output(MAX_ERROR)
            child = self._fork("program", [opened.text(stdin), out.writing, err.writing, opened.payload(source)])
            job = self._follow(Job([child], child, [out, err], deadline_s), opened)
        return Outcome(status_of(job.ends[child], job.late, out.over, err), bytes(out.data), last_line(err))

    def run_many(self, source: str, inputs: list[str], *, deadline_s: float, max_output: int = 8 << 20) -> list[Outcome]:
        """Run a program on one input after another in a single child, as far as it gets.

        A run may leave something behind for the next one: only the first failure, and success anywhere, can be believed.
        """
        with Descriptors() as opened:
            results, err = opened.output(MAX_RESULTS), opened.output(MAX_ERROR)
            payload = opened.text(json.dumps({"source": source, "inputs": inputs, "most": max_output}))
            child = self._fork("scripts", [opened.text(""), opened.text(""), err.writing, payload, results.writing])
            self._follow(Job([child], child, [results, err], deadline_s), opened)
        outcomes = []
        for line in results.data.splitlines()[: len(inputs)]:
            try:
                found = json.loads(line)
                outcome = Outcome(found["status"], found["printed"].encode(), found["why"])
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                break  # cut off, or the program's own doing
            if outcome.status not in ("ok", "error", "limit"):
                break
            outcomes.append(outcome)
        return outcomes

    def session(self, blocks: list[str], *, seed: int, block_s: float, max_output: int = 1 << 16) -> "Session":
        """Begin to run blocks one after another with the same names in a child; `wait` until it is over.

        `random` begins with the seed; only the last block is heard. It has `block_s` seconds, and so has each before it.
        """
        deadline_s = block_s * len(blocks)
        opened = Descriptors()
        kept = out, err, ending = opened.kept(max_output), opened.kept(MAX_ERROR), opened.kept(MAX_ERROR)
        payload = opened.text(json.dumps({"blocks": blocks, "seed": seed, "cpu_s": math.ceil(deadline_s) + 1}))
        try:
            child = self._fork("session", [opened.text(""), out.writing, err.writing, payload, ending.writing])
        except SandboxError:
            for file in kept:
                file.take()
            raise
        finally:
            opened.close_writing()
        job = Job([child], child, [], deadline_s, ending, block_s)
        self._begin(job)
        return Session(job, out, err, ending)

    def test(self, source: str, tests: str, *, deadline_s: float, entry: str = "") -> Outcome:
        """Run tests in one child against a program in another; stdout is a `.` or `F` for each assertion, `$` when all ran.

        Names the tests do not know are the program's; with `entry` only this one and `Solution` are.
        """
        with Descriptors() as opened:
            marks, err, wrong = opened.output(1 << 20), opened.output(MAX_ERROR), opened.output(MAX_ERROR)
            nothing, (here, there) = opened.text(""), opened.pair()
            program = self._fork("serve", [nothing, opened.null(), err.writing, opened.payload(source), here])
            tester = self._fork("test", [nothing, marks.writing, wrong.writing, opened.payload(tests, entry), there])
            job = self._follow(Job([program, tester], tester, [marks, err, wrong], deadline_s), opened)
        status = "ok" if job.ends[program] is None and not job.late else status_of(job.ends[program], job.late, marks.over, err)
        return Outcome(status, bytes(marks.data), last_line(err) or last_line(wrong))

    def _fork(self, mode: str, descriptors: list[int]) -> int:
        self._start()
        self._number += 1
        try:
            socket.send_fds(self._control, [json.dumps({"run": self._number, "mode": mode}).encode()], descriptors)
        except OSError as error:
            self.close()
            raise SandboxError(f"the sandbox was lost: {error}") from error
        return self._number

    def _begin(self, job: Job) -> None:
        self._jobs.append(job)
        for output in job.outputs:
            self._selector.register(output.reading, selectors.EVENT_READ, output)

    def _follow(self, job: Job, opened: Descriptors) -> Job:
        """Read a job's outputs until it is over."""
        opened.close_writing()
        self._begin(job)
        while not job.over:
            self.wait(START_S)
        if job.lost:
            raise SandboxError(job.lost)
        return job

    def wait(self, timeout_s: float) -> None:
        """Move jobs on, waiting at most so long for something to happen; a child that is late or writes too much is killed.

        What has happened is looked at before the clock: a child that ended in time is not late because we come late.
        """
        self._read(0.0)
        now = time.monotonic()
        for job in list(self._jobs):
            self._judge(job, now)
        due = min((job.deadline for job in self._jobs), default=now) - now
        self._read(max(0.0, min(due, timeout_s)))

    def _read(self, timeout_s: float) -> None:
        """Take all that is there, waiting so long at most for the first of it."""
        while self._jobs and (events := self._selector.select(timeout_s)):
            timeout_s = 0.0
            for event, _ in events:
                if self._selector.get_map().get(event.fd) is not event:
                    continue  # of a job that has just ended
                if event.data is not None:
                    if not event.data.read() or event.data.over:
                        self._selector.unregister(event.fd)
                elif (message := self._message(time.monotonic() + 1.0)) is None:
                    self._lose("the sandbox was lost while a program ran")
                    return
                else:
                    self._ended(message["end"], message["status"], message["at"])

    def _judge(self, job: Job, now: float) -> None:
        """End what has to be ended: the children of a job that is late, writes too much, or whose last child has ended."""
        if not job.ours:
            job.look(now)
        if not job.ours and (now > job.deadline or job.last in job.ends or any(o.over for o in job.outputs)):
            job.late, job.deadline = now > job.deadline and job.last not in job.ends, now + KILL_S
            job.ours = set(job.children) - set(job.ends)
            for child in job.ours:
                with contextlib.suppress(OSError):  # its end says the rest
                    self._control.send(json.dumps({"kill": child}).encode())
        elif job.ours and now > job.deadline:
            self._lose("a killed program did not end")

    def _ended(self, number: int, status: int, at: float) -> None:
        job = next(job for job in self._jobs if number in job.children)
        if number not in job.ours:
            job.look(at)
            job.late |= number == job.last and at > job.deadline
        job.ends[number] = None if number in job.ours and status == -signal.SIGKILL else status
        if len(job.ends) < len(job.children):
            self._judge(job, time.monotonic())
            return
        job.ended = at
        for output in job.outputs:  # what was written before the end
            while output.reading in self._selector.get_map() and not output.over and output.read():
                pass
        self._leave(job)

    def _leave(self, job: Job, lost: str = "") -> None:
        for output in job.outputs:
            with contextlib.suppress(KeyError):
                self._selector.unregister(output.reading)
        job.over, job.lost = True, lost
        self._jobs.remove(job)

    def _lose(self, why: str) -> None:
        """Nothing more comes of what runs; the next job starts another zygote."""
        for job in list(self._jobs):
            self._leave(job, why)
        self.close()


class Session:
    """Blocks that run, or have run."""

    def __init__(self, job: Job, out: Kept, err: Kept, ending: Kept) -> None:
        self._job, self._out, self._err, self._ending = job, out, err, ending

    @property
    def over(self) -> bool:
        return self._job.over

    @property
    def seconds(self) -> float:
        """How long its last block has run, or what comes before that."""
        return (self._job.ended if self._job.over else time.monotonic()) - self._job.began

    @property
    def lost(self) -> bool:
        """Whether nothing is known of it: the sandbox was lost."""
        return bool(self._job.lost)

    def close(self) -> None:
        """Let go of what it has written."""
        for file in (self._out, self._err, self._ending):
            file.take()

    def result(self) -> tuple[Outcome, str | None, float]:
        """What the last block printed, its last line's value, and the seconds it says it took; once it is over, and once.

        Where the block did not come to its end (`os._exit`, a signal) the status is crash.
        """
        self.close()
        status = status_of(self._job.ends[self._job.last], self._job.late, self._out.over, self._err)
        value, own = None, math.inf
        try:
            told = json.loads(self._ending.data.partition(b"\n")[2])
            value, own = told["value"], max(0.0, float(told["seconds"]))
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            status = "crash" if status in ("ok", "error") else status
        outcome = Outcome(status, self._out.data, last_line(self._err))
        return outcome, value if isinstance(value, str) else None, own


def _end(zygote: subprocess.Popen[bytes], control: socket.socket) -> None:
    zygote.kill()
    zygote.wait()
    control.close()


def _raise_stack() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    most = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_STACK, (most, hard))
