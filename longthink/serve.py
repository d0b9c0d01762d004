"""`longthink serve`: a model folder behind an OpenAI-compatible server, sampled by the embedded engine.

    GET  /v1/models             the one model there is
    POST /v1/chat/completions   {"messages", "max_tokens"?, "temperature"?, "top_p"?, "seed"?, "n"?, "stream"?}
    POST /v1/completions        {"prompt", …}
    GET  /health

Requests that come while others are sampled join the batch. A stream is one chunk and its end: the text comes whole.
"""

import itertools
import json
import queue
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from longthink.engines.cache import SlotCache
from longthink.engines.embedded import EmbeddedEngine
from longthink.errors import EngineError, LongthinkError, ModelError
from longthink.evaluation.models import weights_hash
from longthink.folder import ModelFolder
from longthink.machine import fast_bf16, keep_memory, usable_cores
from longthink.rng import derive_seed
from longthink.types import Problem, Request, Rollout, RolloutId, Sampling
from longthink.web import JsonHandler, listen

__all__ = ["ModelServer", "serve_model"]

PATHS = "/v1/models, /v1/chat/completions (POST), /v1/completions (POST) and /health"
POLL_S = 0.5
MAX_CHOICES = 64
REFUSED = (
    "stop",
    "logprobs",
    "response_format",
    "tools",
    "logit_bias",
    "frequency_penalty",
    "presence_penalty",
    "best_of",
    "echo",
)
DEFAULT_TOKENS = 1024


class Ask:
    """The choices of one request, and those that have ended."""

    def __init__(self, requests: list[Request]) -> None:
        self.requests = requests
        self.found: dict[int, Rollout] = {}
        self.failure = ""
        self.done = threading.Event()


class ModelServer:
    """The engine, owned by the thread that calls `run`, and the HTTP front."""

    def __init__(
        self, folder: Path, host: str, port: int, *, dtype: str = "auto", max_rows: int = 64, cache_gb: float = 4.0
    ) -> None:
        keep_memory()
        model, self.weights = ModelFolder(str(folder)), weights_hash(folder)
        self.tokenizer, self.positions = model.tokenizer, model.config.max_positions
        cuda = torch.cuda.is_available()
        wide = dtype == "float32" or (dtype == "auto" and not cuda and not fast_bf16())
        torch.set_num_threads(usable_cores())
        self.engine = EmbeddedEngine(
            dtype=torch.float32 if wide else torch.bfloat16,
            stop_ids=model.tokenizer.stop_ids,
            device="cuda" if cuda else "cpu",
            max_rows=max_rows,
            cache_gb=cache_gb,
        )
        self.engine.load(model.decoder(), 0)
        self.name, self.stopping = folder.resolve().name, False
        self._inbox: queue.Queue[Ask] = queue.Queue()  # Python 3.11: a SimpleQueue may forget its timeout
        self._numbers = itertools.count()
        self._http = listen(host, port, partial(Handler, self), EngineError)
        self.port = int(self._http.server_address[1])

    def ask(self, prompt: Any, fields: dict[str, Any]) -> Ask:
        """Queue a request's choices. Raises: ModelError for fields that cannot be used, with what was expected."""
        sampling, most, seed = self._settings(fields)
        messages = ({"role": "text", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
        number = next(self._numbers)
        problem = Problem(f"request {number}", messages, None)
        try:
            ids = self.tokenizer.prompt_ids(problem)
        except Exception as e:  # a chat template may raise anything at all
            raise ModelError(f"messages: the chat template refuses them ({type(e).__name__}: {str(e)[:200]})") from None
        room = self.positions - len(ids)
        if room < 1:
            raise ModelError(f"the prompt has {len(ids)} tokens, the model {self.positions} positions")
        length = len(ids) + min(most, room)
        if (needed := length * SlotCache.bytes_per_token(self.engine.config, self.engine.dtype)) > self.engine.cache_bytes:
            raise ModelError(
                f"prompt and max_tokens are {length} tokens, which take {needed / 2**30:.1f} GiB of cache and "
                f"{self.engine.cache_bytes / 2**30:.1f} are there; ask for fewer tokens, or serve with more --cache-gb"
            )
        choices = range(fields.get("n") or 1)
        asked = Ask(
            [
                Request(
                    RolloutId(number, i), problem, ids, min(most, room), sampling, derive_seed(seed, "serve", i) if i else seed
                )
                for i in choices
            ]
        )
        self._inbox.put(asked)
        return asked

    def _settings(self, fields: dict[str, Any]) -> tuple[Sampling, int, int]:
        def number(name: str, default: float, low: float, high: float) -> float:
            value = fields.get(name)
            value = default if value is None else value
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise ModelError(f"{name} is {value!r}, expected a number from {low:g} to {high:g}")
            return value

        if odd := [name for name in REFUSED if fields.get(name)]:
            raise ModelError(f"{odd[0]} is not supported here, and would change the text; leave it out")
        if not isinstance(fields.get("n") or 1, int):
            raise ModelError(f"n is {fields['n']!r}, expected a whole number")
        most = int(number("max_tokens", fields.get("max_completion_tokens") or DEFAULT_TOKENS, 1, 1 << 30))
        number("n", 1, 1, MAX_CHOICES)
        top_p = number("top_p", 1.0, 1e-6, 1.0)
        sampling = Sampling(float(number("temperature", 1.0, 0.0, 100.0)), float(top_p), int(number("top_k", 0, 0, 1 << 30)))
        seed = fields.get("seed")
        return sampling, most, int(number("seed", 0, 0, (1 << 63) - 1)) if seed is not None else time.time_ns() % (1 << 63)

    def stop(self) -> None:
        self.stopping = True

    def run(self) -> None:
        """Sample what is asked until `stop`."""
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        waiting: dict[RolloutId, Ask] = {}
        try:
            while not self.stopping:
                self._take_in(waiting, wait=True)
                try:
                    for rollout in self.engine.finished():
                        asked = waiting.pop(rollout.id)
                        asked.found[rollout.id.sample] = rollout
                        if len(asked.found) == len(asked.requests):
                            asked.done.set()
                        self._take_in(waiting, wait=False)
                        if self.stopping:
                            break
                except LongthinkError as e:  # a request that does not fit, say: those that are out share its fate
                    for id, asked in list(waiting.items()):
                        self.engine.abort(id)
                        asked.failure = str(e)
                        asked.done.set()
                    waiting.clear()
        finally:
            self._http.shutdown()
            self._http.server_close()

    def _take_in(self, waiting: dict[RolloutId, Ask], *, wait: bool) -> None:
        """Submit what has been asked; with `wait` for a moment if there is nothing."""
        try:
            while True:
                asked = self._inbox.get(timeout=POLL_S) if wait else self._inbox.get_nowait()
                wait = False
                for request in asked.requests:
                    waiting[request.id] = asked
                    self.engine.submit(request)
        except queue.Empty:
            return


class Handler(JsonHandler):
    """One connection."""

    def __init__(self, server: ModelServer, *args: Any) -> None:
        self.models = server
        super().__init__(*args)

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            model = {"id": self.models.name, "object": "model", "owned_by": "longthink", "weights": self.models.weights}
            self.answer(200, {"object": "list", "data": [model]})
        elif self.path == "/health":
            self.answer(200, {"status": "ok", "model": self.models.name})
        else:
            self.refuse_path(PATHS)

    def do_POST(self) -> None:
        chat = self.path == "/v1/chat/completions"
        if not chat and self.path != "/v1/completions":
            self.refuse_path(PATHS)
            return
        fields = self.body()
        if fields is None:
            return
        if isinstance(fields, dict) and (asked_for := fields.get("model") or self.models.name) != self.models.name:
            message = f"the model here is {self.models.name!r}, not {str(asked_for)[:200]!r}"
            self.answer(404, {"error": {"message": message, "type": "invalid_request_error", "code": "model_not_found"}})
            return
        try:
            asked = self.models.ask(_prompt(fields, chat), fields)
        except ModelError as e:
            self.answer(400, {"error": {"message": str(e), "type": "invalid_request_error"}})
            return
        while not asked.done.wait(POLL_S):
            if self.models.stopping:
                self.close_connection = True
                self.answer(503, {"error": {"message": "the server is stopping", "type": "server_error"}})
                return
        if asked.failure:
            self.answer(500, {"error": {"message": asked.failure, "type": "server_error"}})
        elif fields.get("stream"):
            self._stream(asked, chat)
        else:
            self.answer(200, self._reply(asked, chat, "message"))

    def _reply(self, asked: Ask, chat: bool, part: str) -> dict[str, Any]:
        """The body of a reply; `part` is "delta" in a stream."""
        choices = []
        for number, rollout in sorted(asked.found.items()):
            text = self.models.tokenizer.decode(rollout.response_ids)
            said = {part: {"role": "assistant", "content": text}} if chat else {"text": text}
            choices.append({"index": number, **said, "finish_reason": rollout.finish_reason, "logprobs": None})
        prompt = len(asked.requests[0].prompt_ids)
        tokens = sum(r.num_tokens for r in asked.found.values())
        kind = ("chat.completion" if chat else "text_completion") + ".chunk" * (part == "delta")
        head = {"id": f"longthink-{asked.requests[0].id.group}", "object": kind, "created": int(time.time())}
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
        return head | {"model": self.models.name, "choices": choices, "usage": usage}

    def _stream(self, asked: Ask, chat: bool) -> None:
        chunk = json.dumps(self._reply(asked, chat, "delta"))
        self.send(200, f"data: {chunk}\n\ndata: [DONE]\n\n".encode(), "text/event-stream")


def _prompt(fields: Any, chat: bool) -> Any:
    """The prompt's text or messages. Raises: ModelError for anything else."""
    if not isinstance(fields, dict):
        raise ModelError(f"the body is a {type(fields).__name__}, expected an object")
    if not chat:
        if not isinstance(fields.get("prompt"), str):
            raise ModelError(f"prompt is {type(fields.get('prompt')).__name__}, expected text")
        return fields["prompt"]
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ModelError("messages: expected a list of at least one")
    for message in messages:
        match message:
            case {"role": "system" | "user" | "assistant", "content": str()}:
                pass
            case _:
                raise ModelError(
                    f"messages: {str(message)[:100]} has no role of system, user or assistant, or no text as content"
                )
    return messages


def serve_model(folder: Path, host: str, port: int, dtype: str, cache_gb: float) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises: ModelError for a folder that is no model, EngineError where the port is taken."""
    server = ModelServer(folder, host, port, dtype=dtype, cache_gb=cache_gb)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop())
    print(f"serving {server.name} on http://{host}:{server.port}/v1 until Ctrl-C", flush=True)
    server.run()
