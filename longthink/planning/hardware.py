"""Machines by name, and what a model costs on them: seconds of a pass and of an update."""

import re
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from longthink.errors import RecipeError
from longthink.folder import read_config
from longthink.model import ModelConfig
from longthink.planning.memory import Shape
from longthink.planning.simulate import Costs
from longthink.recipe import Recipe

__all__ = ["Hardware", "costs", "reached", "shape_of"]


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "devices.toml").read_text())


def reached(name: str) -> float:
    """What programs reach, by its name in devices.toml."""
    return float(_tables()["reached"][name])


@dataclass(frozen=True)
class Hardware:
    """GPUs of one kind in machines."""

    name: str
    machines: int
    each: int  # GPUs of a machine
    gib: float
    tflops: float
    gb_s: float
    link_gb_s: float
    price: float  # of an hour of one GPU; 0: unknown

    @property
    def gpus(self) -> int:
        return self.machines * self.each

    @classmethod
    def of(cls, text: str) -> "Hardware":
        """`8xA100`, `1x24` (a GPU of 24 GiB) or `4x8x80` (four machines of eight). Raises: RecipeError for other text."""
        devices = _tables()["device"]
        found = re.fullmatch(r"(?:(\d+)x)?(\d+)x(\w+)", text)
        names = {name.lower(): name for name in devices}
        if found is None or found[3].lower() not in names or not int(found[2]) or found[1] == "0":
            raise RecipeError(
                f"--on {text!r}: expected GPUs and their kind or memory, as 8xA100 or 4x8x80 (four machines); "
                f"kinds: {', '.join(devices)}"
            )
        table = devices[names[found[3].lower()]]
        table = (
            {**devices[table["like"]], "name": table["like"]} if "like" in table else {**table, "name": names[found[3].lower()]}
        )
        values = {key: float(table.get(key, 0.0)) for key in ("gib", "tflops", "gb_s", "link_gb_s", "price")}
        return cls(table["name"], int(found[1] or 1), int(found[2]), **values)


def shape_of(path: str) -> Shape:
    """Of a model folder, or of a model whose name says its size, as Qwen2.5-7B. Raises: RecipeError for one that is not known."""
    if (Path(path) / "config.json").exists():
        return Shape.of(read_config(Path(path)))
    models = _tables()["model"]
    found = re.search(r"(\d+(?:\.\d+)?B)\b", path, re.IGNORECASE)
    if found is None or found[1].upper() not in models:
        raise RecipeError(
            f"model.path {path!r} is no folder here, and its name says no size that is known ({', '.join(models)}); "
            "give --set model.path=FOLDER with a config.json"
        )
    return Shape.of(ModelConfig.from_dict(models[found[1].upper()]))


def costs(shape: Shape, hardware: Hardware, recipe: Recipe, learners: int, samplers: int) -> Costs:
    """Seconds of the loop's parts, from arithmetic and bandwidth and what programs reach of them (devices.toml).

    A token costs 2 floating-point operations a parameter forward, 4 backward, and with recomputed layers 2 more; attention 4 a
    layer, hidden unit and pair of tokens forward, half of that with the causal mask.
    """
    flops, bandwidth = hardware.tflops * 1e12, hardware.gb_s * 1e9 * reached("decode")
    train = flops * reached("train") * learners
    passes = 4 if recipe.learner.checkpoint_layers else 3  # in units of one forward pass
    taught = recipe.engine.kind == "teacher"  # nothing is sampled, nothing handed over
    before = 0 if taught else (recipe.loss.old_logprobs == "learner") + bool(recipe.loss.kl)
    pair = 2 * shape.layers * shape.hidden
    found = Costs(
        pass_s=reached("pass_s") + 2 * shape.parameters / bandwidth,
        row_s=2 * shape.parameters / (flops * reached("prefill")),
        context_s=2 * shape.kv_numbers / bandwidth,
        prefill_s=2 * shape.parameters / (flops * reached("prefill")),
        logprob_s=before * 2 * shape.parameters / train,
        update_s=passes * recipe.learner.epochs * 2 * shape.parameters / train,
        square_s=(passes * recipe.learner.epochs + before) * pair / train,
        step_s=0.0,
        sync_s=1.0 + 4 * shape.parameters / (hardware.link_gb_s * 1e9),
    )
    return replace(found, pass_s=0.0, row_s=0.0, context_s=0.0, prefill_s=0.0, sync_s=0.0) if taught else found
