"""An OpenAI-compatible server of scripted answers, as a process of its own: `python endpoint.py LOG` prints its address.

It answers by what the question says and by the request's seed, so that the same request gets the same reply. Every request is
written into LOG. A question with `fail-once` gets a 503 the first time.
"""

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAILED: set[str] = set()


def reply(content: str, seed: int) -> str:
    """The scripted model: it multiplies, judges by the word `proof`, and reads boxes; sometimes, by the seed, it errs."""
    if "double brackets" in content:
        question = content.split("Question:")[-1]
        return "It is a proof. [[2]]" if "proof" in question else "I am not sure." if seed % 5 == 0 else "Clear. [[1]]"
    if "final answer out of the solution" in content:
        told = re.search(r"the result is (\d+)", content)
        return f"\\boxed{{{int(told[1]) + (seed % 3 == 0)}}}" if told else "\\boxed{none}"
    numbers = [int(n) for n in re.findall(r"\d+", content.split("Let's think")[0])[:2]]
    if "impossible" in content:
        return "So \\boxed{999983}"
    right = numbers[0] * numbers[1]
    if "with code" in content:  # it invents outputs
        said = right + (seed % 3 == 0)
        code = f"```python\nprint({numbers[0]} * {numbers[1]})\n```\n\n```Output\n{said}\n```\n\n" if seed % 5 else ""
        return f"Attempt {seed % 7} of mine goes on. {code}So \\boxed{{{right}}}"
    return f"So \\boxed{{{right if 'trivial' in content or seed % 2 else right + 1}}}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._send({"data": [{"id": "scripted"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = asked["messages"][-1]["content"]
        with open(sys.argv[1], "a") as log:
            log.write(json.dumps({"seed": asked["seed"], "temperature": asked["temperature"]}) + "\n")
        if "fail-once" in content and content not in FAILED:
            FAILED.add(content)
            self.send_error(503)
            return
        text = reply(content, asked["seed"])
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        self._send({"choices": [choice], "usage": {"completion_tokens": len(text.split())}})

    def _send(self, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    server.serve_forever()
