"""Ray places the workers: one actor each, on the machines of a cluster. No other file knows Ray.

Each worker gets a bundle of one placement group, packed on few machines or spread over many, so that either all of them start or
one error says what is missing. Weights travel through Ray's object store, calls and answers as its tasks. An actor is never
restarted by Ray: who lost it (cluster.py, train.py) knows what to do.
"""

import os
import socket
import warnings
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import Tensor

from longthink.clusters.peers import opened
from longthink.clusters.weights import Weights
from longthink.clusters.workers import Make, Worker
from longthink.errors import EngineError, LearnerLost, WorkerLost
from longthink.model import ModelConfig
from longthink.recipe import Recipe

__all__ = ["RayPlacement"]

ROOM_S = 120.0  # how long Ray may take to find room, machines that are starting included
REACH_S = 10.0  # how long a connection to its head may take
VERSIONS = (2, 60)  # major and minor that this was written with
TOLD = ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS")  # what workers inherit from the caller's environment


class Actor:
    """A worker as Ray runs it."""

    def __init__(self, make: Make, patience_s: float) -> None:
        self._worker = Worker(partial(make, _nobody), patience_s)

    def answer(self, name: str, *args: Any) -> tuple[str, Any]:
        return self._worker.answer(name, args)


def _nobody() -> None:
    raise EngineError("ranks that Ray places meet in their process group; this is a bug")


class ObjectWeights(Weights):
    """Weights that travel as one array through Ray's object store; each side has its own memory."""

    def room(self) -> Tensor:
        return torch.empty(0, dtype=self.dtype)

    def put(self, decoder: Any, *, write: bool) -> dict[str, int]:
        if write:
            self.flat = super().room()
        return super().put(decoder, write=write)

    def post(self) -> Any:
        posted = [ray.put(self.flat.numpy())]  # in a list: the reference itself, not what it stands for
        self.flat = self.room()
        return posted

    def fetch(self, posted: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nobody writes
                self.flat = torch.from_numpy(ray.get(posted[0]))
        except RayError as e:
            raise LearnerLost(f"the learner's weights are gone with the machine that had them ({_first_line(e)})") from None


class RayPeer:
    """An actor and the answers it owes."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name, self.actor = name, actor
        self.owed: deque[Any] = deque()

    def send(self, name: str, *args: Any) -> None:
        self.owed.append(self.actor.answer.remote(name, *args))

    def receive(self) -> Any:
        try:
            kind, value = ray.get(self.owed.popleft())
        except (RayActorError, RayError) as e:
            raise WorkerLost(f"{self.name} died ({_first_line(e)})") from None
        return opened(self.name, kind, value)

    def kill(self) -> None:
        ray.kill(self.actor, no_restart=True)


class RayPlacement:
    """Starts actors in a Ray cluster: the one that runs (`RAY_ADDRESS`, or `ray start` on this machine), or one of its own."""

    def __init__(self, recipe: Recipe) -> None:
        if tuple(map(int, ray.__version__.split(".")[:2])) != VERSIONS:
            raise EngineError(
                f"cluster.place 'ray' needs ray {'.'.join(map(str, VERSIONS))}, {ray.__version__} is installed; "
                "pip install 'longthink[ray]'"
            )
        self.recipe, self._joined = recipe, not ray.is_initialized()
        self._patience_s = recipe.cluster.patience_s
        if self._joined:
            self._join()
        self.address = ray.util.get_node_ip_address()
        self._started: list[RayPeer] = []
        self._group: PlacementGroup | None = None
        try:
            self._group = self._reserved()
        except BaseException:
            self.close()
            raise

    def _join(self) -> None:
        """Connect to the cluster that is named, or else to the one that runs on this machine; start one where none does."""
        asked = os.environ.get("RAY_ADDRESS") or "auto"
        address = {"auto": _started_here(), "local": ""}.get(asked, asked)
        if asked not in ("auto", "local") and not _answers(asked):
            raise EngineError(f"no Ray answers at RAY_ADDRESS = {asked!r}; start it there (docs/cluster.md)")
        if not _answers(address):
            cores = self._workers * self.recipe.cluster.threads
            ray.init(address="local", num_cpus=cores, include_dashboard=False, logging_level="ERROR")
            return
        try:
            ray.init(address=address, logging_level="ERROR")
        except (ConnectionError, RayError, RuntimeError, ValueError) as e:
            raise EngineError(
                f"Ray at {address!r} does not let us in: {_first_line(e)}. Every machine needs the head's token: "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (docs/cluster.md)"
            ) from None

    @property
    def _workers(self) -> int:
        return self.recipe.cluster.learners + self.recipe.cluster.samplers

    def _needs(self, kind: str) -> dict[str, float]:
        """What a worker takes of its machine; a client of a vLLM server computes nothing."""
        computes = self.recipe.model.device != "cpu" and not (kind == "sampler" and self.recipe.engine.servers)
        return {"CPU": self.recipe.cluster.threads, **({"GPU": 1} if computes else {})}

    def _reserved(self) -> PlacementGroup:
        cluster = self.recipe.cluster
        bundles = [self._needs("rank")] * cluster.learners + [self._needs("sampler")] * cluster.samplers
        group = placement_group([dict(each) for each in bundles], strategy=cluster.spread.upper())
        try:
            ray.get(group.ready(), timeout=ROOM_S)
        except GetTimeoutError:
            has = {key: value for key, value in ray.cluster_resources().items() if key in ("CPU", "GPU")}
            raise EngineError(
                f"Ray has no room for {self._workers} workers of {bundles[0]} ({cluster.spread}): the cluster has {has}. "
                "Add machines, end other jobs, or lower cluster.learners, samplers or threads"
            ) from None
        return group

    def start(self, name: str, make: Make) -> RayPeer:
        kind, _, number = name.partition(" ")
        bundle = int(number) + (self.recipe.cluster.learners if kind == "sampler" else 0)
        environment = {"OMP_NUM_THREADS": str(self.recipe.cluster.threads), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        environment |= {key: os.environ[key] for key in TOLD if key in os.environ}
        needs = self._needs(kind)
        options: dict[str, Any] = {
            "num_cpus": needs["CPU"],
            "num_gpus": needs.get("GPU", 0),
            "max_restarts": 0,
            "max_task_retries": 0,
            "runtime_env": {"env_vars": environment},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle),
        }
        peer = RayPeer(name, ray.remote(Actor).options(**options).remote(make, self._patience_s))
        self._started.append(peer)
        return peer

    def wait(self, peers: Sequence[RayPeer], timeout_s: float) -> list[RayPeer]:
        first = {peer.owed[0]: peer for peer in peers}
        ready, _ = ray.wait(list(first), num_returns=1, timeout=timeout_s)
        more, _ = ray.wait(list(first), num_returns=len(first), timeout=0) if ready else ([], [])
        return [first[ref] for ref in more or ready]

    def weights(self, config: ModelConfig, dtype: torch.dtype) -> Weights:
        return ObjectWeights(config, dtype)

    def close(self) -> None:
        for peer in self._started:
            peer.kill()
        self._started = []
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None
        if self._joined:
            ray.shutdown()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _started_here() -> str:
    """The address of the Ray that was started on this machine last; it may be gone."""
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    return note.read_text().strip() if note.exists() else ""


def _answers(address: str) -> bool:
    """Whether anything listens there: Ray itself asks for minutes."""
    there = urlsplit(address if "//" in address else f"//{address}")
    try:
        with socket.create_connection((there.hostname or "", there.port or 0), REACH_S):
            return True
    except (OSError, ValueError):
        return False
