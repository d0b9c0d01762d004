"""vLLM behind a server that somebody started (docs/cluster.md says how), with its weight-transfer API.

Tokens go in and out as ids, a whole response at a time: nothing is streamed, and of a rollout that is taken out the server tells
what it has. A server that no longer answers, or has other weights than it was given, is lost like a process of our own: another
client takes this one's place, waits for the server to come back, and gives it the weights.
"""

import contextlib
import http.client
import json
import queue
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longthink.engines.vllm.stream import VERSION, VllmStream, check_dtype, check_version
from longthink.errors import EngineError, WorkerLost, printable
from longthink.model import ModelConfig
from longthink.tools.formats import Watch
from longthink.types import FinishReason, Rollout

__all__ = ["VllmServer"]

PASS_S = 0.05  # what counts as a pass of the model: new weights may come after so many of them
AGAIN_S = 0.5  # after which a rollout that has not ended is taken out once more: a request may reach the server after that
HEALTH_S = 30.0  # without a reply, after which the server is asked whether it lives
NAME = "generate-tokens-"  # what the server puts before a request's own id
FLOOR = -9999.0  # what the server tells of a log-prob that is not finite
ENDS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "aborted"}


class VllmServer(VllmStream):
    """`address` is a server's, http://host:port. At most `max_rows` rollouts are asked of it at a time.

    `transfer` is "nccl", or a folder that the server sees under the same path. Raises: EngineError for a server that was started
    with settings that would not give what is asked for; WorkerLost where it does not answer, or ends no rollout for `patience_s`.
    """

    limit = "the server takes {} (--max-model-len)"

    def __init__(
        self,
        address: str,
        config: ModelConfig,
        *,
        dtype: torch.dtype,
        stop_ids: frozenset[int],
        max_rows: int = 256,
        transfer: str = "/dev/shm",
        patience_s: float = 1800.0,
        watch: Watch | None = None,
    ) -> None:
        check_version()
        check_dtype(dtype)
        self.address, self._max_rows, self._patience_s = address.rstrip("/"), max_rows, patience_s
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        super().__init__(config, stop_ids, self._greeted(dtype, transfer), watch)
        self._broken = True  # who had it before may have left anything in its cache
        self._mine, self._given = uuid.uuid4().hex[:8], ""
        self._replies: queue.SimpleQueue[tuple[str, dict[str, Any] | Exception]] = queue.SimpleQueue()
        self._abroad: set[str] = set()  # what the server owes a reply for
        self._leaving: set[str] = set()  # and what of it was asked to end
        self._heard = self._checked = time.monotonic()
        from longthink.engines.vllm.transfer import Source, open_sender

        self._source = Source(dtype, "cuda" if transfer == "nccl" else "cpu")
        self._sender: Any = self._over(lambda: open_sender(transfer, self.address, self._workers, self, self._source))

    def _greeted(self, dtype: torch.dtype, transfer: str) -> int:
        """Wait for the server, and see that it was started as it must be; the longest context it takes."""
        until = time.monotonic() + self._patience_s
        while True:
            try:
                self._ask("/health", timeout_s=10.0)
                break
            except WorkerLost as why:
                if time.monotonic() > until:
                    raise EngineError(f"engine.servers: {why}") from None
                time.sleep(1.0)
        version = str(self._ask("/version")["version"]).partition("+")[0]
        try:
            told = self._ask("/server_info?config_format=json")["vllm_config"]
        except WorkerLost:
            raise
        except EngineError:
            raise EngineError(
                f"{self.address} tells no settings: start it with VLLM_SERVER_DEV_MODE=1 (docs/cluster.md)"
            ) from None
        model, backend = told["model_config"], (told.get("weight_transfer_config") or {}).get("backend")
        for what, found, expected in (
            ("vLLM", version, VERSION),
            ("--dtype", str(model["dtype"]), str(dtype)),
            ("--logprobs-mode", str(model["logprobs_mode"]), "processed_logprobs"),
            ("the weight transfer", str(backend), "nccl" if transfer == "nccl" else "longthink"),
            ("--data-parallel-size", str(told["parallel_config"]["data_parallel_size"]), "1"),
        ):
            if found != expected:
                raise EngineError(f"{self.address} was started with {what} {found}; expected {expected} (docs/cluster.md)")
        self._workers = int(self._ask("/get_world_size")["world_size"])
        self._ask("/abort_requests", {})  # what a client before this one left
        with contextlib.suppress(EngineError):
            self._ask("/finish_weight_update", {})  # and a hand-over it did not end
        return int(model["max_model_len"])

    # -- weights ------------------------------------------------------------------------------------------------------

    def _put(self, named: Sequence[tuple[str, Tensor]], version: int) -> None:
        self._given = f"{self._mine}.{version}"
        self._source.named, self._sender.empty = named, self._broken
        self._over(self._sender.send_weights)
        until = time.monotonic() + HEALTH_S
        while not self._ask("/reset_prefix_cache", {})["success"]:  # what was taken out may hold its place for a moment
            if time.monotonic() > until:
                raise WorkerLost(f"{self.address} keeps keys and values of the weights before: somebody else samples from it")
            time.sleep(PASS_S)

    def _over(self, hand: Callable[[], Any]) -> Any:
        """What `hand` gives. Raises: WorkerLost where the way to the server breaks."""
        try:
            return hand()
        except (RuntimeError, OSError) as e:
            raise WorkerLost(f"{self.address} was not given its weights ({type(e).__name__}: {e})") from None

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        with contextlib.suppress(EngineError):
            self._ask("/shutdown_weight_transfer_engine", {})  # of a client before this one
        self._ask("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self._ask("/start_weight_update", {})

    def update_weights(self, update_info: Any) -> None:
        self._ask("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._ask("/finish_weight_update", {"weight_version": weight_version or self._given})

    # -- rollouts -----------------------------------------------------------------------------------------------------

    def _takes(self) -> bool:
        return len(self._abroad) < self._max_rows

    def _begin(self, name: str, context: list[int], params: dict[str, Any]) -> None:
        body = {"request_id": f"{self._mine}.{name}", "token_ids": context, "sampling_params": params}
        self._heard = self._heard if self._abroad else time.monotonic()
        self._abroad.add(name)
        threading.Thread(target=self._answer, args=(name, body), daemon=True).start()

    def _answer(self, name: str, body: dict[str, Any]) -> None:
        try:
            self._replies.put((name, self._ask("/inference/v1/generate", body, timeout_s=None)))
        except Exception as e:  # a reply may be anything; one that is not put here would be waited for
            self._replies.put((name, e))

    def _step(self) -> None:
        """Take the replies that are there; wait a moment for the first."""
        self._take(PASS_S)

    def _take(self, wait_s: float) -> None:
        with contextlib.suppress(queue.Empty):
            while self._abroad:
                self._taken(*self._replies.get(timeout=wait_s))
                self._heard, wait_s = time.monotonic(), 0.0
        now = time.monotonic()
        if self._abroad and now - self._heard > self._patience_s:
            raise WorkerLost(f"{self.address} has ended none of {len(self._abroad)} rollouts in {self._patience_s:g} s")
        if self._abroad and now - max(self._heard, self._checked) > HEALTH_S:
            self._checked = now
            self._ask("/health", timeout_s=HEALTH_S)

    def _taken(self, name: str, reply: dict[str, Any] | Exception) -> None:
        self._abroad.discard(name)
        if isinstance(reply, Exception):
            raise reply
        (choice,) = reply["choices"]
        reason = ENDS[choice["finish_reason"]]
        if reason == "aborted" and name not in self._leaving:
            raise WorkerLost(
                f"{self.address} ended a rollout that it was not asked to end: it shuts down, or somebody else uses it"
            )
        if other := {made["version"] for made in choice["weight_versions"] or ()} - {self._given}:
            raise WorkerLost(f"{self.address} samples from weights {other.pop()!r}, it was given {self._given!r}")
        self._leaving.discard(name)
        logprobs = [at["logprob"] if at["logprob"] > FLOOR else np.nan for at in choice["logprobs"]["content"]]
        self._drawn(name, choice["token_ids"], logprobs, reason)

    def _cancel(self, name: str) -> Rollout:
        id = self._running[name].request.id
        self._out([name])
        return self._done.pop(id) if id in self._done else self.abort(id)  # it may have stopped at what was no call

    def abort_all(self) -> list[Rollout]:
        self._out(list(self._running))
        return super().abort_all()

    def _drop(self) -> None:
        """What comes of these is not looked at."""
        while self._abroad:
            self._end(self._abroad)
            with contextlib.suppress(queue.Empty):
                self._abroad.discard(self._replies.get(timeout=AGAIN_S)[0])

    def _out(self, names: Collection[str]) -> None:
        """Take these out: afterwards they are in `_done`, with what they have."""
        self._leaving |= set(names)
        while left := [name for name in names if name in self._running]:
            self._end(left)
            self._take(AGAIN_S)

    def _end(self, names: Collection[str]) -> None:
        self._ask("/inference/v1/abort_requests", {"request_ids": [f"{NAME}{self._mine}.{name}" for name in names]})

    # -- the wire -----------------------------------------------------------------------------------------------------

    def _ask(self, path: str, body: dict[str, Any] | None = None, timeout_s: float | None = 0.0) -> dict[str, Any]:
        """What the server answers within `timeout_s`: 0 is as long as our patience is, None for ever.

        Raises: EngineError for what it refuses, WorkerLost where it does not answer or breaks.
        """
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        try:
            with self._direct.open(asked, timeout=self._patience_s if timeout_s == 0.0 else timeout_s) as reply:
                found = reply.read()
                return dict(json.loads(found)) if found else {}
        except urllib.error.HTTPError as e:
            said = f"{self.address}{path}: HTTP {e.code}: {printable(e.read(2000).decode(errors='replace').strip()[:500])}"
            raise (WorkerLost if e.code >= 500 else EngineError)(said) from None
        except (http.client.HTTPException, OSError, ValueError) as e:
            why = e.reason if isinstance(e, urllib.error.URLError) else f"{type(e).__name__}: {e}"
            raise WorkerLost(f"{self.address} does not answer ({why})") from None
