"""Ray places the same workers: the same run, and the same run when what it placed is killed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters.test_async import ROLES, STEPS, killing, recipe, rows_of, whole

from longthink.clusters.cluster import Cluster
from longthink.errors import EngineError
from longthink.train import train

pytestmark = pytest.mark.cluster
ray = pytest.importorskip("ray")
CLUSTER = {"learners": 2, "threads": 1, "shard": True, "samplers": 2, "place": "ray"}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray for all tests, as a user would have started it, of more cores than there are."""
    ray.init(address="local", num_cpus=5, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_a_run_placed_by_ray_is_the_run_of_this_machine(warm_folder: Path, tmp_path: Path) -> None:
    for name, changes in (("local", {}), ("ray", {"cluster": CLUSTER})):
        assert train(recipe(warm_folder, 0, **changes), tmp_path / name).complete
        whole(tmp_path / name)
    first, second = (
        [{k: v for k, v in r.items() if not k.startswith("time/")} for r in rows_of(tmp_path / n)] for n in ("local", "ray")
    )
    assert first == second
    weights = [tmp_path / name / "checkpoints" / f"step_{STEPS:06d}" / "model.safetensors" for name in ("local", "ray")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_four_steps_of_vllm_and_two_sharded_ranks(warm_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    made = recipe(
        warm_folder,
        0,
        cluster={**CLUSTER, "samplers": 1},
        engine={"kind": "vllm", "max_rows": 32, "cache_gb": 1.0},
        rollout={"prompts": 4, "group_size": 4, "window": 48},
    )
    assert train(made, tmp_path / "run").complete
    whole(tmp_path / "run")
    rows = rows_of(tmp_path / "run")[1:]
    assert len(rows) == STEPS and all(r["sync/resyncs"] == 0 for r in rows)
    assert all(r["sync/gap"] < 1e-4 for r in rows)  # of a probe far from anything the model says
    assert max(r["mismatch/logprob_gap/max"] for r in rows if "mismatch/logprob_gap/max" in r) < 1e-5


MORE = [pytest.param(role, ahead, marks=pytest.mark.full) for role in ("rank_0", "rank_1") for ahead in (0, 1)]


@pytest.mark.parametrize(("role", "ahead"), [("rank_1", 1), ("sampler", 1), *MORE])
def test_a_killed_actor_is_replaced(
    warm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, ahead: int
) -> None:
    killed: list[str] = []
    monkeypatch.setattr(Cluster, "_take", killing(ROLES[role], 17, killed))
    assert train(recipe(warm_folder, ahead, cluster=CLUSTER), tmp_path / "run").complete
    assert killed
    whole(tmp_path / "run")


def test_what_does_not_fit_is_said_before_anything_starts(
    warm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longthink.clusters.ray.ROOM_S", 2.0)
    asked = recipe(warm_folder, 0, cluster={**CLUSTER, "samplers": 9})
    with pytest.raises(EngineError, match=r"Ray has no room for 11 workers of \{'CPU': 1\} \(pack\): the cluster has \{'CPU': 5"):
        train(asked, tmp_path / "run")
    assert not (tmp_path / "run").exists()
