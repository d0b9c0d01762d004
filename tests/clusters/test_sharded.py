"""FSDP2 on real gloo processes: the same loss and gradients at any number of ranks, and checkpoints that move between them."""

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from longthink.folder import ModelFolder, tiny_folder
from longthink.learners.adapter import plain, whole
from longthink.learners.local import LocalLearner
from longthink.learners.sharded import join, leave
from longthink.rng import rng
from longthink.tables import LearnerSettings, LossSettings
from longthink.tasks.countdown import WORDS
from longthink.types import Batch

pytestmark = pytest.mark.cluster
LOSS = LossSettings(kl=0.05, entropy=0.01, ratio="sequence_mean", aggregation="token_mean")
SETTINGS = LearnerSettings(lr=1e-3, minibatch_prompts=0, microbatch_tokens=48, grad_clip=1e9)
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_folder(folder, WORDS, seed=0, template="x", hidden_size=32, num_hidden_layers=2, intermediate_size=48)
    return folder


def batch(vocabulary: int, rows: int = 7) -> Batch:
    """Rows of very different lengths, so that ranks have different numbers of micro-batches."""
    draw = rng(0, "sharded")
    lengths = draw.integers(4, 40, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = draw.integers(0, vocabulary, offsets[-1])
    first = np.isin(np.arange(offsets[-1]), np.concatenate([offsets[:-1], offsets[:-1] + 1]))
    logprobs = np.where(first, 0.0, -draw.random(offsets[-1])).astype(np.float32)
    made = Batch(tokens, offsets, ~first, logprobs, draw.random(rows), np.arange(rows) // 2, np.ones(rows, np.bool_))
    return made.with_(advantages=draw.normal(size=offsets[-1]).astype(np.float32))


def work(model: Path, jobs: list[dict[str, Any]], rank: int, world: int, port: int) -> None:
    """A rank's life: each job is a learner, loaded, asked for log-probs, updated and saved as it says."""
    torch.set_num_threads(1)
    mesh = join(rank, world, "cpu", TCPStore("127.0.0.1", port, world, False), 120.0) if port else None
    for job in jobs:
        settings = SETTINGS.model_copy(update={"checkpoint_layers": job.get("checkpoint_layers", False)})
        dtype = DTYPES[job.get("dtype", "float64")]
        learner = LocalLearner(ModelFolder(model).decoder(), settings, dtype=dtype, rank=rank, world=world, mesh=mesh)
        if "load" in job:
            learner.load(job["load"], optimizer=True)
        else:
            learner.freeze_reference()
        data = batch(learner.decoder.config.vocab_size)
        found: dict[str, Any] = {}
        for _ in range(job.get("updates", 1)):
            ready = learner.logprobs(data, LOSS, 0.8)
            mine = ready.tokens_of(np.arange(rank, len(ready), world))
            reference = np.zeros(len(ready.tokens), np.float32)
            assert ready.reference_logprobs is not None
            reference[mine] = ready.reference_logprobs[mine]
            shared = torch.from_numpy(reference)
            if mesh is not None:
                torch.distributed.all_reduce(shared)
            ready = ready.with_(reference_logprobs=shared.numpy())
            sums = learner.update(ready, LOSS, 0.8, settings).settle()
            found |= {"norm": sums.means()["learner/grad_norm/mean"], "logprobs": ready.reference_logprobs}
        found |= {f"grad.{n}": whole(p.grad).numpy() for n, p in learner.decoder.named_parameters() if p.grad is not None}
        found |= {f"weight.{n}": p.detach().numpy() for n, p in plain(learner.decoder).named_parameters()}
        if rank == 0:
            np.savez(job["out"], **found)
        if "save" in job:
            if rank == 0:
                job["save"].mkdir()
            if mesh is not None:
                torch.distributed.barrier()
            learner.save(job["save"])
    if mesh is not None:
        leave()


def run(model: Path, world: int, jobs: list[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
    """The results of the jobs at this many ranks; 0 is one that is not sharded."""
    if not world:
        work(model, jobs, 0, 1, 0)
    else:
        store = TCPStore("127.0.0.1", 0, world, True, wait_for_workers=False)
        context = multiprocessing.get_context("forkserver")
        ranks = [context.Process(target=work, args=(model, jobs, r, world, store.port)) for r in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(120)
            assert process.exitcode == 0
    return [dict(np.load(job["out"])) for job in jobs]


def furthest(a: dict[str, np.ndarray], b: dict[str, np.ndarray], kind: str) -> float:
    """The norm of the difference over that of the first, over all tensors of a kind."""
    names = [name for name in a if name.startswith(kind)]
    assert names and names == [name for name in b if name.startswith(kind)]
    apart = sum(float(((a[n].astype(np.float64) - b[n]) ** 2).sum()) for n in names)
    return float(np.sqrt(apart / sum(float((a[n].astype(np.float64) ** 2).sum()) for n in names)))


def test_gradients_do_not_depend_on_the_ranks(tiny: Path, tmp_path: Path) -> None:
    """In float64 to 1e-10, in fp32 to 1e-5 of the gradient's norm, at 2 and 3 ranks; recomputed layers give the same."""
    kinds = [{"dtype": "float64"}, {"dtype": "float32"}, {"dtype": "float64", "checkpoint_layers": True}]
    found = {
        world: run(tiny, world, [{**kind, "out": tmp_path / f"{world}_{i}.npz"} for i, kind in enumerate(kinds)])
        for world in (0, 1, 2, 3)
    }
    for world in (1, 2, 3):
        for (one, many), limit in zip(zip(found[0], found[world], strict=True), (1e-10, 1e-5, 1e-10), strict=True):
            assert furthest(one, many, "grad") < limit
            assert float(many["norm"]) == pytest.approx(float(one["norm"]), rel=limit)
            np.testing.assert_allclose(many["logprobs"], one["logprobs"], atol=2e-6)


def test_checkpoints_move_between_ranks(tiny: Path, tmp_path: Path) -> None:
    """2 → 1 → 2 ranks, and out of FSDP and back in, end where three updates in one go end; at equal ranks bit for bit."""
    (through,) = run(tiny, 0, [{"out": tmp_path / "through.npz", "updates": 3}])

    def chain(*worlds: int) -> list[dict[str, np.ndarray]]:
        name, made, before = "_".join(map(str, worlds)), [], {}
        for step, world in enumerate(worlds):
            folder = tmp_path / f"{name}_{step}"
            made += run(tiny, world, [{"out": tmp_path / f"{name}_{step}.npz", "save": folder, **before}])
            before = {"load": folder}
        return made

    for worlds in ((2, 1, 2), (0, 2, 0)):
        assert furthest(through, chain(*worlds)[-1], "weight") < 1e-10
    (straight,) = run(tiny, 2, [{"out": tmp_path / "straight.npz", "updates": 3}])
    again = chain(2, 2, 2)[-1]
    assert all((again[name] == straight[name]).all() for name in straight if name.startswith("weight"))
    assert {p.name for p in (tmp_path / "2_2_2_0").iterdir()} >= {
        "model.safetensors",
        ".metadata",
        "__0_0.distcp",
        "__1_0.distcp",
    }
