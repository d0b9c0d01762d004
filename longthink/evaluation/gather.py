"""What can be compared: evaluations by their folders, and a run by the validations it took on its way."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longthink import storage
from longthink.errors import CheckpointError, TaskError
from longthink.evaluation.results import Answers, Evaluated, Sample, is_evaluation, is_finished, read_evaluation, voted
from longthink.reports.record import distinct_names

__all__ = ["VALIDATION", "common_sets", "gather", "set_name"]

VALIDATION = re.compile(r"step_(\d+)\.validation(?:\.(.+))?\.jsonl")


def gather(paths: Sequence[Path]) -> list[Evaluated]:
    """The evaluations these paths hold, in order: a folder of one, or a run's validations, one for each step it has.

    They are called by their folders, with as many of those above as tell them apart, and a run's by their steps. Raises:
    CheckpointError for a folder that is neither; TaskError for an unfinished evaluation: what ends first is short, and right
    more often than the rest.
    """
    found: list[Evaluated] = []
    for path, name in zip(paths, distinct_names(paths), strict=True):
        if is_evaluation(path):
            one = read_evaluation(path)
            if not is_finished(path):
                there = sum(len(answers.every) for answers in one.sets.values())
                raise TaskError(
                    f"{path}: the evaluation is unfinished, with {there:,} samples so far, and what ended first is shorter "
                    "and more often right than the rest; run the same `longthink eval` again (`longthink view` shows it)"
                )
            found.append(Evaluated(path, {**one.facts, "name": name}, one.sets))
        elif (path / "rollouts").is_dir():
            steps = _validations(path)
            named = (
                [name if len(steps) == 1 else f"{name}/{e.name}" for e in steps] if len(paths) > 1 else [e.name for e in steps]
            )
            found += [Evaluated(path, {**e.facts, "name": n}, e.sets) for e, n in zip(steps, named, strict=True)]
        else:
            raise CheckpointError(f"{path}: neither an evaluation nor a run; expected the folder of `longthink eval` or `train`")
    return found


def common_sets(found: Sequence[Evaluated]) -> list[str]:
    """The benchmarks all have. Raises: TaskError where there is none, or where one name stands for different problems."""
    names = [name for name in found[0].sets if all(name in e.sets and e.sets[name].graded for e in found)]
    if not names:
        held = "; ".join(f"{e.name}: {', '.join(e.sets)}" for e in found)
        raise TaskError(f"no benchmark with a graded sample is common to all ({held}); evaluate them on the same --on")
    for name in names:
        sums = {e.sets[name].facts.get("sha256") for e in found} - {None}
        if len(sums) > 1:
            raise TaskError(
                f"{name}: they were evaluated on different rows of that name (checksums differ); evaluate both on one file"
            )
        ids = [[p["id"] for p in e.sets[name].problems] for e in found]
        odd = next((e for e, own in zip(found, ids, strict=True) if own != ids[0]), None)
        if odd is not None:
            raise TaskError(
                f"{name}: {odd.name} was evaluated on other problems than {found[0].name} ({len(odd.sets[name].problems)} and "
                f"{len(ids[0])}); give both the same rows and --problems"
            )
    return names


def _validations(run: Path) -> list[Evaluated]:
    """A run's validations, those of the step it begins with first. Raises: CheckpointError for a run without one."""
    steps: dict[int, dict[str, list[dict[str, Any]]]] = {}
    for path in sorted((run / "rollouts").glob("step_*.validation*.jsonl")):
        if named := VALIDATION.fullmatch(path.name):
            for row in storage.read_lines(path):
                name = set_name(named[2], row["domain"])
                steps.setdefault(int(named[1]), {}).setdefault(name, []).append(row)
    if not steps:
        raise CheckpointError(f"{run}: the run has no validation to compare; set validation.every in its recipe")
    found = []
    for step, sets in sorted(steps.items()):
        answers = {name: _answers(name, rows) for name, rows in sets.items()}
        windows = [a.facts["window"] for a in answers.values()]
        facts = {"name": f"step {step}", "model": f"{run}@{step}", "window": max(windows), "step": step}
        found.append(Evaluated(run, facts, answers))
    return found


def set_name(blended: str | None, domain: str) -> str:
    """What a run's validation set is called: by its name in the blend and by the domain, where there are any."""
    return "/".join(dict.fromkeys(filter(None, (blended, domain)))) or "validation"


def _answers(name: str, rows: Sequence[dict[str, Any]]) -> Answers:
    numbers = {group: i for i, group in enumerate(sorted({row["group"] for row in rows}))}
    problems: list[dict[str, Any]] = [{} for _ in numbers]
    samples: list[list[Sample]] = [[] for _ in numbers]
    for row in rows:
        at, verdict = numbers[row["group"]], row["verdict"]
        problems[at] = {"id": row["problem"], "prompt": row["prompt"], "gold": None}
        graded = (verdict["score"], verdict["status"], verdict["extracted"], verdict["detail"].get("lenient"))
        samples[at].append(Sample(row["sample"], row["text"], len(row["response_ids"]), row["finish_reason"], *graded))
    return Answers(name, {"window": max(row["window"] for row in rows)}, problems, [voted(row) for row in samples])
