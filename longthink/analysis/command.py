"""`longthink analyze`: from arguments to tables on the terminal, and csv, pictures and one page in a folder."""

import argparse
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

from longthink.analysis.behaviour import behaviour
from longthink.analysis.contamination import contamination, prompts_text
from longthink.analysis.cost import cost, published
from longthink.analysis.coverage import coverage
from longthink.analysis.curves import curves
from longthink.analysis.exhibit import Exhibit, write_exhibits
from longthink.analysis.format import format_split
from longthink.analysis.landscape import bars, costs, frontier, sizes
from longthink.analysis.lengths import lengths, overthinking
from longthink.analysis.scaling import scaling
from longthink.errors import RecipeError
from longthink.evaluation.compare import compare
from longthink.evaluation.gather import common_sets, gather
from longthink.evaluation.protocols import read_protocol
from longthink.evaluation.results import Evaluated
from longthink.evaluation.suite import load_suites
from longthink.evaluation.until import FIRST
from longthink.part import load_part
from longthink.reports.page import cases_of
from longthink.tasks.base import Task

__all__ = ["analyze"]


def analyze(args: argparse.Namespace) -> int:
    """Print what was found and, with --out, write it. Raises: LongthinkError for what cannot be read."""
    if args.kind == "contamination":
        exhibits = [_contamination(args)]
    elif not args.found:
        raise RecipeError(f"analyze {args.kind}: name at least one evaluation or run")
    else:
        exhibits = _of_folders(args)
    for exhibit in exhibits:
        if not exhibit.quiet:
            print(exhibit.text(), end="\n\n")
    if args.out:
        names = ", ".join(path.name for path in args.found) if len(args.found) < 5 else f"{len(args.found)} folders"
        cases = "".join(cases_of(path) for path in args.found)
        print(write_exhibits(args.out, f"longthink: {args.kind} of {names}" if names else args.kind, [], exhibits, cases))
    return 0


def _of_folders(args: argparse.Namespace) -> list[Exhibit]:
    runs = [path for path in args.found if (path / "metrics.jsonl").is_file()]
    if args.kind in ("cost", "curves"):
        if len(runs) < len(args.found):
            odd = next(path for path in args.found if path not in runs)
            raise RecipeError(f"analyze {args.kind}: {odd} is no run; expected the folder of `longthink train`")
        return [cost(runs, step=args.step, price=args.price)] if args.kind == "cost" else curves(runs, args.by)
    if args.cutoffs and min(args.cutoffs) < 1:
        raise RecipeError(f"--cutoffs {min(args.cutoffs)}: expected tokens, at least 1")
    found = gather(args.found)
    if args.cutoffs and (longest := max(e.window for e in found)) <= min(args.cutoffs):
        raise RecipeError(f"--cutoffs {min(args.cutoffs)}: expected windows below the sampling's own, {longest}")
    even = [e.first(FIRST) if e.until else e for e in found]
    adaptive = [e.name for e in found if e.until]
    exhibits: list[Exhibit] = []
    for name, make in _makers(args).items():
        if args.kind in ("all", name):
            exhibits += make(found if name == "frontier" else even, common_sets(found))
    if adaptive and any(e.name not in ("frontier", "benchmarks") for e in exhibits):
        print(f"note: {', '.join(adaptive)}: sampled until tight, so the first {FIRST} samples of each problem are analysed\n")
    if args.kind == "all" and runs:
        exhibits += [*curves(runs, args.by), cost(runs, price=args.price)]
    return exhibits


Maker = Callable[[Sequence[Evaluated], Sequence[str]], list[Exhibit]]


def _makers(args: argparse.Namespace) -> dict[str, Maker]:
    """What each kind makes of the evaluations and the benchmarks they share."""
    words = _words(args.words) if args.words else None

    def landscape(found: Sequence[Evaluated], names: Sequence[str]) -> list[Exhibit]:
        made = compare(found)
        ours = [frontier(made, name, beside=args.published) for name in names]
        beside = [e for n in names for e in (sizes(made, found, n), costs(made, found, n, args.price))] if args.published else []
        if args.published and not any(name in s for name in made.benchmarks for s in published()["score"]):
            print(f"note: --published: no published score on {', '.join(made.benchmarks)}\n")
        return [*ours, bars(made, found), *(e for e in beside if e)]

    def each(make: Callable[[Evaluated, str], Exhibit]) -> Maker:
        return lambda found, names: [make(e, name) for name in names for e in found]

    def all_lengths(found: Sequence[Evaluated], names: Sequence[str]) -> list[Exhibit]:
        return [e for name in names for e in (*(lengths(one, name) for one in found), overthinking(found, name))]

    return {
        "frontier": landscape,
        "coverage": each(lambda e, name: coverage(e, name, args.cutoffs or ())),
        "scaling": lambda found, names: [e for n in names for e in scaling(found, n, replace=args.replace)],
        "behaviour": lambda found, names: [e for n in names for e in behaviour(found, n, words)],
        "lengths": all_lengths,
        "format": lambda found, names: [format_split(found, n) for n in names],
    }


def _words(path: Path) -> dict[str, list[str]]:
    """Groups of words of one's own. Raises: RecipeError for a file that does not hold them."""
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise RecipeError(f"--words {path}: cannot be read ({e})") from None
    if not found or any(not isinstance(w, list) or not w or not all(isinstance(x, str) for x in w) for w in found.values()):
        raise RecipeError(f'--words {path}: expected groups of words, such as: reflection = ["wait", "hmm"]')
    return found


def _contamination(args: argparse.Namespace) -> Exhibit:
    if not args.train or not args.on:
        raise RecipeError("analyze contamination: give the training data with --train and the benchmarks with --on")
    training: dict[str, str] = {}
    for path in args.train:
        task = load_part(Task, {"kind": "file", "test": str(path), "empty_golds": "drop"})
        rows = [task.problem("test", i) for i in range(task.size("test") or 0)]
        training |= prompts_text([{"id": f"{path}:{p.meta['row']}", "prompt": p.prompt} for p in rows])
    suites = load_suites(args.on, args.data, read_protocol("still3"), {"kind": "math"})
    asked = {s.name: prompts_text([{"id": p.id, "prompt": p.prompt} for p in map(s.problem, range(s.rows))]) for s in suites}
    return contamination(training, asked)
