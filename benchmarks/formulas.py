"""Runs the loss and advantage functions of verl and OpenRLHF, as published, on one small batch, for tests/test_peers.py.

Usage: python benchmarks/formulas.py. Downloads the two wheels without what they depend on, puts empty modules where they import
such things, calls their functions, and writes inputs and answers to tests/peers.json.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import subprocess
import sys
import tempfile
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

OUT = Path(__file__).resolve().parents[1] / "tests" / "peers.json"
PEERS = ("verl==0.9.1", "openrlhf==0.11.2")
ABSENT = (
    "omegaconf",
    "ray",
    "deepspeed",
    "tensordict",
    "verl.trainer.config",
    "verl.workers",
    "verl.utils.import_utils",
    "verl.utils.device",
)
LENGTHS, WIDTH, GROUPS = (3, 7, 5, 1, 6, 4, 2, 7), 7, (0, 0, 0, 0, 1, 1, 1, 1)
REWARDS = (1.0, 0.0, 0.0, 0.5, 0.0, 1.0, 1.0, 1.0)
CLIPS = ((0.2, 0.2, 0.0), (0.2, 0.28, 0.0), (0.2, 0.4, 3.0))  # low, high, dual (0 for none)
MODES = {
    "token_mean": "token-mean",
    "seq_mean_token_sum": "seq-mean-token-sum",
    "seq_mean_token_mean": "seq-mean-token-mean",
    "constant": "seq-mean-token-sum-norm",
}


class Empty(types.ModuleType):
    """A module that has every name, as a class that takes anything."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *a, **k: None, "__call__": lambda self, given: given})


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an empty module where a package is not installed."""

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if any(name == absent or name.startswith(f"{absent}.") for absent in ABSENT):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = Empty(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """An empty module has nothing to run."""


class Config(dict[str, Any]):
    """What verl's losses read of an actor's configuration."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def verl(folder: Path) -> Any:
    """verl's core algorithms, imported without verl's own imports."""
    sys.meta_path.insert(0, Absent())
    sys.path.insert(0, str(folder))
    for name in ("verl", "verl.utils", "verl.trainer", "verl.trainer.ppo"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(folder / name.replace(".", "/"))]
    import verl.utils.groupwise as groupwise
    import verl.utils.torch_functional as torch_functional

    vars(sys.modules["verl.utils"]).update(vars(groupwise), torch_functional=torch_functional)
    import verl.trainer.ppo.core_algos as core_algos

    core_algos.ActorConfig = Config
    return core_algos


def openrlhf(folder: Path) -> tuple[Any, Any]:
    """OpenRLHF's policy loss and KL estimate."""
    models = next(folder.glob("openrlhf-*.data/purelib/openrlhf/models"))
    package = types.ModuleType("rlhf_models")
    package.__path__ = [str(models)]
    sys.modules["rlhf_models"] = package
    loaded = [importlib.import_module(f"rlhf_models.{name}") for name in ("loss", "utils")]
    return loaded[0].PolicyLoss, loaded[1].compute_approx_kl


def batch() -> dict[str, torch.Tensor]:
    """Log-probs of four policies some way apart, [8, 7] in float64, with responses of unequal length."""
    draw = np.random.default_rng(5)
    shape = (len(LENGTHS), WIDTH)
    new = -draw.gamma(1.0, 1.0, shape)
    mask = np.arange(WIDTH) < np.array(LENGTHS)[:, None]
    arrays = {
        "new": new,
        "old": new + draw.normal(0, 0.4, shape),
        "sampler": new + draw.normal(0, 0.5, shape),
        "reference": new + draw.normal(0, 1.5, shape),
        "advantages": np.broadcast_to(draw.normal(0, 1, (len(LENGTHS), 1)), shape),
        "mask": mask,
    }
    return {name: torch.tensor(a, dtype=torch.float64) for name, a in arrays.items()}


def answers(core: Any, policy_loss: Any, approx_kl: Any, b: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Every function's value, and for losses the gradient by the new log-probs, under names of our options."""
    found: dict[str, Any] = {}

    def loss(name: str, function: Any) -> None:
        new = b["new"].clone().requires_grad_(True)
        value = function(new)
        value.backward()
        found[name] = {"loss": float(value.detach()), "gradient": new.grad.tolist()}  # type: ignore[union-attr]

    for low, high, dual in CLIPS:
        config = Config(clip_ratio=0.2, clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=dual or 1e9, global_batch_info={})
        each = f"{low}-{high}-{dual}"
        for ours, theirs in MODES.items():
            loss(
                f"verl token {each} {ours}",
                lambda new, t=theirs, c=config: core.compute_policy_loss_vanilla(b["old"], new, b["advantages"], b["mask"], t, c)[
                    0
                ],
            )
        loss(
            f"verl sequence_mean {each} seq_mean_token_mean",
            lambda new, c=config: core.compute_policy_loss_gspo(b["old"], new, b["advantages"], b["mask"], config=c)[0],
        )
        for ours, tokens in (("token_mean", True), ("seq_mean_token_mean", False)):
            made = policy_loss(low, high, dual or None, tokens)
            loss(f"openrlhf token {each} {ours}", lambda new, m=made: m(new, b["old"], b["advantages"], b["mask"])[0])
    weights = torch.exp(b["old"] - b["sampler"])
    truncated = weights.clamp(max=2.0)
    config = Config(clip_ratio=0.2, clip_ratio_low=0.2, clip_ratio_high=0.2, clip_ratio_c=1e9, global_batch_info={})
    loss(
        "verl truncate",
        lambda new: core.compute_policy_loss_vanilla(b["old"], new, b["advantages"], b["mask"], "token-mean", config, truncated)[
            0
        ],
    )
    made = policy_loss(is_correction_level="token", is_correction_mode="mask", is_correction_threshold=[0.5, 2.0])
    loss("openrlhf mask", lambda new: made(new, b["old"], b["advantages"], b["mask"], b["sampler"])[0])
    rewards = torch.zeros(b["new"].shape, dtype=torch.float64)
    rewards[:, 0] = torch.tensor(REWARDS)
    index = np.array(GROUPS)
    for name, function, more in (
        ("grpo", core.compute_grpo_outcome_advantage, {}),
        ("grpo without std", core.compute_grpo_outcome_advantage, {"norm_adv_by_std_in_grpo": False}),
        ("rloo", core.compute_rloo_outcome_advantage, {}),
        ("reinforce++ baseline", core.compute_reinforce_plus_plus_baseline_outcome_advantage, {}),
    ):
        found[f"verl {name}"] = function(rewards.clone(), b["mask"], index=index, **more)[0].tolist()
    for kind in ("k1", "k2", "k3"):
        found[f"verl {kind}"] = core.kl_penalty(b["new"], b["reference"], kind).tolist()
        found[f"openrlhf {kind}"] = approx_kl(b["new"], b["reference"], kl_estimator=kind).tolist()
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", work, *PEERS], check=True)
        for wheel in Path(work).glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(work)
        b = batch()
        found = answers(verl(Path(work)), *openrlhf(Path(work)), b)
    inputs = {name: t.tolist() for name, t in b.items()} | {"groups": GROUPS, "rewards": REWARDS}
    OUT.write_text(json.dumps({"peers": PEERS, "inputs": inputs, "answers": found}) + "\n")
    print(f"{len(found)} answers of {', '.join(PEERS)} in {OUT}")


if __name__ == "__main__":
    main()
