"""How the parent talks to a side: one JSON command a line in, one JSON answer a line out. Needs the standard library only."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Handlers = Mapping[str, Callable[[], dict[str, Any]]]

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
}


def serve(start: Callable[[], Handlers]) -> None:
    """A side's life: start, say so, then answer commands until the parent goes away. Other output goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    handlers = start()
    for answer in _answers(handlers):
        print(json.dumps(answer), file=out, flush=True)


def _answers(handlers: Handlers) -> Iterator[dict[str, Any]]:
    yield {"ready": sorted(handlers)}
    for line in sys.stdin:
        yield handlers[json.loads(line)["measure"]]()


class Clock:
    """Seconds on the wall and on the processor since it was made. The two differ where others want the same core."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self._wall, "cpu_seconds": time.process_time() - self._cpu}


class Side:
    """A side as the parent sees it: a process on one core that blocks on its stdin unless it is asked for something."""

    def __init__(self, command: list[str], log: Path, core: int) -> None:
        self.name, self.log = log.stem, log
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=os.environ | ENVIRONMENT,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
        self._answer()

    def ask(self, measure: str) -> dict[str, Any]:
        """One measurement. Raises: SystemExit with the end of the side's log when it died."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"measure": measure}), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            status, words = self._process.wait(), self.log.read_text(errors="replace")[-3000:]
            raise SystemExit(f"bench: {self.name} ended with status {status}:\n{words}")
        return dict(json.loads(line))

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
