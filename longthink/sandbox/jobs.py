"""What the sandbox's client has of a job: its children, their output, the descriptors they share, and how it ended."""

import json
import os
import signal
import socket
import time
from typing import Literal, NamedTuple, Self

__all__ = ["Descriptors", "Job", "Kept", "Outcome", "Output", "last_line", "status_of"]

Status = Literal["ok", "error", "timeout", "limit", "crash"]


class Outcome(NamedTuple):
    """How a run ended. `error` (an exception), `timeout`, `limit` and `crash` (a signal) are the program's own doing."""

    status: Status
    stdout: bytes
    error: str


class Output:
    """What a child writes to one pipe, up to a limit; `over` when it wrote more."""

    def __init__(self, most: int) -> None:
        self.reading, self.writing = os.pipe()
        self.data, self.most, self.over = bytearray(), most, False

    def read(self) -> bool:
        """Take what is there; False at the end."""
        part = os.read(self.reading, 1 << 16)
        self.over |= len(self.data) + len(part) > self.most
        self.data += part[: self.most - len(self.data)]
        return bool(part)


class Kept:
    """What a child writes to a file in memory, as far as a limit, looked at once it has ended; `over` when it wrote more.

    A child never waits for a reader: how long it runs does not depend on when we come to read.
    """

    def __init__(self, most: int) -> None:
        self._file = os.memfd_create("output")
        self.writing = os.open(f"/proc/self/fd/{self._file}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)  # nothing to read there
        self.data, self.most, self.over = b"", most, False

    def first_line(self) -> str:
        """Its first line so far, where that has ended."""
        line, ended, _ = os.pread(self._file, 64, 0).partition(b"\n")
        return line.decode(errors="replace") if ended else ""

    def take(self) -> None:
        """Read it, and let go of the file."""
        size = os.fstat(self._file).st_size
        self.data, self.over = os.pread(self._file, min(size, self.most), 0), size > self.most
        os.close(self._file)


class Job:
    """Children that run together until `last` has ended, and what they write.

    `ends` are their exit statuses, None for those that were killed here (`ours`); `late` says that time was up before `last` had
    ended. `lost` says why nothing is known, where the sandbox was lost.
    """

    def __init__(
        self,
        children: list[int],
        last: int,
        outputs: list[Output],
        deadline_s: float,
        mark: Kept | None = None,
        block_s: float = 0.0,
    ) -> None:
        self.children, self.last, self.outputs = children, last, outputs
        self.mark, self.block_s = mark, block_s
        self.began = self.ended = time.monotonic()
        self.deadline = self.began + deadline_s
        self.ends: dict[int, int | None] = {}
        self.ours: set[int] = set()
        self.late = self.over = False
        self.lost = ""

    def look(self, now: float) -> None:
        """From the moment that `mark` names on, it has `block_s`; a moment that cannot be is the nearest one that can."""
        if self.mark is not None and (text := self.mark.first_line()):
            try:
                told = float(text)
            except ValueError:
                told = now
            self.began = min(told, now) if told > self.began else self.began
            self.deadline, self.mark = min(self.deadline, self.began + self.block_s), None


class Descriptors:
    """The descriptors of one job, closed together."""

    def __init__(self) -> None:
        self.opened: list[int] = []
        self.outputs: list[Output] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_writing()
        for output in self.outputs:
            os.close(output.reading)

    def keep(self, descriptor: int) -> int:
        self.opened.append(descriptor)
        return descriptor

    def output(self, most: int) -> Output:
        output = Output(most)
        self.outputs.append(output)
        self.keep(output.writing)
        return output

    def text(self, text: str) -> int:
        """A file in memory with this content, read from its beginning."""
        descriptor = self.keep(os.memfd_create("text"))
        data = memoryview(text.encode("utf-8", errors="replace"))
        while data:
            data = data[os.write(descriptor, data) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def payload(self, source: str, entry: str = "") -> int:
        return self.text(json.dumps({"source": source, "entry": entry}))

    def null(self) -> int:
        return self.keep(os.open(os.devnull, os.O_RDWR))

    def kept(self, most: int) -> Kept:
        """A file in memory that a child writes to; it stays here until it is taken."""
        kept = Kept(most)
        self.keep(kept.writing)
        return kept

    def pair(self) -> tuple[int, int]:
        here, there = socket.socketpair()
        return self.keep(here.detach()), self.keep(there.detach())

    def close_writing(self) -> None:
        """Close what the children now hold, so that the pipes end with them."""
        for descriptor in self.opened:
            os.close(descriptor)
        self.opened.clear()


def status_of(end: int | None, late: bool, over: bool, err: Output | Kept) -> Status:
    """How a child ended, by its exit status (None where it was killed here), the clock, and what it wrote."""
    if over or err.over:
        return "limit"
    if late or end == -signal.SIGXCPU:
        return "timeout"
    if end == 0:
        return "ok"
    if end == -signal.SIGXFSZ or last_line(err).startswith("MemoryError"):
        return "limit"
    return "crash" if end is not None and end < 0 else "error"


def last_line(err: Output | Kept) -> str:
    """The last line of an error."""
    lines = err.data.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""
