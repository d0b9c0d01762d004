"""A model behind an OpenAI-compatible server, as an engine: requests go out side by side, failures are tried again."""

import http.client
import json
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from longthink.errors import EngineError, printable
from longthink.types import Request, Rollout, RolloutId, Segment

__all__ = ["SEEDS", "ServedEngine"]

UNKNOWN = -1  # in place of token ids a server does not tell
PAUSE_S = (0.5, 60.0)  # between attempts: the first and the longest
GREET_S = 10.0
MAX_REPLY = 256 << 20  # bytes
MAX_TOKENS = 1 << 24  # of one response
CHUNK = 1 << 16
SEEDS = 1 << 63  # as many as the protocol has room for; draws keyed below it are the same from any engine
HOPELESS = 8  # failures in a row after which nothing more is asked


class Refused(Exception):
    """What no second attempt can mend."""


class Busy(OSError):
    """What another attempt may mend, after so many seconds at least."""

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


class ServedEngine:
    """`address` is a server's, up to and with /v1; at most `concurrency` requests are out at a time.

    A reply that is late (`timeout_s` in all, however slowly it comes), cut short, not JSON, 408, 425, 429 or 5xx is asked for
    again, up to `attempts` times with growing pauses, or as long as the server says. What still fails is kept back, and when
    all others have ended EngineError says how many and why: nothing that came is lost. A request that is refused (any
    other 4xx) ends as an aborted rollout without text; when the first eight problems are, nothing more is asked. Tokens are the
    server's count (usage.completion_tokens); their ids are unknown. `reasoning_content` is put back between <think> and </think>.
    The key is OPENAI_API_KEY's, where it is set.
    """

    def __init__(
        self,
        address: str,
        model: str = "",
        *,
        concurrency: int = 32,
        timeout_s: float = 1800.0,
        attempts: int = 8,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.address, self.concurrency, self.timeout_s, self.attempts = address.rstrip("/"), concurrency, timeout_s, attempts
        self.notice = notice
        self._waiting: deque[Request] = deque()
        self._out = 0
        self._jobs: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[Request, dict[str, Any] | str | Refused]] = queue.SimpleQueue()
        self._ended = threading.Event()
        self.model, self.weights = self._chosen(model)
        for number in range(concurrency):
            threading.Thread(target=self._work, daemon=True, name=f"served-{number}").start()

    def close(self) -> None:
        """Let the threads go; what is out is not waited for."""
        self._ended.set()
        for _ in range(self.concurrency):
            self._jobs.put(None)

    # -- the stream ---------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        self._waiting.append(request)

    def finished(self) -> Iterator[Rollout]:
        failed: list[str] = []
        in_a_row, refused_groups, answered = 0, set[int](), False
        while self._waiting or self._out:
            while self._waiting and self._out < self.concurrency:
                self._jobs.put(self._waiting.popleft())
                self._out += 1
            request, found = self._results.get()
            self._out -= 1
            if isinstance(found, Refused):
                refused_groups.add(request.id.group)
                if not answered and len(refused_groups) >= HOPELESS:  # not one problem's fault
                    failed.append(str(found))
                    self._waiting.clear()
                yield self._rollout(request, {"text": "", "tokens": 0, "finish_reason": "aborted"})
            elif isinstance(found, str):
                failed.append(found)
                in_a_row += 1
                if in_a_row >= max(HOPELESS, self.concurrency):
                    self._waiting.clear()
            else:
                in_a_row, answered = 0, True
                yield self._rollout(request, found)
        if failed:
            raise EngineError(
                f"{self.address}: {len(failed)} request{'s' * (len(failed) > 1)} failed, the first: {failed[0]}. What was "
                "answered is kept; the same command asks for the rest"
            )

    def abort(self, id: RolloutId) -> Rollout:
        """Take a request out that has not gone to the server. Raises: EngineError for another."""
        for request in self._waiting:
            if request.id == id:
                self._waiting.remove(request)
                return self._rollout(request, {"text": "", "tokens": 0, "finish_reason": "aborted"})
        raise EngineError(f"rollout {tuple(id)} is with the server or was never submitted")

    def _rollout(self, request: Request, found: dict[str, Any]) -> Rollout:
        ids = np.full(found["tokens"], UNKNOWN, np.int64)
        segments = (Segment("policy", ids),)
        settings = (found["finish_reason"], request.sampling, request.max_tokens, found["text"])
        return Rollout(request.id, request.problem, request.prompt_ids, segments, *settings)

    # -- the wire -----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (request := self._jobs.get()) is not None:
            self._results.put((request, self._answered(request)))

    def _answered(self, request: Request) -> dict[str, Any] | str | Refused:
        path, body = self._asked(request)
        pause, why, least = PAUSE_S[0], "", 0.0
        for attempt in range(self.attempts):
            try:
                return _read(self._ask(path, body, self.timeout_s))
            except Refused as e:
                self.notice(f"{self.address}: refused: {e}")
                return e
            except Exception as e:  # a reply may be anything; a thread that died would be waited for
                why = printable(f"{type(e).__name__}: {e}"[:300])
                least = min(getattr(e, "after_s", 0.0), PAUSE_S[1])
            if attempt == 0:
                self.notice(f"{self.address}: {why}; asking again")
            if self._ended.wait(max(pause, least)):
                break
            pause = min(2 * pause, PAUSE_S[1])
        return f"no usable reply in {self.attempts} attempts ({why})"

    def _asked(self, request: Request) -> tuple[str, dict[str, Any]]:
        sampling, messages = request.sampling, request.problem.prompt
        body: dict[str, Any] = {"model": self.model, "max_tokens": request.max_tokens, "temperature": sampling.temperature}
        body |= {"top_p": sampling.top_p, "seed": request.seed % SEEDS}
        body |= {"top_k": sampling.top_k} if sampling.top_k else {}
        if messages[0]["role"] == "text":
            return "/completions", body | {"prompt": messages[0]["content"]}
        return "/chat/completions", body | {"messages": [dict(m) for m in messages]}

    def _ask(self, path: str, body: dict[str, Any] | None, timeout_s: float) -> Any:
        """The reply as JSON. Raises: Refused for what another attempt cannot mend, others for what it may."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        until = time.monotonic() + timeout_s
        try:
            with urllib.request.urlopen(urllib.request.Request(self.address + path, data, headers), timeout=timeout_s) as reply:
                return json.loads(_whole(reply, until))
        except urllib.error.HTTPError as e:
            said = printable(e.read(2000).decode(errors="replace").strip()[:300])
            if e.code in (408, 425, 429) or e.code >= 500:
                after = e.headers.get("Retry-After", "")
                raise Busy(f"HTTP {e.code}: {said}", float(after) if after.isdigit() else 0.0) from None
            raise Refused(f"HTTP {e.code}: {said}") from None
        except urllib.error.URLError as e:
            raise OSError(str(e.reason)) from None

    def _chosen(self, wanted: str) -> tuple[str, str]:
        """The name of the model, by default the only one, and the digest of its weights, where the server tells it.

        Raises: EngineError where the server does not answer, has several, or not the one that is wanted.
        """
        try:
            told = self._ask("/models", None, min(GREET_S, self.timeout_s))["data"]
            digests = {str(m["id"]): str(m.get("weights") or "") for m in told}
        except (OSError, http.client.HTTPException, Refused, ValueError, KeyError, TypeError) as e:
            raise EngineError(
                f"{self.address}: no OpenAI-compatible server answers there ({e}); expected http://host:port/v1"
            ) from None
        if wanted not in digests and (wanted or len(digests) != 1):
            raise EngineError(f"{self.address} serves {', '.join(digests) or 'no model'}; name one of them with --served-model")
        name = wanted or next(iter(digests))
        return name, digests[name]


def _whole(reply: Any, until: float) -> bytes:
    """All that is sent, read with an eye on the clock: a server that drips is late too."""
    found = bytearray()
    while chunk := reply.read1(CHUNK):
        found += chunk
        if time.monotonic() > until:
            raise TimeoutError("the reply took too long")
        if len(found) > MAX_REPLY:
            raise ValueError(f"a reply of more than {MAX_REPLY >> 20} MiB")
    length = reply.headers.get("Content-Length")
    if length is not None and int(length) != len(found):
        raise http.client.IncompleteRead(bytes(found), int(length) - len(found))
    return bytes(found)


def _read(reply: dict[str, Any]) -> dict[str, Any]:
    """Text, tokens and finish reason of a reply."""
    choice = reply["choices"][0]
    message = choice.get("message") or {}
    text = choice["text"] if "text" in choice else message["content"] or ""
    if thought := message.get("reasoning_content") or message.get("reasoning"):
        text = f"<think>{thought}" + (f"</think>{text}" if text or choice.get("finish_reason") != "length" else "")
    if not isinstance(text, str):
        raise TypeError(f"the text is {type(text).__name__}")
    reason, tokens = "length" if choice.get("finish_reason") == "length" else "stop", int(reply["usage"]["completion_tokens"])
    if not 0 <= tokens <= MAX_TOKENS:
        raise ValueError(f"usage.completion_tokens is {tokens}")
    return {"text": text, "tokens": tokens, "finish_reason": reason}
