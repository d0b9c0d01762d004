"""Machines that are network namespaces: a link that is cut and heals, and one that stays cut. Needs root."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters.test_async import recipe, rows_of, whole

from longthink.run import recipe_text

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2"),
]
pytest.importorskip("ray")
BIN = Path(sys.executable).parent
SPACES, PORT = ("longthink_a", "longthink_b", "longthink_c"), 6397
CORES = (1, 2, 2)
ADDRESSES = ("10.77.0.1", "10.77.0.2", "10.77.1.2")


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


def wait_for(there: Callable[[], Any], process: subprocess.Popen[bytes], seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


class Machines:
    """A head, and two machines that are each linked to it alone; the second of them joins when it is asked to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.raylets: list[subprocess.Popen[bytes]] = []
        self.sessions = ""
        (folder / "token").write_text("0123456789abcdef" * 4)
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_ADDRESS": f"10.77.0.1:{PORT}",
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "4",
        }

    def open(self) -> None:
        self.close()
        self.sessions = tempfile.mkdtemp(prefix="longthink")  # short, and not where other runs look for a Ray
        for name in SPACES:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for number in (1, 2):
            near, gate, other = f"longthink0{number}", f"10.77.{number - 1}.1", SPACES[number]
            ip("link", "add", near, "netns", SPACES[0], "type", "veth", "peer", "name", "longthink", "netns", other)
            for space, device, address in ((SPACES[0], near, gate), (other, "longthink", ADDRESSES[number])):
                ip("-n", space, "addr", "add", f"{address}/24", "dev", device)
                ip("-n", space, "link", "set", device, "up")
            ip("-n", other, "route", "add", "default", "via", gate)
        self.raylet(0)
        self.raylet(1)

    def inside(self, number: int, *words: str, out: Path) -> subprocess.Popen[bytes]:
        command = ["ip", "netns", "exec", SPACES[number], *words]
        environment = {**self.environment, "GLOO_SOCKET_IFNAME": "longthink" if number else "longthink01"}
        with out.open("ab") as file:
            return subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)

    def raylet(self, number: int) -> None:
        head = ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={self.sessions}"]
        where = [f"--address=10.77.0.1:{PORT}"] if number else head
        ray = [
            str(BIN / "ray"),
            "start",
            "--block",
            f"--num-cpus={CORES[number]}",
            f"--node-ip-address={ADDRESSES[number]}",
        ]
        out = self.folder / f"raylet{number}"
        before = out.read_text().count("Ray runtime started") if out.exists() else 0
        started = self.inside(number, *ray, *where, out=out)
        self.raylets.append(started)
        wait_for(lambda: out.read_text().count("Ray runtime started") > before, started)

    def link(self, state: str) -> None:
        ip("-n", SPACES[0], "link", "set", "longthink01", state)

    def close(self) -> None:
        for started in self.raylets:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
        self.raylets = []
        for name in SPACES:
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
            for pid in pids:
                os.kill(int(pid), signal.SIGKILL)
            ip("netns", "del", name, check=False)
        shutil.rmtree(self.sessions, ignore_errors=True)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    made = Machines(tmp_path)
    try:
        made.open()
        yield made
    finally:
        made.close()


APART = {"learners": 1, "threads": 1, "samplers": 1, "place": "ray", "spread": "strict_spread"}
SHARDED = APART | {"learners": 2, "shard": True, "spread": "pack"}  # three processes on one core and two: a rank is among the two


def begun(machines: Machines, model: Path, cluster: dict[str, Any]) -> tuple[subprocess.Popen[bytes], Path]:
    """A run on two machines, after its first step."""
    path, run = machines.folder / "recipe.toml", machines.folder / "run"
    made = recipe(model, 1, cluster=cluster, budget={"max_steps": 60}, checkpoint={"every": 1})
    path.write_text(recipe_text(made))
    words = [str(BIN / "longthink"), "train", str(path), "--out", str(run)]
    process = machines.inside(0, *words, out=machines.folder / "said")
    wait_for(lambda: (run / "metrics.jsonl").exists() and len(rows_of(run)) > 2, process)
    return process, run


def test_a_link_that_heals_costs_nothing(machines: Machines, warm_folder: Path) -> None:
    process, run = begun(machines, warm_folder, APART)
    machines.link("down")
    steps = len(rows_of(run))
    time.sleep(3.0)  # the length of the cut: Ray waits longer before it takes a machine for dead
    assert process.poll() is None and len(rows_of(run)) <= steps + 2
    machines.link("up")
    assert process.wait(240) == 0, (machines.folder / "said").read_text()[-3000:]
    assert "died" not in (machines.folder / "said").read_text()
    whole(run, 60)


@pytest.mark.full
@pytest.mark.parametrize("cluster", [APART, SHARDED], ids=["apart", "sharded"])
def test_a_machine_that_is_lost_is_replaced_by_another(machines: Machines, warm_folder: Path, cluster: dict[str, Any]) -> None:
    process, run = begun(machines, warm_folder, cluster)
    said = machines.folder / "said"
    machines.raylet(2)
    machines.link("down")  # for good
    wait_for(lambda: "died" in said.read_text(), process)
    assert process.wait(240) == 0, said.read_text()[-3000:]
    whole(run, 60)
