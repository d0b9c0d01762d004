"""The pool with real processes: order, deadlines, lost workers, large jobs, and nothing left behind.

No test sleeps: a stopped process cannot answer, a killed one is waited for by its process id.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longthink.errors import RewardError
from longthink.rewards import pool as module
from longthink.rewards.base import Reward
from longthink.rewards.countdown import Countdown
from longthink.rewards.math import Math
from longthink.rewards.pool import MAX_JOBS, RewardPool
from longthink.rewards.worker import judge
from longthink.types import Verdict

ROOT = Path(__file__).resolve().parents[2]
GOLD = {"numbers": [3, 7, 12], "target": 120}
RIGHT, WRONG = "</think> (3+7)*12", "</think> 3+7+12"


@pytest.fixture
def pool() -> Iterator[RewardPool]:
    """One worker, ready and idle."""
    with RewardPool(Countdown(), 1) as pool:
        pool.submit("warm", RIGHT, GOLD)
        assert pool.drain()["warm"].score == 1.0
        yield pool


def pids(pool: RewardPool) -> list[int]:
    return [worker.process.pid for worker in pool._workers]


def wait_for_end(pid: int) -> None:
    """Return when a process has ended, whoever its parent is."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended, _, _ = select.select([descriptor], [], [], 30)
    os.close(descriptor)
    assert ended, f"process {pid} is still there"


def test_verdicts_come_by_key_in_the_order_of_submission() -> None:
    keys = [(group, sample) for group in range(40) for sample in range(8)]
    with RewardPool(Countdown(), 3) as pool:
        for group, sample in keys:
            pool.submit((group, sample), RIGHT if sample < group % 9 else WRONG, GOLD)
        verdicts = pool.drain()
        assert list(verdicts) == keys
        assert all(verdicts[group, sample].score == float(sample < group % 9) for group, sample in keys)
        assert pool.drain() == {}
        assert not pool.restarts


def test_a_verdict_crosses_the_pipe_unchanged(pool: RewardPool) -> None:
    for index, response in enumerate((RIGHT, WRONG, "no answer", "</think> " + "1+" * 200, "</think> \x00\ud800\u2028\n{}")):
        pool.submit(index, response, GOLD)
        assert pool.drain()[index] == Countdown().grade(response, GOLD)


def test_fields_of_the_reward_reach_the_worker() -> None:
    with RewardPool(Countdown(think="optional"), 1) as pool:
        pool.submit("a", "(3+7)*12", GOLD)
        assert pool.drain()["a"].score == 1.0


def test_a_hanging_job_is_killed_and_its_neighbours_are_graded() -> None:
    with RewardPool(Math(deadline_s=2.0), 1) as pool:
        for index in range(2 * MAX_JOBS):
            answer = r"\binom{99999999}{49999999}" if index == 3 else str(index)
            pool.submit(index, rf"</think> \boxed{{{answer}}}", index)
        verdicts = pool.drain()
        assert (verdicts[3].score, verdicts[3].status) == (None, "timeout")
        assert [verdicts[i].score for i in verdicts if i != 3] == [1.0] * (2 * MAX_JOBS - 1)
        assert pool.restarts == {"timeout": 1}


def test_a_stopped_worker_is_replaced_at_the_deadline() -> None:
    with RewardPool(Countdown(deadline_s=1.0), 1) as pool:
        pool.submit("warm", RIGHT, GOLD)
        pool.drain()
        os.kill(pids(pool)[0], signal.SIGSTOP)
        pool.submit("first", RIGHT * 50_000, GOLD)  # does not even fit the pipe
        pool.submit("second", RIGHT, GOLD)
        verdicts = pool.drain()
        assert verdicts["first"].status == "timeout"
        assert verdicts["second"].score == 1.0
        assert pool.restarts == {"timeout": 1}


def test_a_worker_killed_at_work_costs_one_job(pool: RewardPool) -> None:
    (pid,) = pids(pool)
    os.kill(pid, signal.SIGSTOP)
    for index in range(MAX_JOBS + 2):
        pool.submit(index, RIGHT, GOLD)
    os.kill(pid, signal.SIGKILL)
    verdicts = pool.drain()
    assert (verdicts[0].score, verdicts[0].status) == (None, "crash")
    assert "signal 9" in verdicts[0].detail["why"]
    assert [verdicts[i].score for i in range(1, MAX_JOBS + 2)] == [1.0] * (MAX_JOBS + 1)
    assert pool.restarts == {"crash": 1}


def test_a_worker_killed_while_idle_costs_nothing(pool: RewardPool) -> None:
    (pid,) = pids(pool)
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    pool.submit("a", RIGHT, GOLD)
    assert pool.drain()["a"].score == 1.0
    assert pool.restarts == {"crash": 1}


def test_workers_that_always_die_end_in_an_error(pool: RewardPool) -> None:
    with pytest.raises(RewardError, match="die before they take a job"):
        for _ in range(10):
            wait_for_ready(pool)
            os.kill(pids(pool)[0], signal.SIGKILL)
            wait_for_end(pids(pool)[0])
            pool._hand_over()
            pool._turn(0.0)


def wait_for_ready(pool: RewardPool) -> None:
    while not all(worker.is_ready for worker in pool._workers):
        pool._turn(1.0)


def test_megabyte_responses_pass(pool: RewardPool) -> None:
    long = "thinking " * 300_000  # 2.7 MB, many times what a pipe holds
    for index in range(6):
        pool.submit(index, long + (RIGHT if index % 2 else WRONG), GOLD)
    assert [verdict.score for verdict in pool.drain().values()] == [0.0, 1.0] * 3
    assert not pool.restarts


def test_a_gold_that_cannot_be_sent_is_our_fault(pool: RewardPool) -> None:
    pool.submit("set", RIGHT, {1, 2})
    pool.submit("none", RIGHT, None)
    pool.submit("good", RIGHT, GOLD)
    verdicts = pool.drain()
    assert [(v.score, v.status) for v in verdicts.values()] == [(None, "verifier_error")] * 2 + [(1.0, "ok")]


def test_a_key_in_use_is_refused(pool: RewardPool) -> None:
    pool.submit("a", RIGHT, GOLD)
    with pytest.raises(RewardError, match="'a' was submitted twice"):
        pool.submit("a", WRONG, GOLD)
    assert pool.drain()["a"].score == 1.0
    pool.submit("a", WRONG, GOLD)
    assert pool.drain()["a"].score == 0.0


def test_a_worker_that_cannot_start_raises_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "table", lambda reward: '{"kind": "nonsense"}')
    with RewardPool(Countdown(), 2) as pool, pytest.raises(RewardError, match=r"(?s)did not start.*'nonsense'"):
        pool.submit("a", RIGHT, GOLD)
        pool.drain()


def test_one_pool_grades_for_many_rewards(pool: RewardPool) -> None:
    pool.submit("math", r"</think> \boxed{0.5}", r"\frac{1}{2}", Math())
    pool.submit("lenient", "(3+7)*12", GOLD, Countdown(think="optional"))
    pool.submit("strict", "(3+7)*12", GOLD, Countdown(think="required"))
    assert [v.score for v in pool.drain().values()] == [1.0, 1.0, 0.0]


def test_verdicts_can_be_taken_one_by_one(pool: RewardPool) -> None:
    for key in range(20):
        pool.submit(key, RIGHT if key % 2 else WRONG, GOLD)
    assert [pool.take(key).score for key in reversed(range(20))] == [1.0, 0.0] * 10
    assert pool.drain() == {}


def test_a_worker_that_has_done_its_share_is_replaced_and_no_job_is_lost(
    pool: RewardPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETIRE_AFTER", 10)
    before = pids(pool)
    for key in range(35):
        pool.submit(key, RIGHT, GOLD)
    assert [v.score for v in pool.drain().values()] == [1.0] * 35
    assert pids(pool) != before and not pool.restarts


def test_close_leaves_no_process() -> None:
    with RewardPool(Countdown(), 2) as pool:
        pool.submit("a", RIGHT, GOLD)
        before = pids(pool)
    pool.close()
    for pid in before:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(RewardError, match="after close"):
        pool.submit("b", RIGHT, GOLD)


def test_workers_die_with_their_parent() -> None:
    script = """
import sys
from longthink.rewards.countdown import Countdown
from longthink.rewards.pool import RewardPool
pool = RewardPool(Countdown(), 2)
pool.submit("a", "</think> 1", {"numbers": [1], "target": 1})
pool.drain()
print(*[worker.process.pid for worker in pool._workers], flush=True)
sys.stdin.read()
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    for pid in workers:
        wait_for_end(pid)


def test_a_worker_is_confined(pool: RewardPool) -> None:
    process = Path("/proc", str(pids(pool)[0]))
    limits = {line[:25].strip(): line[26:].split()[0] for line in (process / "limits").read_text().splitlines()}
    assert int(limits["Max address space"]) <= 2 << 30
    assert limits["Max core file size"] == "0"
    assert [os.readlink(process / "fd" / n) for n in ("0", "1")] == ["/dev/null"] * 2  # nothing printed reaches the pool
    assert os.getsid(pids(pool)[0]) != os.getsid(0)


def test_a_worker_loads_no_training_library() -> None:
    script = "import json, sys, longthink.rewards.worker; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert not {"torch", "transformers", "sympy", "math_verify"} & set(json.loads(output.stdout))


class Broken(Reward):
    """A reward that raises what it is given."""

    def read(self, gold: Any) -> Any:
        return gold

    def extract(self, response: str) -> str:
        return response

    def judge(self, answer: str, gold: Any) -> Verdict:
        raise gold


@pytest.mark.parametrize(("error", "status"), [(MemoryError(), "crash"), (KeyError("x"), "verifier_error")])
def test_an_exception_of_the_verifier_is_a_verdict_without_a_score(error: Exception, status: str) -> None:
    verdict = judge(Broken(), "", error)
    assert (verdict.score, verdict.status) == (None, status)
