"""What our HTTP servers share: a threaded front, and connections that speak JSON."""

import json
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from longthink.errors import LongthinkError

__all__ = ["JsonHandler", "listen"]

READ_S = 60.0  # a client that stops in the middle of its request is dropped


class Front(ThreadingHTTPServer):
    """The listening socket; a client that goes away is its own business."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class JsonHandler(BaseHTTPRequestHandler):
    """One connection. `max_body` bounds what is read of a request."""

    protocol_version = "HTTP/1.1"
    timeout = READ_S
    max_body = 64 << 20

    def body(self) -> Any:
        """The JSON a request carries, None where it was answered already: no length, too long, or not JSON."""
        length = self.headers.get("Content-Length", "")
        is_number = length.isascii() and length.isdigit() and len(length) < 12
        if not is_number or int(length) > self.max_body:
            self.close_connection = True  # what follows is not read
            self.answer(
                413 if is_number else 411, {"error": f"a body of at most {self.max_body} bytes and its Content-Length are needed"}
            )
            return None
        try:
            found = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            found = None
        if found is None:
            self.answer(400, {"error": "the body is not JSON"})
        return found

    def refuse_path(self, known: str) -> None:
        """404 for a path that is none, 405 for one that takes another verb; what may follow is not read."""
        self.close_connection = True
        path = self.path.partition("?")[0]
        self.answer(405 if f"{path} " in f"{known} " else 404, {"error": f"not {self.command} {path}; there are {known}"})

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


def listen(
    host: str,
    port: int,
    handler: Callable[..., JsonHandler],
    refusal: type[LongthinkError],
    instead: str = "another --host or --port",
) -> Front:
    """A front on this address. Raises: `refusal` where it cannot be had, with what to choose instead."""
    try:
        return Front((host, port), handler)
    except OSError as e:
        raise refusal(f"cannot listen on {host}:{port}: {e.strerror or e}; choose {instead}") from None
