"""Blocks of Python run side by side in a sandbox, and what they say as text."""

from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

from longthink.sandbox.client import Sandbox, Session
from longthink.sandbox.jobs import Outcome
from longthink.tools.formats import THOUGHT
from longthink.types import Call

__all__ = ["Interpreter", "shortened", "status_shown"]

MAX_CODE = 100_000  # characters
TIMEOUT, LIMIT, LENGTH, MEMORY, CRASH = "Timeout Error", "Output Limit Error", "Length Error", "MemoryError", "Interpreter Error"
CPU_S = 24 * 3600  # no less than any call may take: a session's own limit is what holds


class _Job(NamedTuple):
    """A block, what has run before it, and what `random` begins with."""

    number: int
    code: str
    earlier: tuple[Call, ...]
    seed: int


class Interpreter:
    """Runs blocks, at most `at_once` at a time, each in a process of its own that begins with what its rollout ran before.

    A block's names are those its earlier blocks leave: they run again in front of it, unheard, as far as they came, for `call_s`
    each at most; then it has `call_s` of its own. Where nothing was printed the output is the value of the last line; an
    exception's last line stands behind what was printed; output longer than `output_chars` keeps its first and last halves.
    `random` and NumPy begin with the rollout's seed. Source: STILL-3's code (5 s, 400 characters, "Timeout Error");
    there an exception takes the place of what was printed, and blocks share nothing.
    Raises: SandboxError where this machine cannot confine at least to `lowest`.
    """

    def __init__(self, *, call_s: float, output_chars: int, memory_mb: int, lowest: str, at_once: int) -> None:
        self.call_s, self.output_chars, self.at_once = call_s, output_chars, at_once
        self._sandbox = Sandbox(memory=memory_mb << 20, seconds=CPU_S, lowest=lowest)
        assert self._sandbox.level
        self._waiting: deque[_Job] = deque()
        self._running: dict[int, tuple[_Job, Session]] = {}
        self._done: dict[int, Call] = {}
        self._dropped: set[int] = set()
        self._again: set[int] = set()  # lost once with the sandbox, through no fault of their own
        self._number = 0

    def close(self) -> None:
        self._sandbox.close()

    def begin(self, code: str, earlier: Sequence[Call] = (), seed: int = 0) -> int:
        """Run a block, when there is room; the number of the job."""
        self._number += 1
        if len(code) > MAX_CODE:
            self._done[self._number] = Call(code, LENGTH, "limit", 0.0)
        else:
            again = tuple(call for call in earlier if call.status in ("ok", "error"))
            self._waiting.append(_Job(self._number, code, again, seed))
            self._start()
        return self._number

    def wait(self, timeout_s: float) -> None:
        """Move things on, waiting at most so long for something to happen."""
        self._start()
        self._sandbox.wait(timeout_s if self._running else 0.0)
        for number in [n for n, (_, session) in self._running.items() if session.over]:
            job, session = self._running.pop(number)
            if number in self._dropped:
                self._dropped.discard(number)
                session.close()
            elif session.lost and number not in self._again:
                self._again.add(number)
                session.close()
                self._waiting.appendleft(job)
            else:
                self._again.discard(number)
                self._done[number] = self._said(job, session)
        self._start()

    def done(self, number: int) -> bool:
        return number in self._done

    def seconds(self, number: int) -> float:
        """How long a job that is not over has run, or the shortest of those that it waits for."""
        found = self._running.get(number)
        return found[1].seconds if found else min((session.seconds for _, session in self._running.values()), default=0.0)

    def take(self, number: int) -> Call:
        """What a job that is over has said, once."""
        return self._done.pop(number)

    def drop(self, number: int) -> None:
        """Forget a job; one that runs goes on unheard."""
        self._waiting = deque(job for job in self._waiting if job.number != number)
        self._done.pop(number, None)
        if number in self._running:
            self._dropped.add(number)

    def _start(self) -> None:
        while self._waiting and len(self._running) < self.at_once:
            job = self._waiting.popleft()
            blocks = [*(call.code for call in job.earlier), job.code]
            self._running[job.number] = job, self._sandbox.session(blocks, seed=job.seed, block_s=self.call_s)

    def _said(self, job: _Job, session: Session) -> Call:
        seconds = session.seconds
        if session.lost:
            session.close()
            return Call(job.code, self._text(Outcome("crash", b"", ""), None), "crash", round(seconds, 3))
        outcome, value, own = session.result()
        return Call(job.code, self._text(outcome, value), outcome.status, round(min(own, seconds), 3))

    def _text(self, outcome: Outcome, value: str | None) -> str:
        printed = outcome.stdout.decode(errors="replace")
        endings = {
            "ok": "" if printed else value or "",
            "error": outcome.error,
            "timeout": TIMEOUT,
            "limit": outcome.error if outcome.error.startswith(MEMORY) else LIMIT,
            "crash": CRASH,
        }
        ending = endings[outcome.status]
        text = f"{printed.rstrip()}\n{ending}" if printed.strip() and ending else ending or printed
        text = text.encode("utf-8", "replace").decode()  # no half characters, which no tokenizer takes
        text = text.replace(THOUGHT, "</ think>").strip("\n")  # what is printed ends no thinking
        return shortened(text, self.output_chars)


def status_shown(output: str) -> Literal["ok", "timeout", "limit", "crash"]:
    r"""How a block ended, as far as its output says so: one that came to its end, with an exception or without, is ok.

    >>> status_shown("1\nTimeout Error"), status_shown("ZeroDivisionError: division by zero")
    ('timeout', 'ok')
    """
    last = output.strip().rpartition("\n")[2]
    if last.startswith(TIMEOUT):
        return "timeout"
    if last.startswith((LIMIT, LENGTH, MEMORY)):
        return "limit"
    return "crash" if last.startswith(CRASH) else "ok"


def shortened(text: str, most: int) -> str:
    """A text, or its first and last halves where it has more than so many characters."""
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-(most // 2) :]}"
