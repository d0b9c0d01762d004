"""A model behind an OpenAI-compatible server: ours as a real process, and servers that fail in every way."""

import dataclasses
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tomli_w

from longthink.cli import main
from longthink.engines import served
from longthink.engines.served import ServedEngine
from longthink.errors import EngineError
from longthink.evaluation.models import weights_hash
from longthink.types import Problem, Request, RolloutId, Sampling

MINE = Path(__file__).resolve().parents[1] / "evaluation" / "two_numbers.toml"


@pytest.fixture(scope="module")
def address(warm_folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "longthink.cli", "serve", str(warm_folder), "--port", "0", "--dtype", "float32"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split(" on ")[1].split()[0]
        process.terminate()
        assert process.wait() == 0


def ask(address: str, path: str, body: object = None) -> tuple[int, dict]:
    import urllib.error
    import urllib.request

    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, data)) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as e:
        return e.code, json.loads(e.read())


def test_the_server_speaks_the_protocol(address):
    assert ask(address, "/models")[1]["data"][0]["id"].startswith("step_")
    chat = {"messages": [{"role": "user", "content": "2 3 -> 6"}], "max_tokens": 24, "seed": 5, "n": 3, "temperature": 1.0}
    status, found = ask(address, "/chat/completions", chat)
    assert status == 200 and [c["index"] for c in found["choices"]] == [0, 1, 2]
    assert found == {**ask(address, "/chat/completions", chat)[1], "id": found["id"], "created": found["created"]}
    assert found["usage"]["completion_tokens"] > 0 and {c["finish_reason"] for c in found["choices"]} <= {"stop", "length"}
    assert all(c["message"]["role"] == "assistant" for c in found["choices"])
    status, text = ask(address, "/completions", {"prompt": "2 3 -> 6", "max_tokens": 2, "temperature": 0})
    assert status == 200 and text["choices"][0]["finish_reason"] == "length" and text["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/chat/completions", {"messages": []}, 400, "at least one"),
        ("/chat/completions", {"messages": [{"role": "user", "content": 3}]}, 400, "no text"),
        ("/chat/completions", {"messages": [{"role": "user", "content": "x"}], "temperature": -1}, 400, "temperature"),
        ("/chat/completions", {"messages": [{"role": "user", "content": "x"}], "n": 1000}, 400, "n is 1000"),
        ("/completions", {"prompt": ["a", "b"]}, 400, "expected text"),
        ("/completions", {"prompt": "2", "stop": ["x"]}, 400, "stop is not supported"),
        ("/completions", {"prompt": "2", "n": 2.0}, 400, "whole number"),
        ("/completions", {"prompt": "2 " * 5000}, 400, "positions"),
        ("/completions", b"{", 400, "not JSON"),
        ("/completions", [1], 400, "expected an object"),
        ("/completions", {"prompt": "2", "model": "other"}, 404, "the model here is"),
        ("/embeddings", {}, 404, "there are"),
    ],
)
def test_bad_requests_are_answered_and_the_server_goes_on(address, path, body, status, said):
    found = ask(address, path, body)
    assert found[0] == status and said in json.dumps(found[1])
    assert ask(address.removesuffix("/v1"), "/health")[0] == 200


def test_an_evaluation_through_the_server_equals_the_local_one(address, warm_folder, tmp_path, capsys):
    """Both sample with the same draws: the texts are the same, token counts and all, whatever the way."""
    drawn = ["--on", str(MINE), "-n", "2", "--window", "40", "--temperature", "1", "--top-p", "1"]
    assert main(["eval", address, *drawn, "--out", str(tmp_path / "far")]) == 0
    small = ["--set", "cluster.learners=1", "--set", "cluster.threads=1", "--set", "model.dtype=float32"]
    assert main(["eval", str(warm_folder), *drawn, *small, "--out", str(tmp_path / "near")]) == 0
    far, near = [
        [json.loads(line) for line in (tmp_path / d / "samples.jsonl").read_text().splitlines()] for d in ("far", "near")
    ]
    assert len(far) == 32
    for there, here in zip(far, near, strict=True):
        assert {**there, "vote": None} == {**here, "vote": None}
    facts = json.loads((tmp_path / "far" / "eval.json").read_text())
    assert facts["server"] == address and facts["model"] == warm_folder.name and facts["weights"] == weights_hash(warm_folder)
    capsys.readouterr()
    assert main(["eval", address, *drawn, "--out", str(tmp_path / "far"), "--served-model", "other"]) == 2
    assert f"serves {warm_folder.name}" in capsys.readouterr().err


def test_a_curation_through_the_server_has_the_pass_rates_of_the_folder(address, warm_folder, tmp_path):
    made = {"name": "made", "generate": {"kind": "countdown", "count": 2, "high": 6, "min_target": 2, "rows": 8}}
    step = {"kind": "difficulty", "samples": 4, "prompt": "bare", "reward": {"kind": "countdown"}}
    settings = {"model": {"dtype": "float32"}, "cluster": {"learners": 1, "threads": 1}}
    rates = []
    for name, model in (("far", {"path": address}), ("near", {"path": str(warm_folder), "settings": settings})):
        recipe = {"name": name, "source": [made], "step": [step | {"model": model | {"window": 60, "temperature": 1.0}}]}
        (tmp_path / f"{name}.toml").write_text(tomli_w.dumps(recipe))
        assert main(["curate", str(tmp_path / f"{name}.toml"), "--out", str(tmp_path / name), "--workers", "1"]) == 0
        rows = pq.read_table(tmp_path / name / "data" / "train.parquet").to_pylist()
        rates.append([(row["id"], row["pass_rate"], json.loads(row["facts"])["difficulty"]["tokens"]) for row in rows])
    assert rates[0] == rates[1] and len(rates[0]) == 8 and 0 < sum(rate for _, rate, _ in rates[0]) < 8


def test_another_model_behind_an_address_does_not_go_on(tmp_path, capsys, monkeypatch):
    asked = ["eval", "", "--on", str(MINE), "-n", "1", "--problems", "1", "--window", "8", "--out", str(tmp_path / "eval")]
    for weights, status in (("one", 0), ("one", 0), ("two", 2)):
        listed = {"data": [{"id": "m", "weights": weights}]}
        with server(lambda handler, n: send(handler, 200, GOOD), listed=listed) as there:
            asked[1] = there
            assert main(asked) == status
    assert "another weights" in capsys.readouterr().err


# -- servers that fail ------------------------------------------------------------------------------------------------

GOOD = {"choices": [{"message": {"content": "7"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 3}}


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler, int], None], listed: object = {"data": [{"id": "m"}]}) -> Iterator[str]:
    """A server whose n-th POST is answered by `answer(handler, n)`."""
    count = iter(range(10_000))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            send(self, 200, listed)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self, next(count))

        def log_message(self, *_: object) -> None:
            pass

    front = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    front.daemon_threads = True
    threading.Thread(target=front.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{front.server_address[1]}/v1"
    finally:
        front.shutdown()
        front.server_close()


def send(handler, status, body, *, claim=0):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(claim or len(data)))
    handler.end_headers()
    handler.wfile.write(data)
    if claim:
        handler.close_connection = True


def requests(count):
    problem = Problem("p", ({"role": "user", "content": "?"},), "7")
    return [Request(RolloutId(i, 0), problem, [], 8, Sampling(), i) for i in range(count)]


def outcome(address, count, **options):
    """The samples that came, and what was said of the others."""
    engine = ServedEngine(address, concurrency=2, **{"timeout_s": 5.0, "attempts": 3} | options)
    for request in requests(count):
        engine.submit(request)
    came = []
    try:
        for rollout in engine.finished():
            came.append(rollout)
    except EngineError as e:
        return came, str(e)
    finally:
        engine.close()
    return came, ""


def drip(handler, n):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while True:
        handler.wfile.write(b" ")
        handler.wfile.flush()
        threading.Event().wait(0.02)


PASSING = {
    "an error": lambda h, n: send(h, 500, {"error": "oops"}) if n == 0 else send(h, 200, GOOD),
    "too busy": lambda h, n: send(h, 429, {}) if n == 0 else send(h, 200, GOOD),
    "cut short": lambda h, n: send(h, 200, b'{"choices"', claim=500) if n == 0 else send(h, 200, GOOD),
    "not JSON": lambda h, n: send(h, 200, b"<html>") if n == 0 else send(h, 200, GOOD),
    "no choices": lambda h, n: send(h, 200, {"choices": []}) if n == 0 else send(h, 200, GOOD),
    "hangs up": lambda h, n: h.connection.shutdown(socket.SHUT_RDWR) if n == 0 else send(h, 200, GOOD),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_asked_again(name, monkeypatch):
    monkeypatch.setattr(served, "PAUSE_S", (0.01, 0.02))
    said = []
    with server(PASSING[name]) as address:
        came, why = outcome(address, 4, notice=said.append)
    assert len(came) == 4 and not why and len(said) == 1
    assert {(r.text, r.num_tokens, r.finish_reason) for r in came} == {("7", 3, "stop")}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda h, n: send(h, 200, {"choices": ["hi"]}), "no usable reply in 3 attempts"),
        (lambda h, n: send(h, 200, b"[" * 200_000), "no usable reply in 3 attempts"),
        (lambda h, n: send(h, 200, b'{"choices": [{"text": "7"}], "usage": {"completion_tokens": Infinity}}'), "attempts"),
        (lambda h, n: send(h, 200, {**GOOD, "usage": {"completion_tokens": -3}}), "completion_tokens is -3"),
        (lambda h, n: send(h, 503, b"\x1b[2Jgone"), r"\x1b[2Jgone"),
        (lambda h, n: send(h, 503, {"error": "down"}), "no usable reply in 3 attempts"),
        (lambda h, n: threading.Event().wait(30), "no usable reply in 3 attempts"),
        (drip, "took too long"),
    ],
)
def test_what_stays_wrong_is_said_once_and_loses_nothing(answer, said, monkeypatch):
    monkeypatch.setattr(served, "PAUSE_S", (0.01, 0.02))
    with server(lambda h, n: send(h, 200, GOOD) if n == 0 else answer(h, n)) as address:
        came, why = outcome(address, 3, timeout_s=2.0)
    assert len(came) == 1 and said in why and "2 requests failed" in why and "is kept" in why


def test_a_server_says_how_long_to_wait(monkeypatch):
    monkeypatch.setattr(served, "PAUSE_S", (0.01, 60.0))
    waits = []

    def busy(handler, n):
        if n:
            send(handler, 200, GOOD)
            return
        handler.send_response(429)
        handler.send_header("Retry-After", "7")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with server(busy) as address:
        monkeypatch.setattr(
            threading.Event,
            "wait",
            lambda self, t=None, wait=threading.Event.wait: waits.append(t) or wait(self, t and min(t, 0.2)),
        )
        came, why = outcome(address, 1)
    assert len(came) == 1 and not why and 7.0 in waits


def test_a_refused_problem_does_not_hold_up_the_others():
    """The first problems' requests are too long for the server: they end without text, and all others are answered."""

    def answer(handler, n):
        send(handler, 400, {"error": "too long"}) if n < 40 else send(handler, 200, GOOD)

    with server(answer) as address:
        engine = ServedEngine(address, concurrency=2)
        for n in range(60):
            engine.submit(dataclasses.replace(requests(1)[0], id=RolloutId(n // 20, n % 20)))
        came = list(engine.finished())
        engine.close()
    assert len(came) == 60 and 39 <= sum(r.finish_reason == "aborted" for r in came) <= 41


def test_a_server_that_refuses_every_problem_is_given_up():
    with server(lambda h, n: send(h, 404, {"error": "no such model"})) as address:
        came, why = outcome(address, 100)
    assert "no such model" in why and len(came) < 20


def test_a_dead_server_is_given_up_before_all_is_tried(monkeypatch):
    monkeypatch.setattr(served, "PAUSE_S", (0.001, 0.001))
    asked = []
    with server(lambda h, n: (asked.append(n), send(h, 500, {}))[0]) as address:
        came, why = outcome(address, 500, attempts=1)
    assert not came and len(asked) < 20 and "failed" in why


def test_thinking_that_is_sent_apart_is_put_back(monkeypatch):
    message = {"content": "7", "reasoning_content": "3 + 4"}
    reply = {"choices": [{"message": message, "finish_reason": "length"}], "usage": {"completion_tokens": 9}}
    with server(lambda h, n: send(h, 200, reply)) as address:
        came, _ = outcome(address, 1)
    assert came[0].text == "<think>3 + 4</think>7" and came[0].truncated


def test_no_server_and_no_model():
    with pytest.raises(EngineError, match="expected http://host:port/v1"):
        ServedEngine("http://127.0.0.1:9/v1")


def test_an_evaluation_on_a_failing_server_goes_on_later(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(served, "PAUSE_S", (0.001, 0.001))
    drawn = ["--on", str(MINE), "-n", "2", "--window", "40", "--out", str(tmp_path / "eval"), "--concurrency", "1"]
    down = [True]
    with server(lambda h, n: send(h, 500, {}) if down[0] and n > 9 else send(h, 200, GOOD)) as address:
        assert main(["eval", address, *drawn]) == 2
        assert "is kept; the same command" in capsys.readouterr().err
        assert len((tmp_path / "eval" / "samples.jsonl").read_text().splitlines()) == 10
        down[0] = False
        assert main(["eval", address, *drawn]) == 0
    assert len((tmp_path / "eval" / "samples.jsonl").read_text().splitlines()) == 32


def test_what_a_server_refused_is_counted_as_ungraded_and_asked_again(tmp_path, capsys):
    drawn = ["--on", str(MINE), "-n", "2", "--window", "40", "--out", str(tmp_path / "eval"), "--concurrency", "1"]
    down = [True]
    with server(lambda h, n: send(h, 400, {}) if down[0] and n < 2 else send(h, 200, GOOD)) as address:
        assert main(["eval", address, *drawn]) == 0
        summary = json.loads((tmp_path / "eval" / "summary.json").read_text())["benchmarks"]["two_numbers"]
        assert summary["ungraded"] == 2 and summary["samples"] == 32
        down[0] = False
        assert main(["eval", address, *drawn]) == 0
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())["benchmarks"]["two_numbers"]
    assert summary["ungraded"] == 0 and summary["samples"] == 32
    capsys.readouterr()
