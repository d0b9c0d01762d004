"""`longthink serve-rewards`: the verifiers over HTTP, for trainers on other machines.

    POST /verify   {"rows": [{"kind", "response", "gold", …options}, …]} -> {"verdicts": [{score, status, …}, …]}
    GET  /health   version, kinds, workers, rows waiting
    GET  /metrics  the same as counters, in Prometheus' text format

A thread a connection reads and answers; the pool of workers belongs to the main thread, for workers die with the
thread that started them. Rows that do not fit the queue are refused with 503 and Retry-After: the client keeps them.
"""

import os
import signal
import threading
import time
from collections import Counter, deque
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import Any

from longthink.errors import RewardError
from longthink.grade import Row, read_row
from longthink.reward_client import MAX_BODY
from longthink.rewards.base import Reward
from longthink.rewards.countdown import Countdown
from longthink.rewards.pool import RewardPool
from longthink.types import Verdict
from longthink.web import JsonHandler, listen

__all__ = ["RewardServer", "serve"]

POLL_S = 1.0
PATHS = "/verify (POST), /health and /metrics"


class Batch:
    """The rows of one request and what has been decided of them."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.verdicts: list[Verdict | None] = [None] * len(rows)
        self.missing = len(rows)
        self.done = threading.Event()

    def decide(self, place: int, verdict: Verdict) -> None:
        self.verdicts[place] = verdict
        self.missing -= 1
        if not self.missing:
            self.done.set()


class RewardServer:
    """The pool, its queue of at most `max_rows` rows, and the HTTP front; `run` serves until `stop`."""

    def __init__(self, host: str, port: int, workers: int, max_rows: int) -> None:
        self.max_rows, self.workers = max_rows, workers
        self.counts: Counter[tuple[str, str]] = Counter()
        self.refused = self.waiting = 0
        self.stopping = False
        self._kinds = Reward.kinds()
        self._lock = threading.Lock()
        self._inbox: deque[Batch] = deque()
        self._awake, self._waker = os.pipe()
        os.set_blocking(self._awake, False)
        self._http = listen(host, port, partial(Handler, self), RewardError)
        self._pool = RewardPool(Countdown(), workers)
        self._pool.watch(self._awake)
        self.port = int(self._http.server_address[1])

    def offer(self, rows: list[Row]) -> Batch | None:
        """Queue the rows of a request; None when there is no room for them now."""
        with self._lock:
            if self.stopping or self.waiting + len(rows) > self.max_rows:
                self.refused += 1
                return None
            self.waiting += len(rows)
            batch = Batch(rows)
            self._inbox.append(batch)
        os.write(self._waker, b"x")
        return batch

    def stop(self) -> None:
        self.stopping = True
        os.write(self._waker, b"x")

    def run(self) -> None:
        """Grade what is offered until `stop`; what is queued then is dropped, and its clients ask elsewhere."""
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        places: dict[Any, tuple[Batch, int]] = {}
        count = 0
        try:
            while not self.stopping:
                while self._inbox:
                    batch = self._inbox.popleft()
                    for place, row in enumerate(batch.rows):
                        count += 1
                        places[count] = batch, place
                        if isinstance(row.reward, Verdict):
                            self._decide(places.pop(count), row.reward)
                        else:
                            self._pool.submit(count, row.response, row.gold, row.reward)
                for key, verdict in self._pool.poll(POLL_S).items():
                    self._decide(places.pop(key), verdict)
                self._hush()
        finally:
            self._http.shutdown()
            self._http.server_close()
            self._pool.close()
            os.close(self._awake)
            os.close(self._waker)

    def _decide(self, where: tuple[Batch, int], verdict: Verdict) -> None:
        kind = where[0].rows[where[1]].kind
        with self._lock:
            self.counts[kind if kind in self._kinds else "?", verdict.status] += 1
            self.waiting -= 1
        where[0].decide(where[1], verdict)

    def _hush(self) -> None:
        """Take the wake-up calls out of the pipe; what they announce is in the inbox."""
        try:
            while os.read(self._awake, 1 << 16):
                pass
        except BlockingIOError:
            return

    def health(self) -> dict[str, Any]:
        found = {"status": "stopping" if self.stopping else "ok", "version": version("longthink"), "kinds": self._kinds}
        return found | {"workers": self.workers, "waiting": self.waiting, "max_rows": self.max_rows}

    def metrics(self) -> str:
        with self._lock:
            lines = ["# TYPE longthink_verdicts_total counter"]
            lines += [f'longthink_verdicts_total{{kind="{k}",status="{s}"}} {n}' for (k, s), n in sorted(self.counts.items())]
            lines += ["# TYPE longthink_worker_restarts_total counter"]
            lines += [f'longthink_worker_restarts_total{{why="{s}"}} {n}' for s, n in sorted(self._pool.restarts.items())]
            lines += ["# TYPE longthink_refused_requests_total counter", f"longthink_refused_requests_total {self.refused}"]
            lines += ["# TYPE longthink_waiting_rows gauge", f"longthink_waiting_rows {self.waiting}"]
        return "\n".join(lines) + "\n"


class Handler(JsonHandler):
    """One connection."""

    max_body = MAX_BODY

    def __init__(self, server: RewardServer, *args: Any) -> None:
        self.rewards = server
        super().__init__(*args)

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(200, self.rewards.health())
        elif self.path == "/metrics":
            self.send(200, self.rewards.metrics().encode(), "text/plain; version=0.0.4")
        else:
            self.refuse_path(PATHS)

    def do_POST(self) -> None:
        if self.path != "/verify":
            self.refuse_path(PATHS)
            return
        found = self.body()
        if found is None:
            return
        rows = found.get("rows") if isinstance(found, dict) else None
        if not isinstance(rows, list):
            self.answer(400, {"error": 'expected {"rows": [{"kind", "response", "gold", …}, …]}'})
            return
        if len(rows) > self.rewards.max_rows:
            self.answer(413, {"error": f"{len(rows)} rows in one request, the queue holds {self.rewards.max_rows}"})
            return
        batch = self.rewards.offer([read_row(row) for row in rows])
        if batch is None:
            self.answer(503, {"error": "the queue is full; ask again"}, retry_after_s=1)
            return
        while batch.missing and not batch.done.wait(POLL_S):
            if self.rewards.stopping:
                self.close_connection = True
                self.answer(503, {"error": "the server is stopping; ask elsewhere"})
                return
        self.answer(200, {"verdicts": [asdict(v) for v in batch.verdicts if v is not None]})


def serve(host: str, port: int, workers: int, max_rows: int) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises: RewardError where the port is taken or workers cannot start."""
    server = RewardServer(host, port, workers, max_rows)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop())
    print(f"grading on http://{host}:{server.port} with {workers} workers; Ctrl-C ends it", flush=True)
    if host not in ("127.0.0.1", "localhost", "::1"):
        print("everyone who reaches this port can have programs run here: keep it inside a trusted network", flush=True)
    started = time.monotonic()
    server.run()
    print(f"{server.counts.total():,} verdicts in {time.monotonic() - started:,.0f} s")
