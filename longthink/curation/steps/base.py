"""The interface of a curation step: rows in, rows kept and rows dropped out, none lost."""

import json
import signal
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from longthink.curation.rows import Rejected, Row, Shards
from longthink.part import Part, load_part
from longthink.progress import Progress

__all__ = ["Input", "RowStep", "Step", "Stopped", "Work"]


class Stopped(Exception):
    """Ctrl-C was pressed: what is whole is kept, the same command goes on."""


class Input(NamedTuple):
    """Rows to take: what a source or step has kept, or what it has dropped."""

    shards: Shards
    rejected: bool = False

    def numbers(self) -> list[int]:
        return self.shards.numbers()

    def shard(self, number: int) -> Sequence[Row]:
        return self.shards.shard(number, self.rejected)

    def rows(self) -> Iterator[Row]:
        return self.shards.rows(self.rejected)


class Work(NamedTuple):
    """What a step works with.

    Its inputs in the order it names them, where its rows go, a folder of its own, and one for what models were asked, which
    steps have in common.
    """

    inputs: Sequence[Input]
    out: Shards
    own: Path
    samples: Path
    seed: int
    workers: int
    progress: Progress

    def spread(self, function: Callable[..., object], jobs: Sequence[tuple[Any, ...]], of: int) -> None:
        """Call `function` with each of the jobs, in as many processes as there are; they are the last ones `of` so many.

        Raises: what a call raises; Stopped when Ctrl-C was pressed, after the calls that go on.
        """
        done = of - len(jobs)
        self.tell(done, of)
        if self.workers == 1 or len(jobs) < 2:
            for number, job in enumerate(jobs, done + 1):
                function(*job)
                self.tell(number, of)
            return
        context = get_context("forkserver")
        context.set_forkserver_preload(["longthink.curation.features"])  # imported once, for the processes of every step
        many = min(self.workers, len(jobs))  # Ctrl-C goes to all of a terminal's processes: it is the parent's alone
        with ProcessPoolExecutor(many, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
            try:
                for number, _ in enumerate(pool.map(function, *zip(*jobs, strict=True)), done + 1):
                    self.tell(number, of)
            except Stopped:
                pool.shutdown(cancel_futures=True)
                raise

    def tell(self, done: int, total: int) -> None:
        """Show how far the step is. Raises: Stopped where that was asked for."""
        self.progress.rollouts(done, total)
        if self.progress.stop_requested:
            raise Stopped


class Step(Part):
    """A step of a curation. `run` writes each row of its inputs once: kept, or dropped with a reason."""

    name: str = Field("", pattern=r"^[A-Za-z0-9_-]*$", description="what others call it by; empty: its kind")
    source: str = Field(
        "", alias="from", description="a source, a step, or what one has dropped, NAME.rejected; empty: the step before"
    )
    paper: int = Field(0, ge=0, description="rows the paper kept here, shown beside ours")

    @property
    def title(self) -> str:
        return self.name or self.kind

    def wants(self, before: str) -> list[str]:
        """The names of its inputs; `before` is the step before."""
        return [self.source or before]

    def reads(self) -> Mapping[str, str]:
        """Digests of what it reads beside its rows: when one changes, the step is done again."""
        return {}

    @abstractmethod
    def run(self, work: Work) -> None:
        """Write a shard of `work.out` for every shard it takes."""


class RowStep(Step):
    """A step that looks at one row at a time, in as many processes as there are."""

    @abstractmethod
    def decide(self, row: Row) -> Row | Rejected:
        """The row, perhaps with facts, or why it is dropped. It is called in other processes, with a shard's rows in order."""

    def run(self, work: Work) -> None:
        source, numbers = work.inputs[0], work.inputs[0].numbers()
        table = json.dumps({"kind": self.kind, **self.model_dump(mode="json", by_alias=True)})
        left = [n for n in numbers if not work.out.is_whole(n)]
        jobs = [(table, str(source.shards.folder), source.rejected, n, str(work.out.folder)) for n in left]
        work.spread(_decide, jobs, len(numbers))


def put(out: Shards, number: int, decided: Sequence[Row | Rejected]) -> None:
    """Write what became of a shard's rows."""
    out.write(number, [d for d in decided if isinstance(d, Row)], [d for d in decided if isinstance(d, Rejected)])


def _decide(table: str, folder: str, rejected: bool, number: int, out: str) -> None:
    step = _built(table)
    put(Shards(Path(out)), number, [step.decide(row) for row in Shards(Path(folder)).shard(number, rejected)])


@lru_cache(maxsize=1)
def _built(table: str) -> RowStep:
    step = load_part(Step, json.loads(table))
    assert isinstance(step, RowStep)
    return step
