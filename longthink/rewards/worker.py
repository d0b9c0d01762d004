"""A process that grades: `python -m longthink.rewards.worker`, started and killed by `longthink.rewards.pool`.

First line on stdin: the table of a reward, {"kind": …, …}, loaded before the first job. Every further line is a job
{"job": n, "reward": table as text, "response": …, "gold": …}, answered in order by a line with the same number and
the verdict. Whenever a reward has been loaded, {"prepared": its table} goes out first. Lines are ASCII with JSON
escapes, so that NUL bytes and lone surrogates pass unharmed.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

from longthink.errors import LongthinkError
from longthink.part import load_part
from longthink.rewards.base import Reward
from longthink.types import Verdict

__all__ = ["main"]

MEMORY_BYTES = 2 << 30
MAX_EXTRACTED = 1_000  # characters; eight answers must fit the pipe while nobody reads it
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Grade until stdin ends. Raises: whatever building the reward raises, for the pool to report."""
    confine()
    jobs, verdicts = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)  # a library that prints must not reach the pool

    def answer(message: dict[str, Any]) -> None:
        verdicts.write(json.dumps(message, default=repr).encode("ascii") + b"\n")

    rewards: dict[str, Reward] = {}

    def prepared(name: str) -> Reward:
        if name not in rewards:
            reward = load_part(Reward, json.loads(name))
            reward.prepare()
            rewards[name] = reward
            answer({"prepared": name})
        return rewards[name]

    try:
        prepared(jobs.readline().decode("ascii").rstrip("\n"))
    except LongthinkError as refusal:
        sys.exit(str(refusal))
    for line in jobs:
        job = json.loads(line)
        try:
            verdict = judge(prepared(job["reward"]), job["response"], job["gold"])
        except LongthinkError as error:
            verdict = Verdict(None, "verifier_error", detail={"why": str(error)[:200]})
        extracted = None if verdict.extracted is None else verdict.extracted[:MAX_EXTRACTED]
        head = {"job": job["job"], "score": verdict.score, "status": verdict.status}
        answer({**head, "extracted": extracted, "detail": dict(verdict.detail)})


def confine() -> None:
    """Die with the parent, leave Ctrl-C to it, and stay within 2 GiB without core dumps."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for limit, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(limit)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))


def judge(reward: Reward, response: str, gold: Any) -> Verdict:
    """The reward's verdict; without a score where the verifier itself fails."""
    try:
        return reward.grade(response, gold)
    except MemoryError:
        return Verdict(None, "crash", detail={"why": "out of memory"})
    except Exception as error:  # a verifier that breaks its contract must not take other jobs with it
        return Verdict(None, "verifier_error", detail={"why": f"{type(error).__name__}: {error}"[:200]})


if __name__ == "__main__":
    main()
