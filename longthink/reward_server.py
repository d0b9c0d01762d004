"""`longthink serve-rewards`: the verifiers over HTTP, for trainers on other machines.

    POST /verify   {"rows": [{"kind", "response", "gold", …options}, …]} -> {"verdicts": [{score, status, …}, …]}
    GET  /health   version, kinds, workers, rows waiting
    GET  /metrics  the same as counters, in Prometheus' text format

A thread a connection reads and answers; the pool of workers belongs to the main thread, for workers die with the
thread that started them. Rows that do not fit the queue are refused with 503 and Retry-After: the client keeps them.
"""

import json
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from dataclasses import asdict
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import Any

from longthink.errors import RewardError
from longthink.grade import Row, read_row
from longthink.reward_client import MAX_BODY
from longthink.rewards.base import Reward
from longthink.rewards.countdown import Countdown
from longthink.rewards.pool import RewardPool
from longthink.types import Verdict

__all__ = ["RewardServer", "serve"]

READ_S = 60.0  # a client that stops in the middle of its request is dropped
POLL_S = 1.0


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
        self._pool = RewardPool(Countdown(), workers)
        self._pool.watch(self._awake)
        try:
            self._http = Front((host, port), partial(Handler, self))
        except OSError as error:
            self._pool.close()
            raise RewardError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --host or --port"
            ) from None
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


class Front(ThreadingHTTPServer):
    """The listening socket; a client that goes away is its own business."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = READ_S

    def __init__(self, server: RewardServer, *args: Any) -> None:
        self.rewards = server
        super().__init__(*args)

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(200, self.rewards.health())
        elif self.path == "/metrics":
            self.send(200, self.rewards.metrics().encode(), "text/plain; version=0.0.4")
        else:
            code, why = (405, "/verify takes POST") if self.path == "/verify" else (404, f"no such path as {self.path}")
            self.answer(code, {"error": f"{why}; there are /verify (POST), /health and /metrics"})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        is_number = length.isascii() and length.isdigit() and len(length) < 12
        if self.path != "/verify" or not is_number or int(length) > MAX_BODY:
            self.close_connection = True  # what follows is not read
            known = self.path == "/verify"
            why = f"a body of at most {MAX_BODY} bytes and its Content-Length are needed" if known else "POST goes to /verify"
            self.answer((413 if length.isdigit() else 411) if known else 404, {"error": why})
            return
        try:
            rows = json.loads(self.rfile.read(int(length)))["rows"]
            if not isinstance(rows, list):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
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

    def answer(self, code: int, body: dict[str, Any], *, retry_after_s: int = 0) -> None:
        self.send(code, json.dumps(body, default=repr).encode(), "application/json", retry_after_s)

    def send(self, code: int, body: bytes, kind: str, retry_after_s: int = 0) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if retry_after_s:
            self.send_header("Retry-After", str(retry_after_s))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted, not printed."""


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
