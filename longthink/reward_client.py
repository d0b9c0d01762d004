"""The verifiers of other machines: the interface of `RewardPool`, with `longthink serve-rewards` behind it."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple, Self

from longthink.errors import RewardError
from longthink.recipe import Recipe
from longthink.rewards.base import Reward
from longthink.rewards.pool import Grader, RewardPool
from longthink.types import Verdict

__all__ = ["MAX_BODY", "RemotePool", "open_pool"]

CONNECTIONS = 4  # a server: while one waits for slow rows, others go on
MAX_ROWS = 16  # in a request
PATIENCE_S = 600.0  # how long all servers may be silent before the run stops
PAUSE_S = (0.1, 5.0)  # between attempts: the first and the longest
ASK_S = 300.0  # for one answer
GREET_S = 10.0
MAX_BODY = 64 << 20  # bytes of a request


class Row(NamedTuple):
    """A job and where its verdict goes."""

    number: int
    key: Hashable
    fields: dict[str, Any]


class RemotePool:
    """Grades on servers; rows of a server that fails or is full go to the next, and wait for one to come back.

    `servers` are addresses `host:port`. Raises: RewardError when none answers at the start, one has another version of
    longthink, or all are silent for `patience_s`: the run can be resumed. `notice` is told of each that falls silent.
    """

    def __init__(
        self,
        reward: Reward,
        servers: Sequence[str],
        patience_s: float = PATIENCE_S,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.notice, self._silent = notice, set[str]()
        self.restarts: Counter[str] = Counter()
        self._reward, self._servers, self._patience_s = reward, list(servers), patience_s
        self._changed = threading.Condition()
        self._queue: deque[Row] = deque()
        self._open: set[Hashable] = set()
        self._decided: dict[Hashable, tuple[int, Verdict]] = {}
        self._failure: RewardError | None = None
        self._ended = threading.Event()
        self._num_jobs = 0
        self._max_rows = self._greet()
        self._heard = time.monotonic()  # when a server last answered
        places = range(CONNECTIONS * len(self._servers))
        self._connections: list[http.client.HTTPConnection | None] = [None for _ in places]
        self._threads = [threading.Thread(target=self._work, args=(i,), daemon=True, name=f"rewards-{i}") for i in places]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, key: Hashable, response: str, gold: Any, reward: Reward | None = None) -> None:
        """Ask for a verdict; it does not wait. Raises: RewardError for a key in use, or once the servers have failed."""
        reward = reward or self._reward
        with self._changed:
            if key in self._open or key in self._decided or self._ended.is_set():
                raise RewardError(
                    f"reward client: job {key!r} was submitted " + ("after close()" if self._ended.is_set() else "twice")
                )
            self._num_jobs += 1
            fields = {"kind": reward.kind, **reward.model_dump(mode="json"), "response": response, "gold": gold}
            try:
                json.dumps(gold)
            except (TypeError, ValueError, RecursionError) as error:
                why = f"the gold is not JSON: {error}"[:200]
                self._decided[key] = self._num_jobs, Verdict(None, "verifier_error", detail={"why": why})
                return
            self._open.add(key)
            self._queue.append(Row(self._num_jobs, key, fields))
            self._changed.notify()

    def take(self, key: Hashable) -> Verdict:
        """Wait for one verdict and forget it."""
        with self._changed:
            self._wait_while(lambda: key in self._open)
            return self._decided.pop(key)[1]

    def drain(self) -> dict[Hashable, Verdict]:
        """Wait until all is decided; the verdicts not yet taken, in the order of submission."""
        with self._changed:
            self._wait_while(lambda: bool(self._open))
            decided, self._decided = self._decided, {}
        return {key: verdict for key, (_, verdict) in sorted(decided.items(), key=lambda item: item[1][0])}

    def close(self) -> None:
        """End the connections; undecided jobs are dropped."""
        with self._changed:
            self._ended.set()
            self._queue.clear()
            self._changed.notify_all()
        for connection in self._connections:
            if connection is not None and connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _wait_while(self, unfinished: Any) -> None:
        while unfinished():
            if self._failure:
                raise self._failure
            self._changed.wait(1.0)  # not for ever: Ctrl-C must be heard

    def _greet(self) -> int:
        """The most rows every server takes in a request; servers that are not ours are refused before any work is done."""
        silent, most = [], MAX_ROWS
        for server in self._servers:
            try:
                with contextlib.closing(_connection(server, GREET_S)) as connection:
                    status, found = _request(connection, "GET", "/health", None)
            except (OSError, http.client.HTTPException, ValueError) as error:
                silent.append(f"{server}: {error}")
                continue
            if status != 200 or found.get("version") != version("longthink"):
                raise RewardError(
                    f"reward_servers: {server} answers {status} as version {found.get('version')!r}, expected longthink "
                    f"{version('longthink')}; start it with this version's `longthink serve-rewards`"
                )
            most = min(most, int(found["max_rows"]))
        if len(silent) == len(self._servers):
            raise RewardError(f"reward_servers: none answers ({'; '.join(silent)}); start one with `longthink serve-rewards`")
        return most

    def _work(self, index: int) -> None:
        """One connection: take rows, have them graded, hand out verdicts, until closed."""
        server = index // CONNECTIONS
        while rows := self._next_rows():
            batches, pause = [rows], PAUSE_S[0]
            while batches and not self._ended.is_set():
                status, why = self._ask(index, server, batches[-1])
                if status == 200:
                    batches.pop()
                elif status in (400, 413):  # the request is at fault, not the server
                    refused = batches.pop()
                    if half := len(refused) // 2:
                        batches += [refused[:half], refused[half:]]
                    else:
                        self._decide(refused, [Verdict(None, "verifier_error", detail={"why": f"{status}: {why}"[:300]})])
                elif time.monotonic() - self._heard > self._patience_s:
                    self._fail(f"reward_servers: none answers for {self._patience_s:.0f} s; last, {self._servers[server]}: {why}")
                    return
                else:
                    self._tell(server, why)
                    server = (server + 1) % len(self._servers)
                    self._ended.wait(pause)
                    pause = min(2 * pause, PAUSE_S[1])
        self._hang_up(index)

    def _ask(self, index: int, server: int, rows: list[Row]) -> tuple[int, str]:
        """Have some rows graded: 200 when that is done, else the server's status (0 for none) and what is wrong."""
        body = json.dumps({"rows": [row.fields for row in rows]}).encode("ascii")
        if len(body) > MAX_BODY:
            return 413, f"a request of {len(body)} bytes, {MAX_BODY} are the most"
        idle = self._connections[index] is not None
        try:
            try:
                status, found = _request(self._connected(index, server), "POST", "/verify", body)
            except ConnectionError:  # http.client's RemoteDisconnected too: servers close what has been idle for long
                self._hang_up(index)
                if not idle:
                    raise
                status, found = _request(self._connected(index, server), "POST", "/verify", body)
            if status == 200:
                self._decide(rows, [Verdict(**v) for v in found["verdicts"]])
            else:
                self._hang_up(index)
            if status in (200, 503):
                self._heard = time.monotonic()
            return status, str(found.get("error", ""))
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            self._hang_up(index)
            return 0, f"{type(error).__name__}: {error}"

    def _connected(self, index: int, server: int) -> http.client.HTTPConnection:
        connection = self._connections[index]
        if connection is None:
            connection = _connection(self._servers[server], GREET_S)
            connection.connect()
            connection.sock.settimeout(ASK_S)
            self._connections[index] = connection
        return connection

    def _tell(self, server: int, why: str) -> None:
        name = self._servers[server]
        with self._changed:
            self.restarts["retry"] += 1
            new = name not in self._silent
            self._silent.add(name)
        if new:
            self.notice(f"reward server {name} does not grade ({why}); asking again")

    def _hang_up(self, index: int) -> None:
        connection, self._connections[index] = self._connections[index], None
        if connection is not None:
            connection.close()

    def _next_rows(self) -> list[Row]:
        """Some rows of the queue, a fair share of them; empty once closed."""
        with self._changed:
            while not self._queue and not self._ended.is_set():
                self._changed.wait()
            share = -(-len(self._queue) // (CONNECTIONS * len(self._servers)))
            return [self._queue.popleft() for _ in range(min(len(self._queue), share, self._max_rows))]

    def _decide(self, rows: list[Row], verdicts: list[Verdict]) -> None:
        if len(rows) != len(verdicts):
            raise ValueError(f"{len(verdicts)} verdicts for {len(rows)} rows")
        with self._changed:
            self._silent.clear()
            for row, verdict in zip(rows, verdicts, strict=True):
                self._open.discard(row.key)
                self._decided[row.key] = row.number, verdict
            self._changed.notify_all()

    def _fail(self, why: str) -> None:
        with self._changed:
            self._failure = RewardError(why)
            self._changed.notify_all()


def _connection(server: str, timeout_s: float) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(server.removeprefix("http://").rstrip("/"), timeout=timeout_s)


def _request(connection: http.client.HTTPConnection, verb: str, path: str, body: bytes | None) -> tuple[int, dict[str, Any]]:
    connection.request(verb, path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, dict(json.loads(response.read()))


def open_pool(recipe: Recipe, reward: Reward, notice: Callable[[str], None]) -> Grader:
    """What grades: processes here, or the recipe's reward servers. Raises: RewardError where they do not start or answer."""
    if recipe.reward_servers:
        return RemotePool(reward, recipe.reward_servers, notice=notice)
    return RewardPool(reward, recipe.workers)
