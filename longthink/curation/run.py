"""`longthink curate`: sources and steps one after another, each done once, and what came of them."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from longthink import storage
from longthink.curation.recipe import Curation, Source
from longthink.curation.rows import Shards, stored
from longthink.curation.sources import files_of, read_source
from longthink.curation.steps.base import Input, Step, Stopped, Work
from longthink.errors import CheckpointError
from longthink.progress import Progress

__all__ = ["Funnel", "curate"]

Funnel = list[dict[str, Any]]
STOPPING = "stopping after this shard; what is whole is kept. Press Ctrl-C again to stop at once"


def curate(recipe: Curation, folder: Path, workers: int, progress: Progress) -> Funnel | None:
    """Do what is not done yet in the folder; what each source and step took, kept and dropped, or None after Ctrl-C.

    A source or step is done again when its own settings change, a file it reads, or anything it takes rows from. Raises:
    LongthinkError where something cannot be read or done; what was whole before is kept.
    """
    progress.phase("looking for what is read")
    run = _Run(recipe, folder, workers, progress)
    try:
        for source in recipe.source:
            run.source(source)
        for step, wanted in recipe.steps:
            run.step(step, wanted)
    except Stopped:
        return None
    return run.funnel


class _Run:
    def __init__(self, recipe: Curation, folder: Path, workers: int, progress: Progress) -> None:
        self.recipe, self.folder, self.workers, self.progress = recipe, folder, workers, progress
        self.files = {source.name: files_of(source) for source in recipe.source}  # all that can be missing is missed now
        self.reads = {step.title: dict(step.reads()) for step, _ in recipe.steps}
        self.keys: dict[str, str] = {}
        self.funnel: Funnel = []

    def source(self, source: Source) -> None:
        self.progress.phase(f"{source.name}: reading")
        files = self.files[source.name]
        made_of = {
            "read": [[p.name, storage.file_hash(p)] for p in files],
            "made by": version("reasoning-gym") if source.generate.get("kind") == "puzzles" else "",
            **source.model_dump(exclude={"name", "paper", "path"}),
        }
        out = self._begin(source.name, {"source": source.name, **made_of})
        if out is not None:
            read_source(source, files, out, self.progress, Stopped)
        self._end(source.name, "source", [], source.paper)

    def step(self, step: Step, wanted: Sequence[str]) -> None:
        self.progress.phase(step.title)
        plain = [name.removesuffix(".rejected") for name in wanted]
        made_of = step.model_dump(mode="json", by_alias=True, exclude={"name", "source", "paper"}) | {
            "name": step.title,
            "kind": step.kind,
            "seed": self.recipe.seed,
            "from": [[self.keys[p], p != name] for p, name in zip(plain, wanted, strict=True)],
            "reads": self.reads[step.title],
        }
        out = self._begin(step.title, made_of)
        if out is not None:
            inputs = [Input(self._shards(p), p != name) for p, name in zip(plain, wanted, strict=True)]
            own = out.folder / "own"
            storage.make_folder(own)
            step.run(Work(inputs, out, own, self.folder / "samples", self.recipe.seed, self.workers, self.progress))
        self._end(step.title, step.kind, list(wanted), step.paper)

    def _count(self, name: str) -> int:
        """How many rows a source or step has kept, or dropped: as it was counted when it was done."""
        plain = name.removesuffix(".rejected")
        node = next(node for node in self.funnel if node["name"] == plain)
        return int(node["kept" if plain == name else "rejected"])

    def _shards(self, name: str) -> Shards:
        return Shards(self.folder / "steps" / name)

    def _begin(self, name: str, made_of: Mapping[str, Any]) -> Shards | None:
        """Where its rows go, empty or with what an interrupted try has left of the same; None where it is done."""
        text = json.dumps({"longthink": version("longthink"), **made_of}, sort_keys=True, default=str)
        self.keys[name] = key = hashlib.sha256(text.encode()).hexdigest()[:16]
        out = self._shards(name)
        there = out.folder / "key"
        if not there.exists() or there.read_text() != key:
            there.unlink(missing_ok=True)  # first: what a kill leaves of the rest is nobody's
            if out.folder.exists():
                shutil.rmtree(out.folder)
            storage.make_folder(out.folder)
            storage.replace_file(there, key.encode())
        return None if (out.folder / "done.json").exists() else out

    def _end(self, name: str, kind: str, wanted: list[str], paper: int) -> None:
        """Count what was taken, kept and dropped, once. Raises: CheckpointError where rows were lost or doubled."""
        out = self._shards(name)
        path = out.folder / "done.json"
        if not path.exists():
            reasons: Counter[str] = Counter()
            kept = ids = 0
            for number in out.numbers():
                dropped = out.rejected(number)
                kept += len(out.kept(number))
                reasons.update(r.reason for r in dropped)
                ids += len(dropped)
            taken = sum(self._count(n) for n in wanted) if wanted else kept + ids
            if taken != kept + ids:
                raise CheckpointError(
                    f"{out.folder}: {taken} rows went in, and {kept} kept and {ids} dropped came out; where files of "
                    f"{out.folder.parent} were changed or lost, remove it and start again"
                )
            facts = {"in": taken, "kept": kept, "rejected": ids, "reasons": dict(sorted(reasons.items()))}
            storage.replace_file(path, json.dumps(facts, indent=1).encode())
        facts = stored(path, lambda p: json.loads(p.read_text()))
        self.funnel.append({"name": name, "kind": kind, "from": wanted, **facts, "paper": paper, "key": self.keys[name]})
        dropped_for = ", ".join(f"{count:,} {reason}" for reason, count in facts["reasons"].items())
        self.progress.note(
            f"{name}: {facts['in']:,} in, {facts['kept']:,} kept" + (f", dropped {dropped_for}" if dropped_for else "")
        )
