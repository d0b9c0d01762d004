"""vLLM behind a server that somebody started (docs/cluster.md says how), with its weight-transfer API.

Tokens go in and out as ids, a whole response at a time: nothing is streamed, and of a rollout that is taken out the server tells
what it has. A server that no longer answers, or has other weights than it was given, is lost like a process of our own: another
client takes this one's place, waits for the server to come back, and gives it the weights.
"""

import contextlib
import http.client
import json
import queue
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longthink.engines.vllm.stream import VERSION, VllmStream, check_dtype, check_version
from longthink.errors import EngineError, WorkerLost, printable
from longthink.model import ModelConfig
from longthink.types import FinishReason, Rollout

__all__ = ["VllmServer"]

GREET_S = 300.0  # how long a server may take to start
SETTLE_S = 30.0
PASS_S = 0.05  # what counts as a pass of the model: new weights may come after so many of them
NAME = "generate-tokens-"  # what the server puts before a request's own id
FLOOR = -9999.0  # what the server tells of a log-prob that is not finite
ENDS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "aborted"}


class VllmServer(VllmStream):
    """`address` is a server's, http://host:port. At most `max_rows` rollouts are asked of it at a time.

    `transfer` is "nccl", or a folder that the server sees under the same path. Raises: EngineError where no server answers, or
    one that was started with settings that would not give what is asked for; from then on WorkerLost where it does not answer.
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
    ) -> None:
        check_version()
        check_dtype(dtype)
        self.address, self._patience_s, self._mine = address.rstrip("/"), patience_s, uuid.uuid4().hex[:8]
        super().__init__(config, stop_ids, self._greeted(dtype, transfer))
        from longthink.engines.vllm.transfer import Source, open_sender

        self._source = Source(dtype, "cuda" if transfer == "nccl" else "cpu")
        workers = int(self._ask("/get_world_size")["world_size"])
        self._sender: Any = open_sender(transfer, self.address, workers, self, self._source)
        self._replies: queue.SimpleQueue[tuple[str, dict[str, Any] | Exception]] = queue.SimpleQueue()
        self._out: dict[str, Future[None]] = {}
        self._pool = ThreadPoolExecutor(max_rows, "served")

    def close(self) -> None:
        """Ask for nothing more; what is out is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _greeted(self, dtype: torch.dtype, transfer: str) -> int:
        """Wait for the server, and see that it was started as it must be; the longest context it takes."""
        until = time.monotonic() + min(GREET_S, self._patience_s)
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
        except EngineError:
            raise EngineError(
                f"{self.address} tells no settings: start it with VLLM_SERVER_DEV_MODE=1 (docs/cluster.md)"
            ) from None
        backend = "nccl" if transfer == "nccl" else "longthink"
        model, has = told["model_config"], (told.get("weight_transfer_config") or {}).get("backend")
        for what, found, expected in (
            ("vLLM", version, VERSION),
            ("--dtype", str(model["dtype"]), str(dtype)),
            ("--logprobs-mode", str(model["logprobs_mode"]), "processed_logprobs"),
            ("--weight-transfer-config", json.dumps({"backend": has}), json.dumps({"backend": backend})),
        ):
            if found != expected:
                raise EngineError(f"{self.address} was started with {what} {found}; expected {expected} (docs/cluster.md)")
        return int(model["max_model_len"])

    # -- weights ------------------------------------------------------------------------------------------------------

    def _put(self, named: Sequence[tuple[str, Tensor]], version: int) -> None:
        self._given = f"{self._mine}.{version}"
        self._source.named, self._sender.empty = named, self._broken
        self._sender.send_weights()
        until = time.monotonic() + SETTLE_S
        while not self._ask("/reset_prefix_cache", {})["success"]:  # what was taken out may hold its place for a moment
            if time.monotonic() > until:
                raise WorkerLost(f"{self.address} keeps keys and values of the weights before: somebody else samples from it")
            time.sleep(0.05)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._ask("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self._ask("/start_weight_update", {})

    def update_weights(self, update_info: Any) -> None:
        self._ask("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._ask("/finish_weight_update", {"weight_version": weight_version or self._given})

    # -- rollouts -----------------------------------------------------------------------------------------------------

    def _id(self, name: str) -> str:
        return f"{NAME}{self._mine}.{name}"

    def _begin(self, name: str, context: list[int], params: dict[str, Any]) -> None:
        body = {"request_id": self._id(name).removeprefix(NAME), "token_ids": context, "sampling_params": params}
        self._out[name] = self._pool.submit(self._answer, name, body)

    def _answer(self, name: str, body: dict[str, Any]) -> None:
        try:
            self._replies.put((name, self._ask("/inference/v1/generate", body)))
        except Exception as e:  # a reply may be anything; one that is not put here would be waited for
            self._replies.put((name, e))

    def _step(self) -> None:
        """Take the replies that are there; wait a moment for the first."""
        with contextlib.suppress(queue.Empty):
            self._take(*self._replies.get(timeout=PASS_S))
        while not self._replies.empty():
            self._take(*self._replies.get())

    def _take(self, name: str, reply: dict[str, Any] | Exception) -> None:
        del self._out[name]
        if isinstance(reply, Exception):
            raise reply
        (choice,) = reply["choices"]
        if other := {made["version"] for made in choice["weight_versions"] or ()} - {self._given}:
            raise WorkerLost(f"{self.address} samples from weights {other.pop()!r}, it was given {self._given!r}")
        logprobs = [at["logprob"] if at["logprob"] > FLOOR else np.nan for at in choice["logprobs"]["content"]]
        self._drawn(name, choice["token_ids"], logprobs, ENDS[choice["finish_reason"]])

    def _cancel(self, name: str) -> Rollout:
        running = self._running[name]
        if self._out[name].cancel():
            del self._out[name], self._running[name]
            return self._rollout(running, "aborted")
        while name in self._running:
            self._ask("/inference/v1/abort_requests", {"request_ids": [self._id(name)]})
            self._take(*self._replies.get())
        return self._done.pop(running.request.id)

    def _drop(self) -> None:
        self._ask("/inference/v1/abort_requests", {"request_ids": [self._id(name) for name in self._out]})
        wait(self._out.values())
        self._out.clear()
        while not self._replies.empty():
            self._replies.get()

    # -- the wire -----------------------------------------------------------------------------------------------------

    def _ask(self, path: str, body: dict[str, Any] | None = None, timeout_s: float = 0.0) -> dict[str, Any]:
        """What the server answers. Raises: EngineError for what it refuses, WorkerLost where it does not answer."""
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=timeout_s or self._patience_s) as reply:
                said = reply.read()
                return dict(json.loads(said)) if said else {}
        except urllib.error.HTTPError as e:
            said = printable(e.read(2000).decode(errors="replace").strip()[:500])
            raise EngineError(f"{self.address}{path}: HTTP {e.code}: {said}") from None
        except (urllib.error.URLError, http.client.HTTPException, OSError) as e:
            why = e.reason if isinstance(e, urllib.error.URLError) else f"{type(e).__name__}: {e}"
            raise WorkerLost(f"{self.address} does not answer ({why})") from None
