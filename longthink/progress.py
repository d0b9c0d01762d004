"""What a person sees while a run goes on: a live line on a terminal, one plain line a step elsewhere.

A watchdog names the phase when nothing has moved for a long time, and shows where every thread stands.
"""

import faulthandler
import signal
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

__all__ = ["Clock", "Progress"]

SILENT_AFTER_S = 300.0
STOPPING = "stopping after this step, with a checkpoint; press Ctrl-C again to stop at once"


class Progress:
    """A context manager around a run. The first Ctrl-C asks for a stop after the step, the second stops at once."""

    def __init__(self, title: str, total: int, *, every: int = 1, stopping: str = STOPPING) -> None:
        self.console = Console(stderr=False)
        self.title, self.total, self.every, self._stopping = title, total, every, stopping
        self.stop_requested = False
        self._phase, self._detail, self._row = "starting", "", ""
        self._moved = self._began = time.monotonic()
        self._ended = threading.Event()
        self._live = (
            Live(Text(""), console=self.console, refresh_per_second=4, transient=True) if self.console.is_terminal else None
        )
        self._watchdog = threading.Thread(target=self._watch, daemon=True)
        self._previous: Any = None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        self._watchdog.start()
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._live:
            self._live.stop()
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def phase(self, name: str) -> None:
        """A new phase begins."""
        self._phase, self._detail, self._began = name, "", time.monotonic()
        self._show()

    def rollouts(self, done: int, total: int) -> None:
        """So many rollouts of the phase have ended."""
        left = (time.monotonic() - self._began) * (total - done) / done if done else 0.0
        self._detail = f"{done}/{total}" + (f", {_in_words(left)} left" if left >= 1.0 else "")
        self._moved = time.monotonic()
        if self._live:
            self._show()

    @property
    def detail(self) -> str:
        """How far the phase has come."""
        return self._detail

    def note(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, row: Mapping[str, Any], *, last: bool) -> None:
        """A step has ended; its line stays when it is due, has a validation, or is the last."""
        self._row = _line(self.title, row, self.total)
        if last or "validation/accuracy" in row or row["step"] % self.every == 0:
            self.note(self._row)
        self._show()

    def _show(self) -> None:
        self._moved = time.monotonic()
        if self._live:
            self._live.update(Text(f"{self._row}  [{self._phase} {self._detail}]".strip(), no_wrap=True))

    def _interrupt(self, _: int, __: FrameType | None) -> None:
        if self.stop_requested:
            raise KeyboardInterrupt
        self.stop_requested = True
        self.note(self._stopping)

    def _watch(self) -> None:
        while not self._ended.wait(10.0):
            silent = time.monotonic() - self._moved
            if silent > SILENT_AFTER_S:
                sys.stderr.write(f"longthink: nothing has moved for {silent:.0f} s; phase: {self._phase} {self._detail}\n")
                faulthandler.dump_traceback(file=sys.stderr)
                self._moved = time.monotonic()


def _in_words(seconds: float) -> str:
    """A time as people say it.

    >>> [_in_words(s) for s in (42.2, 660, 9000)]
    ['42 s', '11 min', '2.5 h']
    """
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _line(title: str, row: Mapping[str, Any], total: int) -> str:
    parts = [f"{title} step {row['step']}/{total}"]
    shown = (
        ("window", "window {:.0f}"),
        ("reward/mean", "reward {:.3f}"),
        ("policy/sampled_nll/mean", "nll {:.3f}"),
        ("length/mean", "length {:.0f}"),
        ("length/clip_ratio", "clipped {:.0%}"),
        ("policy/entropy/mean", "entropy {:.2f}"),
        ("verdict/unscored_share", "{:.0%} unscored"),
        ("select/missing_prompts", "{:.0f} prompts short"),
        ("time/step_s", "{:.1f} s"),
        ("validation/accuracy", "validation {:.3f}"),
        ("validation/loss", "validation loss {:.3f}"),
    )
    rare = {"select/missing_prompts", "verdict/unscored_share"}  # shown where they are not 0
    parts += [form.format(float(row[key])) for key, form in shown if key in row and (key not in rare or row[key])]
    return "  ".join(parts)


class Clock:
    """Names a phase and takes its time."""

    def __init__(self, progress: Progress, phase: str) -> None:
        self._progress, self._phase = progress, phase
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._progress.phase(self._phase)
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
