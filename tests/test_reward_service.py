"""The reward server and its client: real processes, real sockets, servers that die, fill up and come back."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_train import model, recipe, rows_of  # noqa: F401 (model is a fixture)

from longthink.cli import main
from longthink.errors import RewardError
from longthink.reward_client import RemotePool
from longthink.rewards.code import Code
from longthink.rewards.countdown import Countdown
from longthink.rewards.math import Math
from longthink.rewards.pool import RewardPool
from longthink.train import train

GOLD = {"numbers": [3, 7, 12], "target": 120}
RIGHT, WRONG = "<answer>(3+7)*12</answer>", "<answer>3+7+12</answer>"
LOOP = "```python\nwhile True: pass\n```"
JOBS: list[tuple[str, Any, Any]] = [
    (RIGHT, GOLD, Countdown()),
    (WRONG, GOLD, Countdown()),
    (RIGHT, None, Countdown()),
    (r"\boxed{1/2}", "0.5", Math()),
    ("\ud800\x00", GOLD, Countdown()),
    ("```python\nprint(int(input()) + 1)\n```", {"inputs": ["1"], "outputs": ["2"]}, Code()),
    (LOOP, {"inputs": ["1"], "outputs": ["2"]}, Code(seconds=0.3)),
]


class Server:
    """`longthink serve-rewards` in a process of its own."""

    def __init__(self, *options: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "longthink.cli", "serve-rewards", "--port", str(port), "--workers", "1", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        found = re.search(r"http://[\d.]+:(\d+)", self.said)
        assert found, self.said + self.process.stdout.read()
        self.port = int(found[1])
        self.address = f"127.0.0.1:{self.port}"

    def ask(self, verb: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        connection.request(verb, path, body)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text

    def kill(self, number: int = signal.SIGKILL) -> str:
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=60)
        return said


Start = Callable[..., Server]


@pytest.fixture
def start() -> Iterator[Start]:
    servers: list[Server] = []

    def begin(*options: str, port: int = 0) -> Server:
        servers.append(Server(*options, port=port))
        return servers[-1]

    yield begin
    for server in servers:
        if server.process.poll() is None:
            server.kill()


def test_a_server_gives_the_verdicts_of_the_pool_in_order(start: Start) -> None:
    with RewardPool(Countdown(), 1) as here, RemotePool(Countdown(), [start().address]) as there:
        for pool in (here, there):
            for key, (response, gold, reward) in enumerate(JOBS * 3):
                pool.submit(key, response, gold, reward)
        expected, found = here.drain(), there.drain()
    assert list(found) == list(expected) == list(range(len(JOBS) * 3))
    assert {k: (v.score, v.status, v.extracted) for k, v in found.items()} == {
        k: (v.score, v.status, v.extracted) for k, v in expected.items()
    }
    assert [v.status for v in list(found.values())[:7]] == ["ok", "ok", "verifier_error", "ok", "ok", "ok", "timeout"]


def test_http_health_metrics_and_refusals(start: Start) -> None:
    server = start("--queue", "3")
    status, text = server.ask("GET", "/health")
    health = json.loads(text)
    assert status == 200 and {"countdown", "math", "code"} <= set(health["kinds"]) and health["workers"] == 1
    rows = [{"kind": "countdown", "response": RIGHT, "gold": GOLD}, {"kind": "nonsense", "response": "", "gold": 0}, 7]
    status, text = server.ask("POST", "/verify", json.dumps({"rows": rows}).encode())
    verdicts = json.loads(text)["verdicts"]
    assert status == 200 and [v["score"] for v in verdicts] == [1.0, None, None]
    assert "expected one of" in verdicts[1]["detail"]["why"] and "expected an object" in verdicts[2]["detail"]["why"]
    assert json.loads(server.ask("POST", "/verify", b'{"rows": []}')[1]) == {"verdicts": []}
    for body in (b"", b"{", b"[]", b'{"rows": 3}', b"[" * 100_000, b"\xff\xfe"):
        assert server.ask("POST", "/verify", body)[0] == 400
    assert server.ask("POST", "/verify", json.dumps({"rows": rows * 2}).encode())[0] == 413
    assert server.ask("POST", "/elsewhere", b"{}")[0] == server.ask("GET", "/")[0] == 404
    metrics = server.ask("GET", "/metrics")[1]
    assert 'longthink_verdicts_total{kind="countdown",status="ok"} 1' in metrics and "longthink_waiting_rows 0" in metrics


def test_a_client_that_stops_in_the_middle_harms_nobody(start: Start) -> None:
    server = start()
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    for half in sockets:
        half.send(b"POST /verify HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    with RemotePool(Countdown(), [server.address]) as pool:
        pool.submit("a", RIGHT, GOLD)
        assert pool.take("a").score == 1.0
    for half in sockets:
        half.close()


def test_a_full_queue_refuses_and_the_client_keeps_its_rows(start: Start) -> None:
    server = start("--queue", "2")
    with RemotePool(Countdown(), [server.address]) as pool:
        for key in range(40):
            pool.submit(key, LOOP if key < 3 else RIGHT, GOLD if key >= 3 else {"inputs": ["1"], "outputs": ["2"]},
                        Code(seconds=0.2) if key < 3 else None)  # fmt: skip
        assert [v.score for v in pool.drain().values()] == [0.0] * 3 + [1.0] * 37
        assert pool.restarts["retry"] > 0
    assert re.search(r"longthink_refused_requests_total [1-9]", server.ask("GET", "/metrics")[1])


def test_a_server_that_dies_is_replaced_by_another(start: Start) -> None:
    first, second = start(), start()
    with RemotePool(Countdown(), [first.address, second.address]) as pool:
        slow = Code(seconds=0.3)
        for key in range(30):
            pool.submit(key, LOOP, {"inputs": ["1"], "outputs": ["2"]}, slow)
        assert pool.take(0).status == "timeout"
        first.kill()
        assert [v.status for v in pool.drain().values()] == ["timeout"] * 29


def test_a_dead_server_is_waited_for(start: Start) -> None:
    server = start()
    said: list[str] = []
    with RemotePool(Countdown(), [server.address], notice=said.append) as pool:
        server.kill()
        pool.submit("a", RIGHT, GOLD)
        threading.Timer(0.5, lambda: start(port=server.port)).start()
        assert pool.take("a").score == 1.0
    assert len(said) == 1 and "does not grade (ConnectionRefusedError" in said[0]


def test_silence_for_too_long_is_an_error(start: Start) -> None:
    server = start()
    with RemotePool(Countdown(), [server.address], patience_s=0.3) as pool:
        server.kill()
        pool.submit("a", RIGHT, GOLD)
        with pytest.raises(RewardError, match=r"none answers for 0 s; last, 127\.0\.0\.1.*refused"):
            pool.drain()


def test_a_server_that_hangs_does_not_stop_a_run_that_has_another(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longthink.reward_client.ASK_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # it takes connections and never answers
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setattr(RemotePool, "_greet", lambda self: 16)
        with RemotePool(Countdown(), [address, start().address], patience_s=5.0) as pool:
            for key in range(40):
                pool.submit(key, RIGHT, GOLD)
            assert [v.score for v in pool.drain().values()] == [1.0] * 40


def test_an_idle_connection_that_was_closed_is_opened_again(start: Start) -> None:
    server, said = start(), []
    with RemotePool(Countdown(), [server.address], notice=said.append) as pool:
        for round in range(2):
            for key in range(8):
                pool.submit(key, RIGHT, GOLD)
            assert len(pool.drain()) == 8
            for connection in pool._connections:
                if round == 0 and connection is not None and connection.sock is not None:
                    connection.sock.shutdown(socket.SHUT_RDWR)
        assert not said and not pool.restarts


def test_a_row_too_large_for_a_request_costs_itself_alone(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    with RemotePool(Countdown(), [start().address]) as pool:
        for key in range(8):
            pool.submit(key, RIGHT if key != 3 else "x" * (65 << 20), GOLD)
        found = pool.drain()
    assert [v.score for v in found.values()] == [1.0] * 3 + [None] + [1.0] * 4
    assert found[3].detail["why"].startswith("413")


def test_a_length_that_is_no_number_is_refused(start: Start) -> None:
    server = start()
    for length in ("\u00b2".encode("latin-1"), b"9" * 5000, b"-1", b"1.5", b""):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"POST /verify HTTP/1.1\r\nContent-Length: " + length + b"\r\n\r\n")
            assert client.recv(99).split()[1] in (b"411", b"413"), length
        assert server.ask("GET", "/health")[0] == 200


def test_no_server_at_the_start_or_a_foreign_one_is_an_error(monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    with pytest.raises(RewardError, match=r"none answers.*serve-rewards"):
        RemotePool(Countdown(), ["127.0.0.1:1", "localhost:2"])
    server = start()
    monkeypatch.setattr("longthink.reward_client.version", lambda name: "99.0")
    with pytest.raises(RewardError, match=r"expected longthink 99\.0"):
        RemotePool(Countdown(), [server.address])


def test_a_key_in_use_is_refused_and_a_gold_that_is_not_json_is_our_fault(start: Start) -> None:
    with RemotePool(Countdown(), [start().address]) as pool:
        pool.submit("a", RIGHT, {1, 2})
        assert pool.take("a").status == "verifier_error"
        pool.submit("b", RIGHT, GOLD)
        with pytest.raises(RewardError, match="submitted twice"):
            pool.submit("b", RIGHT, GOLD)
    with pytest.raises(RewardError, match="after close"):
        pool.submit("c", RIGHT, GOLD)


def children(process: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process:
            found.append(int(stat.parent.name))
    return found


def test_a_server_that_is_asked_to_stop_leaves_nothing_behind(start: Start) -> None:
    server = start()
    workers = children(server.process.pid)
    assert len(workers) == 1
    assert re.search(r"0 verdicts in", server.kill(signal.SIGTERM)) and server.process.returncode == 0
    assert not any(Path(f"/proc/{w}").exists() for w in workers)


def test_a_taken_port_is_one_clear_error(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    server = start()
    assert main(["serve-rewards", "--port", str(server.port), "--workers", "1"]) == 2
    assert "choose another --host or --port" in capsys.readouterr().err
    assert main(["serve-rewards", "--port", "99999"]) == 2
    assert main(["serve-rewards", "--workers", "-1"]) == 2


def test_a_run_graded_by_servers_is_the_run_graded_here(model: Path, start: Start, tmp_path: Path) -> None:  # noqa: F811
    for name, servers in (("here", []), ("there", [start().address])):
        train(recipe(model, reward_servers=servers), tmp_path / name)
    here, there = (
        [{k: v for k, v in row.items() if "time/" not in k} for row in rows_of(tmp_path / n)] for n in ("here", "there")
    )
    assert here == there and len(here) == 3
    assert os.listdir(tmp_path / "here" / "rollouts") == os.listdir(tmp_path / "there" / "rollouts")
