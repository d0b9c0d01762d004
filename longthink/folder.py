"""Hugging Face model folders: read and write config, weights, tokenizer and chat template; build a tiny one."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from longthink import storage
from longthink.errors import ModelError
from longthink.model import Decoder, ModelConfig
from longthink.types import Ints, Problem

__all__ = ["SIDE_FILES", "ModelFolder", "Tokenizer", "fill", "read_config", "read_weights", "tiny_folder", "write_weights"]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.json",
    "merges.txt",
)


class Tokenizer:
    """A folder's tokenizer and chat template, with the ids a sampler stops at.

    tokenizer.json is used as it stands. The class that tokenizer_config.json names is not asked: it builds its own splitting of
    texts, which for DeepSeek's folders (a Llama class over a byte-level file) is not the one the model was trained with.
    """

    def __init__(self, folder: Path) -> None:
        if not any((folder / name).is_file() for name in TOKENIZERS):  # transformers would make an empty one up
            raise ModelError(f"{folder}: no usable tokenizer (none of {', '.join(TOKENIZERS)} is there)")
        try:
            self.inner = _load(folder)
        except Exception as e:  # any failure of a foreign loader is the same news for the user
            raise ModelError(f"{folder}: no usable tokenizer ({type(e).__name__}: {str(e)[:200]})") from None
        if not self.inner.chat_template:
            raise ModelError(
                f"{folder}: the tokenizer has no chat template; "
                "expected `chat_template` in tokenizer_config.json or chat_template.jinja"
            )
        self.stop_ids = _stop_ids(folder, self.inner)
        if not self.stop_ids:
            raise ModelError(f"{folder}: no end token; expected eos_token_id in generation_config.json or config.json")
        self.end_id = self.inner.eos_token_id if self.inner.eos_token_id is not None else min(self.stop_ids)

    def __len__(self) -> int:
        return len(self.inner)

    def prompt_ids(self, problem: Problem) -> Ints:
        """Token ids of the templated prompt, ready for the response; a message of role `text` is taken without a template."""
        if problem.prompt[0]["role"] == "text":
            return np.array(self.inner.encode(problem.prompt[0]["content"]), np.int64)
        text = self.inner.apply_chat_template([dict(m) for m in problem.prompt], tokenize=False, add_generation_prompt=True)
        return np.array(self.inner.encode(text, add_special_tokens=False), np.int64)

    def encode(self, text: str, *, plain: bool = False) -> Ints:
        """Token ids of a text; with `plain` the name of a special token in it is text like any other."""
        return np.array(self.inner.encode(text, add_special_tokens=False, split_special_tokens=plain), np.int64)

    def decode(self, ids: Ints) -> str:
        """Text of response ids, special tokens kept (a verifier needs `</think>`), stop tokens at the end dropped."""
        end = len(ids)
        while end and int(ids[end - 1]) in self.stop_ids:
            end -= 1
        return str(self.inner.decode(ids[:end].tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _load(folder: Path) -> Any:
    if (folder / TOKENIZERS[0]).is_file():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    from transformers import AutoTokenizer  # five seconds of imports that a tokenizer.json saves

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _stop_ids(folder: Path, inner: Any) -> frozenset[int]:
    ids: set[int] = set() if inner.eos_token_id is None else {int(inner.eos_token_id)}
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if path.exists():
            found = _read_json(path).get("eos_token_id")
            ids.update(found if isinstance(found, list) else [] if found is None else [found])
    return frozenset(ids)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text())
    except ValueError as e:  # of JSON and of UTF-8 alike
        raise ModelError(f"{path}: not JSON ({e})") from None
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: not a JSON object but a {type(raw).__name__}")
    return raw


def read_config(folder: Path) -> ModelConfig:
    """The folder's config. Raises: ModelError when it is missing, broken or of another family."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder}: not a model folder (no config.json); expected a Hugging Face folder")
    raw = _read_json(path)
    try:
        return ModelConfig.from_dict(raw)
    except (KeyError, TypeError, ValueError) as e:
        raise ModelError(f"{path}: a field is missing or of the wrong type: {e}") from None


def read_weights(folder: Path, decoder: Decoder) -> None:
    """Fill the decoder from one or several safetensors files, converting to the master dtype.

    Raises: ModelError naming the first missing, unexpected or wrongly shaped tensor.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file():
        files = [single]
    elif index.is_file():
        named = _read_json(index).get("weight_map")
        if not isinstance(named, dict):
            raise ModelError(f"{index}: no weight_map; expected the names of all tensors with the files they are in")
        files = sorted({folder / name for name in named.values()})
    else:
        raise ModelError(f"{folder}: no {WEIGHTS} and no {INDEX}; other weight formats are not read")
    wanted = dict(decoder.named_parameters())
    with torch.no_grad():
        for file in files:
            try:
                with safe_open(file, framework="pt") as tensors:
                    for name in tensors.keys():  # noqa: SIM118  (safe_open is no mapping)
                        if (name == "lm_head.weight" and decoder.config.tied) or name.endswith("rotary_emb.inv_freq"):
                            continue  # copies of what config.json says
                        _fill(file, name, wanted.pop(name, None), tensors.get_tensor(name))
            except (SafetensorError, OSError) as e:
                raise ModelError(f"{file}: cannot be read ({e})") from None
    if wanted:
        raise ModelError(
            f"{folder}: the weights lack {min(wanted)} and {len(wanted) - 1} more; expected what config.json describes"
        )


def _fill(file: Path, name: str, target: Tensor | None, value: Tensor) -> None:
    if target is None:
        raise ModelError(f"{file}: unexpected tensor {name}; config.json describes no such parameter")
    if target.shape != value.shape:
        raise ModelError(f"{file}: {name} has shape {tuple(value.shape)}, expected {tuple(target.shape)}")
    fill(target, value)


def fill(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into a parameter that is whole, or cut over ranks that all hold the value."""
    if hasattr(target, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        value = value.to(target.device, target.dtype)
        value = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)  # type: ignore[attr-defined]
    target.copy_(value)


def write_weights(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write model.safetensors; the caller renames the folder into place."""
    storage.write_bytes(folder / WEIGHTS, save({k: v.detach().contiguous().cpu() for k, v in state.items()}, {"format": "pt"}))


class ModelFolder:
    """A folder opened for training or sampling: config, tokenizer, decoder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ModelError(f"{self.folder}: no such model folder; give a local Hugging Face folder (config.json, safetensors)")
        self.config = read_config(self.folder)
        self.tokenizer = Tokenizer(self.folder)
        if len(self.tokenizer) > self.config.vocab_size:
            raise ModelError(
                f"{self.folder}: the tokenizer has {len(self.tokenizer)} tokens, "
                f"config.json a vocabulary of {self.config.vocab_size}"
            )

    def decoder(self) -> Decoder:
        """A decoder filled from the folder."""
        decoder = Decoder(self.config)
        read_weights(self.folder, decoder)
        return decoder

    def side_files(self) -> dict[str, bytes]:
        """Config, tokenizer and template files, to be written beside new weights."""
        paths = sorted(path for pattern in SIDE_FILES for path in self.folder.glob(pattern))
        return {p.name: p.read_bytes() for p in paths}


def tiny_folder(folder: Path, words: Sequence[str], *, seed: int, template: str, characters: bool = False, **shape: Any) -> None:
    """Write a small random Qwen3 whose tokenizer has one token a word, or with `characters` one a character.

    `words` are the ordinary tokens; `<bos>`, `<eos>`, `<think>` and `</think>` come first. Characters that are not
    among them are all `<unk>`, and words of several are special tokens. `shape` overrides fields of the config. An existing
    folder is replaced.
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Inner
    from transformers import PreTrainedTokenizerFast

    special = ["<bos>", "<eos>", "<think>", "</think>"]
    marks = [word for word in words if len(word) > 1] if characters else []
    vocab = {word: i for i, word in enumerate([*special, *(["<unk>"] if characters else []), *words])}
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    inner = Inner(models.WordLevel(vocab, unk_token="<unk>" if characters else "<eos>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if characters:
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", *marks]})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    raw = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": -(-len(vocab) // 64) * 64,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float32",
        **shape,
    }
    (folder / "config.json").write_text(json.dumps(raw, indent=2))
    decoder = Decoder(ModelConfig.from_dict(raw))
    decoder.init_weights(seed)
    write_weights(folder, decoder.state_dict())
