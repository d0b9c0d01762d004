"""Samplers that work ahead: nothing is lost, counted twice or favoured for being short, whatever dies on the way."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longthink.clusters.cluster import Cluster
from longthink.clusters.peers import Place
from longthink.errors import EngineError
from longthink.recipe import Recipe, parse_recipe
from longthink.rewards.pool import RewardPool
from longthink.run import Run
from longthink.train import train

pytestmark = pytest.mark.cluster
PROMPTS, GROUP, STEPS = 4, 4, 4


def recipe(model: Path, staleness: int = 1, **changes: Any) -> Recipe:
    table: dict[str, Any] = {
        "name": "async",
        "model": {"path": str(model), "dtype": "float32"},
        "cluster": {"learners": 2, "threads": 1, "shard": True, "samplers": 2},
        "task": {"kind": "countdown", "count": 2, "high": 6, "min_target": 2, "seed": 1},
        "reward": {"kind": "countdown"},
        "workers": 1,
        "rollout": {"prompts": PROMPTS, "group_size": GROUP, "window": 64, "staleness": staleness},
        "engine": {"max_rows": 8},
        "loss": {"old_logprobs": "learner", "correction": "truncate"},
        "learner": {"lr": 1e-3},
        "budget": {"max_steps": STEPS},
        "checkpoint": {"every": 2},
    }
    return parse_recipe({**table, **changes}, "async")


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def journal(run: Path, steps: int) -> list[dict[str, Any]]:
    paths = [run / "rollouts" / f"step_{step:06d}.jsonl" for step in range(1, steps + 1)]
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def whole(run: Path, steps: int = STEPS) -> list[dict[str, Any]]:
    """The run's rows and rollouts, once it is seen that each is there exactly once and in its step."""
    rows, rollouts = rows_of(run), journal(run, steps)
    assert [r["step"] for r in rows] == list(range(steps + 1))
    ids = [(r["step"], r["group"], r["sample"]) for r in rollouts]
    assert ids == [(g // PROMPTS + 1, g, s) for g in range(steps * PROMPTS) for s in range(GROUP)]
    assert [r["tokens/step"] for r in rows[1:]] == [
        sum(len(r["response_ids"]) for r in rollouts if r["step"] == step) for step in range(1, steps + 1)
    ]
    return rollouts


@pytest.mark.parametrize("staleness", [1, 3])
def test_samplers_work_ahead_within_bounds_and_nothing_is_left_out(warm_folder: Path, tmp_path: Path, staleness: int) -> None:
    steps = 6
    made = recipe(warm_folder, staleness, budget={"max_steps": steps})
    assert train(made, tmp_path / "run").complete
    rollouts, rows = whole(tmp_path / "run", steps), rows_of(tmp_path / "run")[1:]
    assert all(r["async/length_gap"] == 0.0 for r in rows)
    assert 0 < max(r["async/staleness/max"] for r in rows) <= staleness
    for rollout in rollouts:
        versions = rollout.get("versions", [[rollout["policy_version"], len(rollout["response_ids"])]])
        assert all(rollout["step"] - 1 - staleness <= v <= rollout["step"] - 1 for v, _ in versions)
        assert sum(count for _, count in versions) == len(rollout["response_ids"])
    mixed = [r for r in rollouts if len({v for v, _ in r.get("versions", [])}) > 1]
    assert len(mixed) == sum(round(r["async/mixed_share"] * PROMPTS * GROUP) for r in rows)
    assert all(np.isfinite(r["loss/policy/sum"]) for r in rows if "loss/policy/sum" in r)


def test_problems_and_draws_are_those_of_the_synchronous_run(warm_folder: Path, tmp_path: Path) -> None:
    """With a learning rate of almost nothing the policy stays what it is, and with it every rollout."""
    still = {"learner": {"lr": 1e-30}}
    for name, staleness in (("sync", 0), ("async", 2)):
        train(recipe(warm_folder, staleness, **still), tmp_path / name)
    told = [[(r["problem"], r["group"], r["sample"], r["text"]) for r in whole(tmp_path / n)] for n in ("sync", "async")]
    assert told[0] == told[1]


def killing(role: Callable[[Cluster], Place], at: int, killed: list[str]) -> Callable[[Cluster, Place], None]:
    """Takes answers as a cluster does, and kills a role when it has given its so manyeth one."""
    take, seen = Cluster._take, 0

    def taking(self: Cluster, place: Place) -> None:
        nonlocal seen
        take(self, place)
        if len(self.samplers) == 2 and not killed and place is role(self) and place.where[1]:
            seen += 1
            if seen == at:
                killed.append(place.name)
                os.kill(place.where[1], signal.SIGKILL)

    return taking


ROLES: dict[str, Callable[[Cluster], Place]] = {
    "rank_0": lambda cluster: cluster.ranks[0],
    "rank_1": lambda cluster: cluster.ranks[1],
    "sampler": lambda cluster: cluster.samplers[1],
}


MORE = [pytest.param(role, at, ahead, marks=pytest.mark.full) for role in ROLES for at in (4, 29) for ahead in (0, 1)]


@pytest.mark.parametrize(("role", "at", "staleness"), [("rank_0", 13, 1), ("rank_1", 17, 0), ("sampler", 13, 1), *MORE])
def test_a_killed_process_is_replaced(
    warm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, at: int, staleness: int
) -> None:
    killed: list[str] = []
    monkeypatch.setattr(Cluster, "_take", killing(ROLES[role], at, killed))
    assert train(recipe(warm_folder, staleness), tmp_path / "run").complete
    assert killed == [role.replace("_", " ") if role != "sampler" else "sampler 1"]
    whole(tmp_path / "run")


def test_a_killed_reward_worker_costs_the_verdict_it_was_at(
    warm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, killed = RewardPool.submit, []

    def killing_one(self: RewardPool, key: Any, *args: Any) -> None:
        submit(self, key, *args)
        if key[0] > len(killed) * PROMPTS and self._workers[0].is_ready:  # once in each of the first steps
            killed.append(key)
            os.kill(self._workers[0].process.pid, signal.SIGKILL)

    monkeypatch.setattr(RewardPool, "submit", killing_one)
    assert train(recipe(warm_folder), tmp_path / "run").complete
    crashed = [r for r in whole(tmp_path / "run") if r["verdict"]["status"] == "crash"]
    assert len(killed) >= 3 and len(crashed) <= len(killed) and all(r["verdict"]["score"] is None for r in crashed)


def test_a_run_whose_processes_die_again_and_again_says_so(
    warm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Cluster.update

    def updating(self: Cluster, *args: Any) -> Any:
        os.kill(self.ranks[1].where[1], signal.SIGKILL)
        return update(self, *args)

    monkeypatch.setattr(Cluster, "update", updating)
    made = recipe(warm_folder)
    made = made.model_copy(update={"cluster": made.cluster.model_copy(update={"restarts": 1})})
    with pytest.raises(EngineError, match=r"rank 1 died \(killed by signal 9\); 2 such losses since the last checkpoint"):
        train(made, tmp_path / "run")
    monkeypatch.setattr(Cluster, "update", update)
    assert train(Run.open(tmp_path / "run", None).recipe, tmp_path / "run", resume=True).complete
    whole(tmp_path / "run")


def test_a_stop_is_not_forgotten_over_a_loss(warm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = Cluster.update

    def updating(self: Cluster, *args: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        os.kill(self.ranks[1].where[1], signal.SIGKILL)
        return update(self, *args)

    monkeypatch.setattr(Cluster, "update", updating)
    with pytest.raises(EngineError, match=r"rank 1 died .* while the run was stopping; go on with --resume"):
        train(recipe(warm_folder), tmp_path / "run")
    monkeypatch.setattr(Cluster, "update", update)
    assert train(Run.open(tmp_path / "run", None).recipe, tmp_path / "run", resume=True).complete
    whole(tmp_path / "run")
