"""Every gain split in two: what came from putting answers where they belong, and what from finding them."""

from collections.abc import Sequence

from longthink.analysis.exhibit import Exhibit, stem
from longthink.evaluation.results import Evaluated, Sample
from longthink.stats import paired_difference, score_interval

__all__ = ["format_split", "lenient"]


def lenient(sample: Sample) -> float:
    """The score an answer would have earned wherever it stands: its own, or that of a guess where none was in its place."""
    return max(sample.score or 0.0, sample.lenient or 0.0)


def format_split(found: Sequence[Evaluated], name: str) -> Exhibit:
    """Strict and lenient accuracy of each, and its gain over the first as format plus task.

    With s the strict and l the lenient score, Δs = Δl + Δ(s - l): the first term is the task, the second the format; both are
    paired over problems. A guess is right less often than a stated answer, so part of the task may be format still.
    Source: NVIDIA 4.4, which suspects its logic gain; the split is ours.
    """
    rows = []
    strict = [[[s.score or 0.0 for s in row if s.score is not None] for row in e.sets[name].samples] for e in found]
    loose = [[[lenient(s) for s in row if s.score is not None] for row in e.sets[name].samples] for e in found]
    kept = [i for i in range(len(strict[0])) if all(e[i] for e in strict)]
    strict, loose = ([[e[i] for i in kept] for e in each] for each in (strict, loose))
    gap = [
        [[a - b for a, b in zip(s, row, strict=True)] for s, row in zip(own, other, strict=True)]
        for own, other in zip(strict, loose, strict=True)
    ]
    for at, evaluated in enumerate(found):
        levels = [100 * score_interval(each[at]).mean for each in (strict, loose)]
        gains = [paired_difference(each[at], each[0]) if at else None for each in (strict, loose, gap)]
        cells = [None if g is None else f"{100 * g.mean:+.1f} [{100 * g.low:+.1f}, {100 * g.high:+.1f}]" for g in gains]
        rows.append((evaluated.name, *levels, *cells))
    columns = ("model", "strict %", "lenient %", "gain over the first", "of it the task", "of it the format")
    title = f"Learned the task, learned the format: {name}"
    return Exhibit(stem("format", name), title, "", columns, rows)
