"""Benchmarks as data files: where the rows come from, how they are asked and graded, and a checksum of what was evaluated."""

import gzip
import hashlib
import json
import os
import tomllib
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, Self
from urllib.error import URLError

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from longthink import storage
from longthink.errors import TaskError, nearest
from longthink.evaluation.convert import CONVERTERS
from longthink.evaluation.protocols import Domain, Protocol
from longthink.part import load_part
from longthink.rewards.base import Reward
from longthink.tasks.base import Task
from longthink.types import Problem

__all__ = ["ALL_LOCAL", "Benchmark", "Suite", "benchmark_names", "load_suites", "read_benchmark"]

FOLDER = Path(__file__).parent / "benchmarks"
ALL_LOCAL = "all-local"
SUFFIXES = (".json", ".jsonl", ".parquet", ".csv", ".json.gz", ".jsonl.gz")
TIMEOUT_S = 60.0
PER_TASK = 100  # generated puzzles of each task, as NVIDIA's validation has it


class Source(BaseModel):
    """Where rows can be fetched: a file of a data set on the Hugging Face hub, or of a repository, at one revision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hub: str = ""
    revision: str = ""
    file: str = ""
    url: str = ""
    rows: int = 0

    def __str__(self) -> str:
        return self.url or f"{self.hub}@{self.revision}:{self.file}"

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if not self.url and not (self.hub and self.file and self.revision):
            raise ValueError("a source is a `url`, or `hub` with `file` and a pinned `revision`")
        return self


class Benchmark(BaseModel):
    """One benchmark's data file. `files` are the names, without suffix, that copies of its rows go by.

    `task` holds fields of task kind `file`, or is of a kind that makes its own problems, `rows` of them; `reward` is the
    verifier; `by` gives labels that results are listed by, and their columns. `convert` names a reader of `convert.py` for rows
    that need one, `generate` a generator in place of rows, `within` a benchmark that has all its problems, beside which it does
    not count in a domain's mean.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    domain: Domain
    rows: int = 0
    licence: str = ""
    note: str = ""
    files: tuple[str, ...] = ()
    source: tuple[Source, ...] = ()
    task: dict[str, Any] = {}
    reward: dict[str, Any]
    by: dict[str, str] = {}
    convert: Literal["", "livecodebench"] = ""
    generate: Literal["", "puzzles"] = ""
    within: str = ""


@dataclass(frozen=True)
class Suite:
    """A benchmark with its rows at hand: what is asked, who grades, and what was evaluated."""

    name: str
    benchmark: Benchmark
    file: str
    task: Task
    reward: Reward
    rows: int
    sha256: str

    def facts(self) -> dict[str, Any]:
        """What an evaluation's record says of it."""
        expected = {self.benchmark.rows, *(s.rows for s in self.benchmark.source)} - {0}
        odd = {"expected_rows": self.benchmark.rows} if expected and self.rows not in expected else {}
        given = {"title": self.benchmark.title, "domain": self.benchmark.domain, "file": self.file}
        asked = {"task": {"kind": self.task.kind, **self.task.model_dump(mode="json", exclude_defaults=True, exclude={"test"})}}
        graded = {"reward": {"kind": self.reward.kind, **self.reward.model_dump(mode="json", exclude_defaults=True)}}
        return given | {"rows": self.rows, "sha256": self.sha256} | odd | asked | graded

    def problem(self, index: int) -> Problem:
        """Row `index`, in file order."""
        return self.task.problem("test", index)

    def labels(self, problem: Problem) -> dict[str, str]:
        """The problem's difficulty, category or whatever else the benchmark lists results by."""
        found = {label: problem.meta.get(column) for label, column in self.benchmark.by.items()}
        return {label: _label(value) for label, value in found.items() if value is not None}


def _label(value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else value
    return str(first).split(" -> ")[min(1, str(first).count(" -> "))][:60]


def benchmark_names() -> list[str]:
    """The benchmarks that come with longthink."""
    return sorted(p.stem for p in FOLDER.glob("*.toml"))


def read_benchmark(path: Path) -> Benchmark:
    """A benchmark's data file. Raises: TaskError for one that cannot be used."""
    try:
        return Benchmark.model_validate_json(json.dumps(tomllib.loads(path.read_text())), strict=True)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise TaskError(f"{path}: cannot be read ({e}); expected a benchmark's TOML file") from None
    except ValidationError as e:
        errors = (f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in e.errors())
        raise TaskError(f"{path}: not a benchmark: {'; '.join(errors)}") from None


def load_suites(named: Sequence[str], data: Path, protocol: Protocol, reward: dict[str, Any]) -> list[Suite]:
    """What `--on` names: benchmarks of ours, benchmarks' TOML files, data files, or ALL_LOCAL for all that `data` holds.

    `reward` grades rows of data files, which have no benchmark to say how. Raises: TaskError before anything is fetched for
    an unknown name, and for rows that cannot be had or read.
    """
    for name in named:
        if name != ALL_LOCAL and name not in benchmark_names() and not Path(name).is_file():
            kind = "a folder; name files in it, or give it as --data" if Path(name).is_dir() else "no such file"
            hint = "names are separated by spaces" if "," in name else nearest(name, [*benchmark_names(), ALL_LOCAL])
            raise TaskError(f"--on {name}: {kind}; {hint}")
    found: dict[str, Suite] = {}
    for name in named:
        if name == ALL_LOCAL:
            held = {b: path for b in benchmark_names() if (path := _local(_ours(b), data))}
            if not held:
                raise TaskError(f"--on {ALL_LOCAL}: {data} holds no benchmark's rows; --data names another folder")
            made = [_suite(b, _ours(b), path, protocol) for b, path in held.items()]
        elif name in benchmark_names():
            made = [_fetched(name, _ours(name), data, protocol)]
        elif name.endswith(".toml"):
            made = [_fetched(Path(name).stem, read_benchmark(Path(name)), data, protocol)]
        else:
            own = Benchmark(title=Path(name).name, domain="math" if reward["kind"] == "math" else "stem", reward=reward)
            stem = Path(name).name.split(".")[0]
            try:
                made = [_suite(stem, own, Path(name), protocol)]
            except TaskError as e:
                known = next((b for b in benchmark_names() if stem in _ours(b).files), "")
                way = f"this is a copy of {known}: --on {known} --data {Path(name).parent}" if known else "name its columns"
                raise TaskError(
                    f"{e}. In an evaluation: {way}{'' if known else ' in a benchmark file (docs/evaluation.md)'}"
                ) from None
        for suite in made:
            if suite.name in found:
                raise TaskError(f"--on {name}: {suite.name} is named twice; each benchmark is evaluated once")
            found[suite.name] = suite
    return list(found.values())


def _ours(name: str) -> Benchmark:
    return read_benchmark(FOLDER / f"{name}.toml")


def _local(benchmark: Benchmark, data: Path) -> Path | None:
    """The first file under `data` that goes by one of the benchmark's names, in the order of the names."""
    for stem in benchmark.files:
        found = (p for suffix in SUFFIXES for p in sorted(data.rglob(f"{stem}{suffix}")))
        if path := next(found, None):
            return path
    return None


def _fetched(name: str, benchmark: Benchmark, data: Path, protocol: Protocol) -> Suite:
    """The benchmark with rows from the local folder, else from its sources, else generated."""
    if benchmark.task.get("kind", "file") != "file":
        task = load_part(Task, benchmark.task, f"benchmark {name}: task")
        reward = load_part(Reward, benchmark.reward, f"benchmark {name}: reward")
        problems = [task.problem("test", i) for i in range(benchmark.rows)]
        whole = json.dumps([[p.id, [dict(m) for m in p.prompt], p.gold] for p in problems], default=str)
        return Suite(name, benchmark, "", task, reward, benchmark.rows, hashlib.sha256(whole.encode()).hexdigest())
    path = _local(benchmark, data)
    if path is None and benchmark.generate:
        path = _cached(f"{name}_{PER_TASK}.jsonl", _puzzles)
    failures = []
    for source in benchmark.source if path is None else ():
        try:
            path = _fetch(source)
            break
        except (OSError, HTTPException, ValueError, ImportError) as e:
            failures.append(f"{source}: {type(e).__name__}: {_shortened(str(e))}")
    if path is None:
        tried = "; ".join(failures) or "it has no source"
        names = " or ".join(f"{f}.json(l)" for f in benchmark.files)
        there = "" if data.is_dir() else ", which is not there"
        raise TaskError(
            f"benchmark {name}: its rows are not in {data} (--data){there}, and could not be fetched ({tried}). Put {names} there"
        )
    return _suite(name, benchmark, path, protocol)


def _suite(name: str, benchmark: Benchmark, path: Path, protocol: Protocol) -> Suite:
    raw = path.read_bytes()
    try:
        data = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError) as e:
        raise TaskError(f"{path}: not a whole gzip file ({e}); fetch it again") from None
    if benchmark.convert:
        converted = CONVERTERS[benchmark.convert]
        path = _cached(f"{name}_{hashlib.sha256(data).hexdigest()[:16]}.jsonl", lambda out: converted(data, out))
    asked, graded = protocol.of(benchmark.domain)
    table = {"kind": "file", "test": str(path), **asked, **benchmark.task}
    table["keep"] = list(dict.fromkeys([*table.get("keep", ()), *benchmark.by.values()]))
    task = load_part(Task, table, f"benchmark {name}: task")
    reward = load_part(Reward, {**benchmark.reward, **graded}, f"benchmark {name}: reward")
    rows = task.size("test")
    assert rows is not None
    return Suite(name, benchmark, path.name, task, reward, rows, hashlib.sha256(data).hexdigest())


def _shortened(text: str) -> str:
    first = text.partition("\n")[0]
    return first if len(first) <= 160 else f"{first[:160]}…"


# -- fetching ---------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where fetched and generated rows are kept: $XDG_CACHE_HOME/longthink, or ~/.cache/longthink."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longthink"


def _cached(name: str, make: Callable[[Path], object]) -> Path:
    """The file of that name in the cache, made when it is not there; a file with that name is whole."""
    path = cache_folder() / name
    if not path.exists():
        storage.make_folder(path.parent)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        make(partial)
        os.replace(partial, path)
    return path


def _puzzles(out: Path) -> None:
    from longthink.puzzles import usable_tasks, write_puzzles

    write_puzzles(out, usable_tasks(), PER_TASK, seed=0)


def _fetch(source: Source) -> Path:
    """The source's file, from the cache where it is there. Raises: OSError, ValueError, ImportError where it cannot be had."""
    if source.hub:
        from huggingface_hub import hf_hub_download  # type: ignore[import-not-found, unused-ignore]

        return Path(hf_hub_download(source.hub, source.file, repo_type="dataset", revision=source.revision))
    if not source.url.startswith("https://"):
        raise ValueError("expected an https address")

    def download(out: Path) -> None:
        try:
            with urllib.request.urlopen(source.url, timeout=TIMEOUT_S) as reply:
                out.write_bytes(reply.read())
        except URLError as e:
            raise OSError(e.reason) from None

    digest = hashlib.sha256(source.url.encode()).hexdigest()[:16]
    return _cached(f"{digest}_{source.url.rpartition('/')[2]}", download)
