"""What can be evaluated: a model folder with the embedded engine, or a model behind an OpenAI-compatible server."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from longthink import storage
from longthink.errors import RecipeError
from longthink.tools.formats import FORMATS, Piece, pieces
from longthink.tools.interpreter import status_shown
from longthink.types import Call, Ints, Problem, Rollout, Segment

if TYPE_CHECKING:
    from longthink.engines.base import Stream

__all__ = ["Model", "open_model"]

NO_IDS = np.zeros(0, np.int64)


class Model(Protocol):
    """An engine, what it takes to ask it, and what an evaluation's record says of it.

    `facts` are what an evaluation that goes on must find again, `where` is where the model lay this time.
    """

    @property
    def facts(self) -> Mapping[str, Any]: ...
    @property
    def where(self) -> Mapping[str, Any]: ...
    @property
    def engine(self) -> "Stream": ...

    def prompt(self, problem: Problem) -> Ints:
        """The prompt as the engine wants it. Raises: RecipeError where it leaves no room for the window."""
        ...

    def begun(self, messages: Sequence[Mapping[str, str]]) -> tuple[Segment, ...]:
        """What a message of role `prefix` says, as the beginning of the response. Raises: RecipeError where that cannot be."""
        ...

    def text(self, rollout: Rollout) -> str:
        """What the engine has written."""
        ...


class LocalModel:
    """A Hugging Face folder; `table` holds settings of model, engine and cluster, as in a recipe."""

    def __init__(self, path: str, table: dict[str, Any], window: int) -> None:
        from longthink.clusters.cluster import Cluster
        from longthink.clusters.weights import parameters_of
        from longthink.folder import ModelFolder
        from longthink.machine import resolve
        from longthink.recipe import parse_recipe

        self.window, folder = window, ModelFolder(path)
        whole = {"name": "eval", "task": {"kind": "countdown"}, "reward": {"kind": "countdown"}, "rollout": {"window": window}}
        recipe = resolve(parse_recipe({**whole, **table, "model": {**table.get("model", {}), "path": path}}, "eval"))
        self.tokenizer, self.positions = folder.tokenizer, folder.config.max_positions
        self.where = {"model": path}
        self.facts: dict[str, Any] = {"weights": weights_hash(Path(path)), "dtype": recipe.model.dtype}
        self.facts |= {"tool": recipe.tool.model_dump(mode="json") if recipe.tool else None}
        self.format = FORMATS[recipe.tool.format] if recipe.tool else None
        self.workers = recipe.workers
        self.engine = self.cluster = Cluster(recipe)
        self.facts |= {"parameters": parameters_of(folder.config)}
        self.cluster.evaluating = True

    def prompt(self, problem: Problem) -> Ints:
        ids = self.tokenizer.prompt_ids(problem)
        if len(ids) + self.window > self.positions:
            raise RecipeError(
                f"the prompt of {problem.id} has {len(ids)} tokens and the window {self.window}, together more than the model's "
                f"{self.positions} positions; give a smaller --window"
            )
        return ids

    def begun(self, messages: Sequence[Mapping[str, str]]) -> tuple[Segment, ...]:
        text = "".join(m["content"] for m in messages if m["role"] == "prefix")
        found = [*pieces(text, self.format)] if self.format and text else [Piece(text, "prefix")] * bool(text)
        segments, before = [], ""
        for piece in found:  # what was called before is run again in front of what is called next
            code = self.format.called(before) if self.format and piece.source == "tool" else None
            shown = self.format.said(piece.text) if self.format else ""
            call = Call(code, shown, status_shown(shown), 0.0) if code is not None else None
            segments.append(Segment("tool" if call else "prefix", self.tokenizer.encode(piece.text), call=call))
            before += piece.text
        return tuple(segments)

    def text(self, rollout: Rollout) -> str:
        return self.tokenizer.decode(rollout.response_ids)


class ServedModel:
    """A model behind an address."""

    def __init__(self, address: str, name: str, concurrency: int, timeout_s: float, notice: Callable[[str], None]) -> None:
        from longthink.engines.served import ServedEngine

        self.engine = ServedEngine(address, name, concurrency=concurrency, timeout_s=timeout_s, notice=notice)
        self.where = {"model": self.engine.model, "server": address}
        self.facts = {"weights": digest} if (digest := self.engine.weights) else {"served_model": self.engine.model}

    def prompt(self, problem: Problem) -> Ints:
        return NO_IDS

    def begun(self, messages: Sequence[Mapping[str, str]]) -> tuple[Segment, ...]:
        if any(m["role"] == "prefix" for m in messages):
            raise RecipeError("a server cannot go on from the beginning of a response; expected the folder of a model")
        return ()

    def text(self, rollout: Rollout) -> str:
        return rollout.text


@contextmanager
def open_model(
    path: str,
    *,
    window: int,
    table: dict[str, Any],
    served: str,
    concurrency: int,
    timeout_s: float,
    notice: Callable[[str], None],
) -> Iterator[Model]:
    """The model to evaluate, let go of at the end: a folder, or an address that begins with http.

    Raises: ModelError, RecipeError, EngineError where it cannot be opened.
    """
    if path.startswith(("http://", "https://")):
        remote = ServedModel(path, served, concurrency, timeout_s, notice)
        try:
            yield remote
        finally:
            remote.engine.close()
        return
    if served:
        raise RecipeError(f"--served-model names a model of a server, and {path} is a folder; leave it out")
    local = LocalModel(path, table, window)
    try:
        yield local
    finally:
        local.cluster.close()


def weights_hash(folder: Path) -> str:
    """A digest of the hashes of weights, config, tokenizer and template: what tells two checkpoints of one name apart."""
    from longthink.folder import SIDE_FILES

    files = sorted(path for pattern in ("*.safetensors*", *SIDE_FILES) for path in folder.glob(pattern))
    return hashlib.sha256(json.dumps([[f.name, storage.file_hash(f)] for f in files]).encode()).hexdigest()[:16]
