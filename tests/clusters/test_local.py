"""Two real processes against one: the same rollouts, the same update, and a dead replica named."""

import os
import signal
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from longthink.clusters.cluster import Cluster
from longthink.clusters.local import LocalPeer, LocalPlacement
from longthink.clusters.peers import Due, Peer, Place
from longthink.clusters.workers import Make
from longthink.errors import EngineError, LongthinkError, WorkerLost
from longthink.folder import tiny_folder
from longthink.recipe import Recipe, parse_recipe
from longthink.tables import LearnerSettings, LossSettings
from longthink.tasks.countdown import WORDS, Countdown
from longthink.types import Batch, Group, Request, Rollout, RolloutId, Sampling, Verdict

TEMPLATE = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}<think>"
LOSS = LossSettings(kl=0.05, entropy=0.01)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_folder(folder, WORDS, seed=0, template=TEMPLATE, hidden_size=32, num_hidden_layers=2, intermediate_size=64)
    return folder


def recipe(model: Path, processes: int, *, shard: bool = False, samplers: int = 0) -> Recipe:
    table = {
        "name": "two",
        "model": {"path": str(model), "dtype": "float32"},
        "cluster": {"learners": processes, "threads": 1, "shard": shard, "samplers": samplers},
        "task": {"kind": "countdown"},
        "reward": {"kind": "countdown"},
        "learner": {"lr": 1e-3, "minibatch_prompts": 2},
        "rollout": {"prompts": 4},
    }
    return parse_recipe(table, "test")


def sampled(cluster: Cluster) -> list[Rollout]:
    task = Countdown()
    for group in range(4):
        problem = task.problem("train", group)
        ids = cluster.tokenizer.prompt_ids(problem)
        for sample in range(3):
            cluster.submit(Request(RolloutId(group, sample), problem, ids, 20, Sampling(), 10 * group + sample))
    return sorted(cluster.finished(), key=lambda r: r.id)


def batch_of(rollouts: list[Rollout]) -> Batch:
    groups = []
    for start in range(0, len(rollouts), 3):
        members = tuple(rollouts[start : start + 3])
        groups.append(Group(members[0].problem, members, (Verdict(1.0, "ok"),) * 3, (1.0, 0.0, 0.0)))
    batch = Batch.of(groups)
    return batch.with_(advantages=np.where(batch.row % 3 == 0, 1.0, -0.5).astype(np.float32))


def kill(place: Place) -> None:
    assert isinstance(place.peer, LocalPeer)
    os.kill(place.peer.process.pid or 0, signal.SIGKILL)
    place.peer.process.join()


OWN = LossSettings(kl=0.1, entropy=0.01, old_logprobs="learner", correction="truncate", ratio="sequence_mean")


Step = tuple[list[Rollout], np.ndarray, dict[str, float], dict[str, np.ndarray]]


def one_step(model: Path, processes: int, loss: LossSettings = LOSS, **placed: Any) -> Step:
    with closing(Cluster(recipe(model, processes, **placed))) as cluster:
        cluster.freeze_reference()
        rollouts = sampled(cluster)
        batch = cluster.logprobs(batch_of(rollouts), loss, 1.0)
        assert batch.reference_logprobs is not None
        means = cluster.update(batch, loss, 1.0, LearnerSettings(lr=1e-3, minibatch_prompts=2)).means()
        cluster.sync(1)
        with tempfile.TemporaryDirectory() as folder:
            cluster.save(Path(folder))
            weights = {name: p.numpy() for name, p in load_file(Path(folder) / "model.safetensors").items()}
        return rollouts + sampled(cluster), batch.reference_logprobs, means, weights


@pytest.mark.parametrize(
    ("loss", "placed"),
    [
        (LOSS, {}),
        (OWN, {}),
        pytest.param(LOSS, {"shard": True}, marks=pytest.mark.cluster),
        pytest.param(OWN, {"shard": True, "samplers": 2}, marks=pytest.mark.cluster),
        pytest.param(LOSS, {"shard": True, "samplers": 1}, marks=pytest.mark.cluster),
    ],
    ids=["sampler", "learner", "sharded", "sharded_learner_two_samplers", "one_sampler"],
)
def test_two_processes_do_what_one_does(model: Path, loss: LossSettings, placed: dict[str, Any]) -> None:
    alone, alone_reference, alone_means, alone_weights = one_step(model, 1, loss)
    shared, shared_reference, shared_means, shared_weights = one_step(model, 2, loss, **placed)
    assert [r.id for r in shared] == [r.id for r in alone]
    # the first twelve are sampled from the same weights; their tokens do not depend on who sampled them
    for a, b in zip(alone[:12], shared[:12], strict=True):
        assert a.response_ids.tolist() == b.response_ids.tolist()
    np.testing.assert_allclose(shared_reference, alone_reference, atol=1e-5)
    assert shared_means.keys() == alone_means.keys()
    for key in alone_means:
        assert shared_means[key] == pytest.approx(alone_means[key], abs=2e-5), key
    for name in alone_weights:
        np.testing.assert_allclose(shared_weights[name], alone_weights[name], atol=1e-5)


def test_a_rank_that_comes_first_to_an_update_waits(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to learn takes no time: the other process may be there before this one has begun."""
    wait = LocalPlacement.wait
    monkeypatch.setattr(LocalPlacement, "wait", lambda self, peers, timeout_s: wait(self, peers, timeout_s or 5.0))
    loss, settings = LossSettings(kl=0.0, entropy=0.0), LearnerSettings(lr=1e-3, minibatch_prompts=2)
    with closing(Cluster(recipe(model, 2))) as cluster:
        batch = batch_of(sampled(cluster))
        batch = cluster.logprobs(batch.with_(advantages=np.zeros_like(batch.advantages)), loss, 1.0)
        for _ in range(2):
            means = cluster.update(batch, loss, 1.0, settings).means()
            assert means["learner/updates/sum"] == 2 and means["learner/grad_norm/mean"] == 0.0


@pytest.mark.cluster
def test_a_sharded_rank_that_fails_alone_is_heard(model: Path, tmp_path: Path) -> None:
    cluster = Cluster(recipe(model, 2, shard=True))
    try:
        cluster.ranks[1].peer.send("load", tmp_path / "nowhere", True)
        cluster.ranks[1].due.append(Due(lambda _: None, "load", ()))
        with pytest.raises(EngineError, match=r"rank 1 (failed|died)"):
            cluster.sync(1)
    except LongthinkError as e:
        assert "nowhere" in str(e)
    finally:
        cluster.close()


@pytest.mark.cluster
def test_a_dead_sampler_is_replaced_and_nothing_is_lost(model: Path) -> None:
    told: list[str] = []
    with closing(Cluster(recipe(model, 1, samplers=2), told.append)) as cluster:
        whole = sampled(cluster)
        kill(cluster.samplers[1])
        again = sampled(cluster)
        assert [(r.id, r.response_ids.tolist()) for r in again] == [(r.id, r.response_ids.tolist()) for r in whole]
        assert told == ["sampler 1 died (killed by signal 9); another takes its place"]
        kill(cluster.samplers[0])
        cluster.sync(1)
        assert cluster.gap < 1e-5 and {s.policy_version for r in sampled(cluster) for s in r.segments} == {1}


def request_of(cluster: Cluster, group: int, gold: str = "") -> Request:
    problem = replace(Countdown().problem("train", group), gold=gold)
    return Request(RolloutId(group, 0), problem, cluster.tokenizer.prompt_ids(problem), 20, Sampling(), group)


@pytest.mark.cluster
def test_weights_that_come_while_a_sampler_is_replaced_are_those_it_ends_with(model: Path) -> None:
    told: list[str] = []
    with closing(Cluster(recipe(model, 1, samplers=2), told.append)) as cluster:
        kill(cluster.samplers[1])
        cluster.submit(request_of(cluster, 1))
        cluster.hand_out()
        while not told:
            cluster._turn()
        cluster.sync(1)
        (begun,) = cluster.finished()
        cluster.submit(request_of(cluster, 3))
        (later,) = cluster.finished()
        assert cluster.gap < 1e-5 and {s.policy_version for s in begun.segments} <= {0, 1}
        assert {s.policy_version for s in later.segments} == {1}


@pytest.mark.cluster
def test_samplers_that_die_together_are_all_replaced(model: Path) -> None:
    made = recipe(model, 1, samplers=3)
    with closing(Cluster(made.model_copy(update={"cluster": made.cluster.model_copy(update={"restarts": 1})}))) as cluster:
        whole = sampled(cluster)
        for place in cluster.samplers:
            kill(place)
        assert [r.response_ids.tolist() for r in sampled(cluster)] == [r.response_ids.tolist() for r in whole]


@pytest.mark.cluster
def test_large_messages_that_cross_do_not_wait_for_each_other(model: Path) -> None:
    """Each is more than a pipe holds, in both directions at once."""
    with closing(Cluster(recipe(model, 1, samplers=1))) as cluster:
        place, answers = cluster.samplers[0], list[Rollout]()
        for group in range(4):
            cluster._ask(place, answers.extend, "sample", False, [request_of(cluster, group, "x" * 1_000_000)], 99)
        cluster._settle()
        assert {r.id.group for r in answers} == {0, 1, 2, 3} and all(len(r.problem.gold) == 1_000_000 for r in answers)


@pytest.mark.cluster
def test_a_sampler_that_dies_again_and_again_ends_the_run(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Cluster(recipe(model, 1, samplers=1))) as cluster:
        start = cluster.placement.start

        def doomed(name: str, make: Make) -> Peer:
            peer = start(name, make)
            peer.process.kill()  # type: ignore[attr-defined]
            return peer

        monkeypatch.setattr(cluster.placement, "start", doomed)
        kill(cluster.samplers[0])
        with pytest.raises(EngineError, match=r"sampler 0 died .*; lost 4 times, and no rollout ended in between"):
            sampled(cluster)


@pytest.mark.cluster
def test_a_worker_that_never_answers_is_named_and_replaced(model: Path) -> None:
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        cluster.patience_s = 600.0  # whoever takes its place has all the time it needs

    with closing(Cluster(recipe(model, 1, samplers=1), tell)) as cluster:
        peer = cluster.samplers[0].peer
        assert isinstance(peer, LocalPeer)
        os.kill(peer.process.pid or 0, signal.SIGSTOP)
        cluster.patience_s = 1.0
        cluster.sync(1)
        assert told == ["sampler 0 has not answered 'load' in 1 s (its stacks are above); another takes its place"]
        peer = cluster.ranks[0].peer
        assert isinstance(peer, LocalPeer)
        os.kill(peer.process.pid or 0, signal.SIGSTOP)
        cluster.patience_s = 1.0
        with pytest.raises(WorkerLost, match=r"rank 0 has not answered 'sync' in 1 s"):
            cluster.sync(2)


def test_replicas_repeat_to_the_bit(model: Path) -> None:
    first, again = one_step(model, 2), one_step(model, 2)
    assert first[2] == again[2]
    assert all((first[3][name] == again[3][name]).all() for name in first[3])


@pytest.mark.parametrize("shard", [False, pytest.param(True, marks=pytest.mark.cluster)])
def test_a_dead_rank_is_named(model: Path, shard: bool) -> None:
    with closing(Cluster(recipe(model, 2, shard=shard))) as cluster:
        kill(cluster.ranks[1])
        with pytest.raises(WorkerLost, match=r"rank 1 died"):
            cluster.sync(5)
