"""LoRA: only the updates move, the base is the reference, and PEFT reads the same model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import stopped_after_one

from longthink.checkpoint import Parent
from longthink.errors import CheckpointError, RecipeError
from longthink.folder import ModelFolder, tiny_folder
from longthink.learners.adapter import merged, plain, switched_off
from longthink.learners.local import LocalLearner
from longthink.recipe import Recipe, parse_recipe
from longthink.run import Run
from longthink.tables import LearnerSettings, LoraSettings, LossSettings
from longthink.tasks.countdown import WORDS
from longthink.train import train
from longthink.types import Batch

TEMPLATE = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}<think>"
SETTINGS = LoraSettings(rank=2, alpha=8.0, targets=("q_proj", "down_proj"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_folder(folder, WORDS, seed=0, template=TEMPLATE, hidden_size=32, num_hidden_layers=2, intermediate_size=48)
    return folder


def learner(model: Path, settings: LoraSettings | None = SETTINGS, dtype: torch.dtype = torch.float32) -> LocalLearner:
    return LocalLearner(ModelFolder(model).decoder(), LearnerSettings(lr=1e-2), dtype=dtype, lora=settings, base=str(model))


def batch(seed: int = 0) -> Batch:
    generator = np.random.default_rng(seed)
    lengths = [9, 12, 7, 11]
    total = sum(lengths)
    mask = np.concatenate([np.arange(n) >= 3 for n in lengths])
    return Batch(
        tokens=generator.integers(4, 40, total),
        offsets=np.cumsum([0, *lengths]),
        loss_mask=mask,
        sampler_logprobs=np.full(total, -3.0, np.float32),
        rewards=np.array([1.0, 0.0, 1.0, 0.0]),
        group=np.array([0, 0, 1, 1]),
        counted=np.ones(4, np.bool_),
        advantages=generator.standard_normal(total).astype(np.float32),
        old_logprobs=np.full(total, -3.0, np.float32),
    )


def test_only_updates_move_and_begin_at_the_base(model: Path) -> None:
    one, base = learner(model), dict(ModelFolder(model).decoder().named_parameters())
    assert all(torch.equal(p, base[name]) for name, p in merged(one.decoder))
    assert sum(p.numel() for p in one._trained()) == 2 * 2 * ((32 + 128) + (48 + 32))  # layers, rank, ends of q and down
    one.update(batch(), LossSettings(clip_high=5.0, clip_low=0.9), 1.0)
    moved = {name for name, p in merged(one.decoder) if not torch.equal(p, base[name])}
    assert {name.split(".")[-2] for name in moved} == {"q_proj", "down_proj"} and len(moved) == 4
    assert all(torch.equal(p, base[n]) for n, p in one.decoder.named_parameters() if ".delta." not in n)


def test_the_reference_is_the_base_and_costs_nothing(model: Path) -> None:
    one, loss = learner(model), LossSettings(kl=0.1, clip_high=5.0, clip_low=0.9)
    one.freeze_reference()
    before = one.token_logprobs(one.decoder, batch(), 1.0)
    for _ in range(3):
        one.update(one.logprobs(batch(), loss, 1.0).with_(old_logprobs=before), loss, 1.0)
    found = one.logprobs(batch(), loss, 1.0)
    assert found.reference_logprobs is not None and one.reference is one.decoder
    np.testing.assert_array_equal(found.reference_logprobs, before)
    assert np.abs(one.token_logprobs(one.decoder, batch(), 1.0) - before).max() > 0.01


def test_what_is_sampled_from_is_what_is_trained(model: Path) -> None:
    one = learner(model, dtype=torch.float64)
    for seed in range(3):
        one.update(batch(seed), LossSettings(clip_high=5.0, clip_low=0.9), 1.0)
    copy = plain(one.decoder)
    assert copy is not one.decoder and not any(".delta." in name for name, _ in copy.named_parameters())
    own, theirs = (one.token_logprobs(d, batch(), 1.0) for d in (one.decoder, copy))
    np.testing.assert_allclose(own, theirs, atol=1e-6)
    with switched_off(one.decoder):
        assert np.abs(one.token_logprobs(one.decoder, batch(), 1.0) - own).max() > 1e-3
    whole = learner(model, None)
    assert plain(whole.decoder) is whole.decoder


def test_an_adapter_is_saved_and_read_and_another_is_refused(model: Path, tmp_path: Path) -> None:
    one = learner(model)
    one.update(batch(), LossSettings(clip_high=5.0, clip_low=0.9), 1.0)
    one.save(tmp_path)
    again = learner(model)
    again.load(tmp_path)
    for a, b in zip(one.decoder.parameters(), again.decoder.parameters(), strict=True):
        assert torch.equal(a, b)
    assert again.updates == 1 and len(again.optimizer.state) == 8
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (2, 8.0, str(model))
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
    assert "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight" in names and len(names) == 8
    with pytest.raises(CheckpointError, match="missing or of another rank"):
        learner(model, SETTINGS.model_copy(update={"rank": 3})).load(tmp_path)
    with pytest.raises(CheckpointError, match="has no place"):
        learner(model, SETTINGS.model_copy(update={"targets": ("q_proj",)})).load(tmp_path)
    (tmp_path / "whole").mkdir()
    learner(model, None).save(tmp_path / "whole")
    with pytest.raises(CheckpointError, match=r"it was not trained with \[lora\]"):
        learner(model).load(tmp_path / "whole")


@pytest.mark.cluster
def test_peft_reads_the_same_model(model: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    one = learner(model)
    for seed in range(3):
        one.update(batch(seed), LossSettings(clip_high=5.0, clip_low=0.9), 1.0)
    one.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), tmp_path / "adapter").eval()
    tokens = batch().tokens[:9]
    with torch.no_grad():
        logprobs = torch.log_softmax(theirs(torch.from_numpy(tokens)[None]).logits[0].float(), -1)
    expected = logprobs[torch.arange(2, 8), torch.from_numpy(tokens[3:9])].numpy()
    np.testing.assert_allclose(one.token_logprobs(one.decoder, batch(), 1.0)[3:9], expected, atol=1e-5)


def recipe(model: Path, **changes: Any) -> Recipe:
    table: dict[str, Any] = {
        "name": "lora",
        "model": {"path": str(model), "dtype": "float32"},
        "cluster": {"learners": 1, "threads": 1},
        "task": {"kind": "countdown", "count": 2, "high": 6, "min_target": 2, "seed": 1},
        "reward": {"kind": "countdown"},
        "workers": 1,
        "lora": {"rank": 4},
        "rollout": {"prompts": 4, "group_size": 4, "window": 48},
        "loss": {"kl": 0.01},
        "learner": {"lr": 1e-3},
        "budget": {"max_steps": 4},
        "checkpoint": {"every": 2},
    }
    return parse_recipe({**table, **changes}, "lora")


CASES = [
    {},
    pytest.param({"cluster": {"learners": 2, "threads": 1}}, id="replicas", marks=pytest.mark.full),
    pytest.param(
        {"cluster": {"learners": 2, "threads": 1, "shard": True, "samplers": 1}}, id="sharded", marks=pytest.mark.cluster
    ),
]


@pytest.mark.parametrize("changes", CASES)
def test_a_run_with_updates_stops_and_goes_on_to_the_same_bits(
    warm_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    whole = train(recipe(warm_folder, **changes), tmp_path / "whole")
    assert stopped_after_one(recipe(warm_folder, **changes), tmp_path / "cut").step == 1
    again = train(Run.open(tmp_path / "cut", None).recipe, tmp_path / "cut", resume=True)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (again.last_checkpoint / name).read_bytes() == (whole.last_checkpoint / name).read_bytes()
    assert not list(whole.last_checkpoint.glob("reference*"))
    rows = whole.rows[1:]
    assert max(r.get("mismatch/logprob_gap/max", 0.0) for r in rows) < 1e-4 and any(r.get("loss/kl/mean", 0.0) > 0 for r in rows)


def test_what_does_not_go_with_updates_is_said(model: Path, warm_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="whose reference is the base model"):
        recipe(model, reference={"replace_every": 2})
    with pytest.raises(RecipeError, match="expected no resets"):
        recipe(model, stage=[{"rollout": {"window": 48}, "max_steps": 1}, {"rollout": {"window": 64}, "reset": "hard"}])
    train(recipe(warm_folder, budget={"max_steps": 1}), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"set model.path = '.*step_000001'"):
        train(recipe(model), tmp_path / "branch", parent=Parent(tmp_path / "run" / "checkpoints" / "step_000001"))
