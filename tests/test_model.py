"""The decoder and its folder: transformers is the reference for every family; what cannot be right is refused."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from longthink.attention import Layout, attend_rows, causal_attention
from longthink.errors import ModelError
from longthink.folder import ModelFolder, tiny_folder, write_weights
from longthink.model import Decoder, FusedLayer, ModelConfig, rope_table, run_layers

TEMPLATE = "<bos> {% for m in messages %}{{ m.content }} {% endfor %}<think>"
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64, "factor": 8.0}

# family and fields of the config on top of the small shape below; head_dim 12 would be hidden size / heads
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {"tie_word_embeddings": False}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "qwen3": ("qwen3", {"head_dim": 20, "tie_word_embeddings": True}),
    "qwen3 biases": ("qwen3", {"head_dim": 20, "tie_word_embeddings": False, "attention_bias": True}),
    "llama": ("llama", {"num_key_value_heads": 4}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-3}),
    "llama head size": ("llama", {"head_dim": 32, "tie_word_embeddings": True}),
    "llama3": ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **LLAMA3}}),
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 3.0}}),
    "yarn": ("llama", {"rope_parameters": YARN}),
    "yarn betas": ("qwen2", {"rope_parameters": {**YARN, "beta_fast": 4.0, "beta_slow": 0.5, "truncate": False}}),
    "yarn scales": ("qwen3", {"head_dim": 20, "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}}),
    "yarn factor": ("llama", {"rope_parameters": {**YARN, "attention_factor": 0.8}}),
}
FAMILIES = ("qwen2", "qwen3", "llama biases")

LENGTHS = ((150, 131), (9, 8, 5), (1,))  # block by block; 150 tokens are past the 64 that scaled ropes start from


@pytest.fixture(scope="session")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small tokenizer, its chat template and the weights of a tiny Qwen3."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    tiny_folder(folder, [f"w{i}" for i in range(60)], seed=0, template=TEMPLATE, hidden_size=48, intermediate_size=80)
    return folder


@pytest.fixture(scope="session")
def bring(plain_folder: Path) -> Callable[..., tuple[Path, Any]]:
    """A function that gives the folder transformers writes for a random model of a case, and that model."""
    made: dict[tuple[str, str], tuple[Path, Any]] = {}

    def bring(case: str, max_shard_size: str = "1GB") -> tuple[Path, Any]:
        if (case, max_shard_size) not in made:
            folder = plain_folder.with_name(f"{case} {max_shard_size}".replace(" ", "_"))
            shutil.copytree(plain_folder, folder)
            for name in ("config.json", "model.safetensors"):
                (folder / name).unlink()
            model = random_model(case)
            model.save_pretrained(folder, max_shard_size=max_shard_size)
            made[case, max_shard_size] = folder, model
        return made[case, max_shard_size]

    return bring


def random_model(case: str) -> Any:
    """A transformers model in which matrices, norms and biases are all random."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family, fields = CASES[case]
    shape = {"vocab_size": 128, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 256}
    config = AutoConfig.for_model(family, **{**shape, "num_key_value_heads": 2, **ends, **fields})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomize(model.named_parameters())
    return model


def randomize(parameters: Iterator[tuple[str, Tensor]]) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, p in parameters:
            draw = torch.randn(p.shape, generator=generator)
            p.copy_(draw * 0.15 if p.ndim == 2 else draw * 0.3 + (0.0 if _.endswith("bias") else 1.0))


def rows() -> list[Tensor]:
    """Tokens of the rows of LENGTHS."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 128, (length,), generator=generator) for block in LENGTHS for length in block]


def decoder_logits(decoder: Decoder) -> Tensor:
    """Of the rows in padded blocks of odd widths, with filler behind them."""
    layout, tokens = Layout.of(LENGTHS, width=7, total=64), torch.cat(rows())
    filler = torch.full((len(layout.positions) - len(tokens),), 5)
    return (decoder(torch.cat([tokens, filler]), layout) @ decoder.head_weight.T)[: len(tokens)]


def reference_logits(model: Any) -> Tensor:
    """What transformers computes for every row alone."""
    return torch.cat([model(row.unsqueeze(0)).logits[0] for row in rows()])


# -- equality with transformers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_equal_those_of_transformers(case: str, bring: Callable[..., tuple[Path, Any]]) -> None:
    folder, model = bring(case)
    torch.testing.assert_close(decoder_logits(ModelFolder(folder).decoder()), reference_logits(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", FAMILIES)
def test_gradients_equal_those_of_transformers(case: str, bring: Callable[..., tuple[Path, Any]]) -> None:
    folder, model = bring(case)
    decoder, weight = ModelFolder(folder).decoder(), torch.randn(128, generator=torch.Generator().manual_seed(1))
    for logits in (decoder_logits(decoder), reference_logits(model)):
        (logits.log_softmax(-1) @ weight).mean().backward()
    theirs = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    for name, p in decoder.named_parameters():
        torch.testing.assert_close(p.grad, theirs[name], atol=3e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("case", FAMILIES)
@torch.no_grad()
def test_every_parameter_matters(case: str, bring: Callable[..., tuple[Path, Any]]) -> None:
    """The equality above would miss a parameter that changes nothing."""
    decoder = ModelFolder(bring(case)[0]).decoder()
    before = decoder_logits(decoder)
    for name, p in decoder.named_parameters():
        kept = p.clone()
        p[p.shape[0] // 2 :] += 0.1  # a part of it: a constant on all keys of a head could cancel in the softmax
        assert (decoder_logits(decoder) - before).abs().max() > 1e-3, name
        p.copy_(kept)


@pytest.mark.parametrize("case", CASES)
def test_parameters_have_the_names_and_shapes_of_the_folder(case: str, bring: Callable[..., tuple[Path, Any]]) -> None:
    folder, _ = bring(case)
    with safe_open(folder / "model.safetensors", framework="pt") as stored:
        names = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    assert {name: tuple(p.shape) for name, p in ModelFolder(folder).decoder().state_dict().items()} == names


@pytest.mark.parametrize("case", ["qwen2", "qwen3"])
@torch.no_grad()
def test_sharded_weights_are_read(case: str, bring: Callable[..., tuple[Path, Any]]) -> None:
    folder, model = bring(case, "40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2 and not (folder / "model.safetensors").exists()
    state = ModelFolder(folder).decoder().state_dict()
    assert all(torch.equal(state[name], p) for name, p in model.named_parameters())


def test_bf16_weights_become_fp32_masters(bring: Callable[..., tuple[Path, Any]], tmp_path: Path) -> None:
    source, _ = bring("qwen2")
    shutil.copytree(source, tmp_path / "half")
    half = {name: t.bfloat16() for name, t in load_file(source / "model.safetensors").items()}
    save_file(half, tmp_path / "half" / "model.safetensors", {"format": "pt"})
    for name, p in ModelFolder(tmp_path / "half").decoder().named_parameters():
        assert p.dtype == torch.float32 and torch.equal(p, half[name].float())


def test_copies_of_what_is_known_are_left_out(bring: Callable[..., tuple[Path, Any]], tmp_path: Path) -> None:
    """Some folders repeat the tied embedding as the head, and older ones store the rope's frequencies."""
    source, model = bring("qwen3")
    shutil.copytree(source, tmp_path / "model")
    copies = {"lm_head.weight": torch.zeros(128, 48), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(10)}
    save_file({**load_file(source / "model.safetensors"), **copies}, tmp_path / "model" / "model.safetensors")
    state = ModelFolder(tmp_path / "model").decoder().state_dict()
    assert all(torch.equal(state[name], p) for name, p in model.named_parameters())


@pytest.mark.parametrize(("case", "shards"), [("qwen2", "40KB"), ("qwen3", "1GB"), ("llama biases", "1GB"), ("yarn", "1GB")])
@torch.no_grad()
def test_transformers_reads_what_longthink_writes(
    case: str, shards: str, bring: Callable[..., tuple[Path, Any]], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    opened = ModelFolder(bring(case, shards)[0])
    decoder = opened.decoder()
    randomize(decoder.named_parameters())
    for name, data in opened.side_files().items():
        (tmp_path / name).write_bytes(data)
    write_weights(tmp_path, decoder.state_dict())
    model = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True, attn_implementation="eager")
    torch.testing.assert_close(decoder_logits(decoder), reference_logits(model), atol=1e-5, rtol=0)
    assert not (tmp_path / "model.safetensors.index.json").exists()
    text = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template([{"role": "user", "content": "w1"}], tokenize=False)
    assert text == "<bos> w1 <think>"


@pytest.mark.parametrize("case", ["llama3", "linear", "yarn"])
def test_a_config_of_an_older_transformers_means_the_same(case: str, bring: Callable[..., tuple[Path, Any]]) -> None:
    raw = json.loads((bring(case)[0] / "config.json").read_text())
    new = ModelConfig.from_dict(raw)
    rope = dict(raw.pop("rope_parameters"))
    old = ModelConfig.from_dict({**raw, "rope_theta": rope.pop("rope_theta"), "rope_scaling": rope})
    older = ModelConfig.from_dict({**old.raw, "rope_scaling": {**rope, "type": rope.pop("rope_type")}})
    for config in (old, older):
        for table, expected in zip(rope_of(config), rope_of(new), strict=True):
            assert torch.equal(table, expected)


def rope_of(config: ModelConfig) -> tuple[Tensor, Tensor]:
    return rope_table(config, 256, torch.float32, torch.device("cpu"))


# -- layouts, dtypes, checkpointing, deltas -------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=3), min_size=1, max_size=3),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(0, 2**31),
)
@settings(max_examples=20)
@torch.no_grad()
def test_a_row_sees_neither_padding_nor_neighbours_nor_filler(blocks: list[list[int]], width: int, total: int, seed: int) -> None:
    decoder, layout = small_decoder(), Layout.of(blocks, width=width, total=total)
    tokens = torch.randint(0, 64, (len(layout.positions),), generator=torch.Generator().manual_seed(seed))
    hidden, start = decoder(tokens, layout), 0
    for length in (length for block in blocks for length in block):
        alone = decoder(tokens[start : start + length], Layout.of([[length]]))
        torch.testing.assert_close(hidden[start : start + length], alone, atol=1e-5, rtol=0)
        start += length
    assert start <= len(tokens) < start + total and not len(tokens) % total


def test_gradients_do_not_depend_on_how_rows_are_laid_out() -> None:
    """One block, two, or every row alone: exact in float64. Filler leaves no gradient."""
    found = []
    for blocks in ([[5, 3, 3, 1]], [[5, 3], [3, 1]], [[5], [3], [3], [1]]):
        decoder, layout = small_decoder().double(), Layout.of(blocks, width=4, total=16)
        decoder.compute_dtype = torch.float64
        hidden = decoder(torch.arange(16), layout)[:12]
        (hidden @ decoder.head_weight.T).log_softmax(-1)[:, 5].sum().backward()
        found.append([p.grad for p in decoder.parameters()])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    decoder = small_decoder(tie_word_embeddings=False)
    decoder(torch.arange(16), Layout.of([[5, 3], [4]], width=4, total=16))[:12].sum().backward()
    gradient = decoder.model.embed_tokens.weight.grad
    assert gradient is not None and (gradient[:12].abs().amax(dim=1) > 0).all() and not gradient[12:].any()


def test_a_layout_by_hand() -> None:
    layout = Layout.of([[3, 1], [2]], width=2, total=4)
    assert layout.blocks == ((2, 4), (1, 2))
    assert layout.positions.tolist() == [0, 1, 2, 0, 0, 1, 0, 0]
    assert layout.tokens.tolist() == [0, 1, 2, 2, 3, 3, 3, 3, 4, 5]
    assert layout.places.tolist() == [0, 1, 2, 4, 8, 9]
    assert layout.padding.tolist() == [3, 5, 6, 7]
    assert not layout.even and Layout.of([[4, 4], [2]]).even and not Layout.of([[4, 4]], total=5).even


def small_decoder(**fields: Any) -> Decoder:
    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    raw = {
        "model_type": "llama",
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "attention_bias": True,
        "mlp_bias": True,
    }
    decoder = Decoder(ModelConfig.from_dict({**shape, **raw, **fields}))
    randomize(decoder.named_parameters())
    return decoder


@pytest.mark.parametrize("case", FAMILIES)
@torch.no_grad()
def test_bf16_stays_close_to_fp32(case: str, bring: Callable[..., tuple[Path, Any]]) -> None:
    decoder = ModelFolder(bring(case)[0]).decoder()
    exact = decoder_logits(decoder)
    decoder.compute_dtype = torch.bfloat16
    rounded = decoder_logits(decoder)
    assert rounded.dtype == torch.float32
    # bf16 keeps 8 bits: a rounding is below 0.4 %, and three layers add up a dozen of them
    assert 1e-4 < (rounded - exact).norm() / exact.norm() < 0.02


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_explicit_scores_and_the_fused_kernel_agree(kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 on a CPU 512 tokens are the last explicit width, 513 the first fused one; the extra token is never seen."""
    generator = torch.Generator().manual_seed(kv_heads)
    q, k, v = (torch.randn(2, 513, heads, 16, generator=generator).bfloat16() for heads in (4, kv_heads, kv_heads))
    fused = causal_attention(q, k, v)[:, :512]
    with monkeypatch.context() as patched:
        patched.setattr(F, "scaled_dot_product_attention", None)
        explicit = causal_attention(*(p[:, :512] for p in (q, k, v)))
    expected = attention_by_definition(*(p[:, :512].double() for p in (q, k, v)))
    for found in (fused, explicit):
        assert found.dtype == torch.bfloat16 and found.shape == expected.shape
        torch.testing.assert_close(found.double(), expected, atol=0.03, rtol=0)


def attention_by_definition(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every query head with its own copy of the keys and values, and a mask written out."""
    k, v = (p.repeat_interleave(q.shape[2] // p.shape[2], dim=2) for p in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5
    i = torch.arange(q.shape[1])
    return torch.einsum("bhij,bjhd->bihd", scores.masked_fill(i > i.unsqueeze(1), -torch.inf).softmax(-1), v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_attention_follows_its_definition(dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(3, 11, heads, 8, dtype=dtype, generator=torch.Generator().manual_seed(heads)) for heads in (6, 2, 2))
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(causal_attention(q, k, v), attention_by_definition(q, k, v), atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointed_layers_have_the_same_gradients(dtype: torch.dtype) -> None:
    gradients = []
    for checkpointed in (False, True):
        decoder = small_decoder()
        decoder.checkpoint_layers, decoder.compute_dtype = checkpointed, dtype
        hidden = decoder(torch.arange(40) % 64, Layout.of([[15, 12], [10]], width=16, total=40))
        (hidden @ decoder.head_weight.T).log_softmax(-1)[:, 5].sum().backward()
        gradients.append([p.grad for p in decoder.parameters()])
    assert all(torch.equal(a, b) and a.abs().max() > 0 for a, b in zip(*gradients, strict=True))


LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def linear_of(decoder: Decoder, name: str) -> Any:
    layer = decoder.layers[1]
    return getattr(layer.self_attn, name, None) or getattr(layer.mlp, name)


@pytest.mark.parametrize("name", LINEARS)
@torch.no_grad()
def test_a_delta_adds_exactly_its_output(name: str) -> None:
    decoder, tokens, layout = small_decoder(), torch.arange(12), Layout.of([[12]])
    linear, plain = linear_of(decoder, name), decoder(tokens, layout)
    update = torch.randn(linear.weight.shape, generator=torch.Generator().manual_seed(5)) * 0.1
    linear.delta = lambda x: x @ update.T
    moved = decoder(tokens, layout)
    linear.delta, linear.weight.data = None, linear.weight + update
    assert (moved - plain).abs().max() > 1e-2
    torch.testing.assert_close(moved, decoder(tokens, layout), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_delta_leaves_the_linears_beside_it_bitwise_alone() -> None:
    layer, x = small_decoder().layers[0], torch.randn(7, 32, generator=torch.Generator().manual_seed(2))
    q, k, v = layer.qkv(x).split([32, 16, 16], dim=-1)
    layer.self_attn.k_proj.delta = lambda x: torch.full((len(x), 16), 0.25)
    moved = layer.qkv(x).split([32, 16, 16], dim=-1)
    assert torch.equal(moved[0], q) and torch.equal(moved[1], k + 0.25) and torch.equal(moved[2], v)


@pytest.mark.parametrize("name", LINEARS)
def test_a_layer_with_a_delta_is_not_fused(name: str) -> None:
    decoder = small_decoder()
    linear_of(decoder, name).delta = lambda x: x
    FusedLayer(decoder.layers[0], torch.float32, torch.device("cpu"))
    with pytest.raises(ModelError, match="cannot fuse a layer that carries a delta: merge the adapter first"):
        FusedLayer(decoder.layers[1], torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("fields", [{}, {"model_type": "qwen3", "head_dim": 20}, {"model_type": "qwen2"}])
@torch.no_grad()
def test_fused_layers_compute_the_same_and_share_nothing(fields: dict[str, Any]) -> None:
    decoder = small_decoder(**fields)
    tokens, layout = torch.arange(12), Layout.of([[12]])
    fused = [FusedLayer(layer, torch.float32, torch.device("cpu")) for layer in decoder.layers]
    plain = decoder(tokens, layout)
    x, rope = decoder.model.embed_tokens.weight[tokens].clone(), tuple(t[:12] for t in rope_of(decoder.config))
    norm = decoder.model.norm.weight.clone()
    for p in decoder.parameters():
        p.fill_(torch.nan)
    x = run_layers(fused, x, rope, attend_rows(layout), config=decoder.config, dtype=torch.float32)
    torch.testing.assert_close(F.rms_norm(x, (32,), norm, decoder.config.rms_eps), plain, atol=1e-6, rtol=0)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    decoder = small_decoder()
    states = []
    for seed in (1, 1, 2):
        decoder.init_weights(seed, std=0.5)
        states.append({name: p.clone() for name, p in decoder.state_dict().items()})
    for name, p in states[0].items():
        assert torch.equal(p, states[1][name])
        if p.ndim == 2:
            assert abs(p.std() - 0.5) < 0.05 and not torch.equal(p, states[2][name])
        else:
            assert p.unique().item() == (0.0 if name.endswith("bias") else 1.0)


# -- refusals -------------------------------------------------------------------------------------------------------


def edit(name: str, **fields: Any) -> Callable[[Path], None]:
    """A change of some fields of a JSON file; None removes one."""

    def change(folder: Path) -> None:
        raw = {**json.loads((folder / name).read_text()), **fields}
        (folder / name).write_text(json.dumps({k: v for k, v in raw.items() if v is not None}))

    return change


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def tensors(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return rewrite


SHORT_NORM = {"model.norm.weight": torch.ones(47)}
INDEX = "model.safetensors.index.json"
NO_CONFIG = "not a model folder (no config.json); expected a Hugging Face folder"

REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "family": (edit("config.json", model_type="gpt2"), "model_type is 'gpt2', expected one of qwen2, qwen3, llama"),
    "no family": (edit("config.json", model_type=None), "model_type is None, expected one of qwen2, qwen3, llama"),
    "activation": (edit("config.json", hidden_act="gelu"), "hidden_act is 'gelu', only 'silu' is supported"),
    "window": (edit("config.json", use_sliding_window=True), "sliding-window attention is not supported; set use_sliding_window"),
    "window in layers": (
        edit("config.json", layer_types=["full_attention", "sliding_attention"]),
        "sliding-window attention is not",
    ),
    "rope": (
        edit("config.json", rope_scaling={"type": "dynamic", "factor": 2.0}),
        "rope type 'dynamic' is not supported (default, linear, llama3, yarn are)",
    ),
    "rope without factor": (
        edit("config.json", rope_scaling={"rope_type": "linear"}),
        "a field is missing or of the wrong type: 'factor'",
    ),
    "field missing": (
        edit("config.json", hidden_size=None),
        "config.json: a field is missing or of the wrong type: 'hidden_size'",
    ),
    "field a word": (
        edit("config.json", vocab_size="many"),
        "config.json: a field is missing or of the wrong type: invalid literal",
    ),
    "field a list": (
        edit("config.json", vocab_size=[64]),
        "config.json: a field is missing or of the wrong type: int() argument",
    ),
    "no folder": (shutil.rmtree, "no such model folder; give a local Hugging Face folder (config.json, safetensors)"),
    "no config": (remove("config.json"), NO_CONFIG),
    "config cut short": (write("config.json", '{"model_type": "qw'), "config.json: not JSON (Unterminated string"),
    "config a list": (write("config.json", "[]"), "config.json: not a JSON object"),
    "no weights": (remove("model.safetensors"), f"no model.safetensors and no {INDEX}; other weight formats are not read"),
    "weights cut short": (write("model.safetensors", "abc"), "model.safetensors: cannot be read ("),
    "index cut short": (lambda f: [remove("model.safetensors")(f), write(INDEX, "{")(f)], f"{INDEX}: not JSON ("),
    "index empty": (lambda f: [remove("model.safetensors")(f), write(INDEX, "{}")(f)], f"{INDEX}: no weight_map"),
    "shard missing": (
        lambda f: [remove("model.safetensors")(f), write(INDEX, '{"weight_map": {"a": "shard.safetensors"}}')(f)],
        "shard.safetensors: cannot be read (",
    ),
    "tensors missing": (
        tensors(lambda state: [state.pop("model.norm.weight"), state.pop("model.layers.1.mlp.up_proj.weight")]),
        "the weights lack model.layers.1.mlp.up_proj.weight and 1 more; expected what config.json describes",
    ),
    "tensor unexpected": (
        tensors(lambda state: state.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(128)})),
        "unexpected tensor model.layers.0.self_attn.q_proj.bias; config.json describes no such parameter",
    ),
    "head missing": (edit("config.json", tie_word_embeddings=False), "the weights lack lm_head.weight and 0 more"),
    "shape": (tensors(lambda state: state.update(SHORT_NORM)), "model.norm.weight has shape (47,), expected (48,)"),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), "no usable tokenizer ("),
    "no template": (
        remove("chat_template.jinja"),
        "the tokenizer has no chat template; expected `chat_template` in tokenizer_config",
    ),
    "no end": (
        lambda f: [edit("config.json", eos_token_id=None)(f), edit("tokenizer_config.json", eos_token=None)(f)],
        "no end token; expected eos_token_id in generation_config.json or config.json",
    ),
    "generation config": (write("generation_config.json", "{"), "generation_config.json: not JSON ("),
    "vocabulary": (edit("config.json", vocab_size=63), "the tokenizer has 64 tokens, config.json a vocabulary of 63"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_cannot_be_right_is_refused(case: str, plain_folder: Path, tmp_path: Path) -> None:
    folder, (spoil, expected) = tmp_path / "model", REFUSED[case]
    shutil.copytree(plain_folder, folder)
    ModelFolder(folder).decoder()
    spoil(folder)
    with pytest.raises(ModelError) as caught:
        ModelFolder(folder).decoder()
    assert expected in str(caught.value)
    # the message names the place: the folder, or config.json where only its content was looked at
    assert str(folder) in str(caught.value) or str(caught.value).startswith("config.json: ")


def test_a_stop_token_is_every_end_the_folder_names(plain_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(plain_folder, folder)
    edit("config.json", eos_token_id=[1, 7])(folder)
    write("generation_config.json", '{"eos_token_id": 9}')(folder)
    tokenizer = ModelFolder(folder).tokenizer
    assert tokenizer.stop_ids == {1, 7, 9}
    # w0 has id 4, after <bos> <eos> <think> </think>
    assert tokenizer.decode(np.array([4, 7, 5, 9, 1])) == "w0 w3 w1"
