"""`longthink compare`: paired over problems, corrected for many comparisons, and the accuracy × tokens frontier."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from longthink.analysis.frontier import Domination, Point, dominations, efficiency
from longthink.errors import TaskError
from longthink.evaluation.gather import common_sets
from longthink.evaluation.results import Evaluated, Sample
from longthink.evaluation.scores import unbiased
from longthink.stats import Interval, holm, mean_interval, paired_difference, paired_p, score_interval

__all__ = ["Comparison", "Pair", "compare", "table"]


class Pair(NamedTuple):
    """One evaluation against the first on one benchmark: accuracy and tokens of it minus those of the first.

    `p` is corrected for all comparisons made (Holm); `won` and `lost` are the problems whose mean score rose or fell.
    """

    name: str
    benchmark: str
    difference: Interval
    tokens: Interval
    p: float
    won: list[int]
    lost: list[int]

    @property
    def verdict(self) -> str:
        if self.p >= ALPHA:
            return "not distinguishable"
        return "better" if self.difference.mean > 0 else "worse"


ALPHA = 0.05


class Comparison(NamedTuple):
    """Everything `longthink compare` says."""

    benchmarks: list[str]
    problems: dict[str, list[str]]
    points: dict[str, list[Point]]
    pairs: list[Pair]
    dominated: dict[str, dict[str, Domination]]
    efficiency: dict[str, float]
    warnings: list[str]


def compare(found: Sequence[Evaluated]) -> Comparison:
    """All against the first, benchmark by benchmark. Raises: TaskError where they were not asked the same problems."""
    names = common_sets(found)
    shared = {name: _shared(name, found) for name in names}
    rows = {name: [[row[i] for i in shared[name]] for row in _graded(name, found)] for name in names}
    problems = {name: [str(found[0].sets[name].problems[i]["id"]) for i in shared[name]] for name in names}
    points = {name: [_point(e, name, shared[name], row) for e, row in zip(found, rows[name], strict=True)] for name in names}
    raw, pairs = [], []
    for name in names:
        first, *others = points[name]
        for at, other in enumerate(others, 1):
            each = [fmean(a) - fmean(b) for a, b in zip(other.scores, first.scores, strict=True)]
            won, lost = ([i for i, d in enumerate(each) if sign * d > 0] for sign in (1, -1))
            difference = paired_difference(other.scores, first.scores, bounded=True)
            tokens = paired_difference(other.lengths, first.lengths)
            raw.append(paired_p(other.scores, first.scores))
            pairs.append(Pair(found[at].name, name, difference, tokens, 1.0, won, lost))
    pairs = [pair._replace(p=p) for pair, p in zip(pairs, holm(raw), strict=True)]
    dominated = {name: dominations(points[name]) for name in names}
    return Comparison(names, problems, points, pairs, dominated, _efficiencies(points, len(found)), _warnings(found))


def _graded(name: str, found: Sequence[Evaluated]) -> list[list[list[Sample]]]:
    return [[[s for s in row if s.score is not None] for row in e.sets[name].samples] for e in found]


def _shared(name: str, found: Sequence[Evaluated]) -> list[int]:
    """The problems of which every evaluation has a graded sample."""
    whole = [i for i, rows in enumerate(zip(*_graded(name, found), strict=True)) if all(rows)]
    if not whole:
        raise TaskError(
            f"{name}: no problem has a graded sample in every evaluation; look at the statuses in their samples.jsonl"
        )
    return whole


def _point(evaluated: Evaluated, name: str, places: Sequence[int], rows: Sequence[Sequence[Sample]]) -> Point:
    """The evaluation on the problems at these places, whose samples are `rows`; estimates are those of the whole."""
    answers = evaluated.sets[name]
    known = [i for i, row in enumerate(answers.samples) if any(s.score is not None for s in row)]
    whole = dict(zip(known, unbiased(answers.scores, evaluated.until), strict=True))
    scores = [whole[i] for i in places]
    lengths = [[float(s.tokens) for s in row] for row in rows]
    return Point(evaluated.name, score_interval(scores), mean_interval(lengths), scores, lengths)


def _efficiencies(points: Mapping[str, Sequence[Point]], count: int) -> dict[str, float]:
    """SIRI's score of each against the first; none where that solved nothing."""
    tables = [{name: (row[at].accuracy.mean, row[at].tokens.mean) for name, row in points.items()} for at in range(count)]
    if any(accuracy <= 0.0 for accuracy, _ in tables[0].values()):
        return {}
    names = [point.name for point in next(iter(points.values()))]
    return {name: efficiency(own, tables[0]) for name, own in zip(names, tables, strict=True)}


def _warnings(found: Sequence[Evaluated]) -> list[str]:
    """What makes a comparison unfair: other windows, draws or graders."""
    said = []
    for key in ("window", "temperature", "top_p", "truncated", "seed"):
        values = list(dict.fromkeys(e.facts.get(key) for e in found))
        if len(values) > 1:
            said.append(f"they differ in {key}: {', '.join(map(str, values))}")
    for name in found[0].sets:
        for key, what in (("reward", "graded"), ("task", "asked")):
            given = list(dict.fromkeys(str(e.sets[name].facts.get(key)) for e in found if name in e.sets))
            if len(given) > 1:
                said.append(f"{name}: they were {what} differently: {', '.join(given)}")
    return said


def table(made: Comparison) -> str:
    """The comparison as plain text for a terminal."""
    lines = [f"warning: {text}" for text in made.warnings]
    for name in made.benchmarks:
        lines.append(f"{name}, {len(made.points[name][0].scores)} problems")
        pairs = {pair.name: pair for pair in made.pairs if pair.benchmark == name}
        rows: list[tuple[str, ...]] = [("", "accuracy", "95 %", "tokens", "minus the first", "95 %", "p", "won", "lost", "", "")]
        for point in made.points[name]:
            a, n = point.accuracy, point.tokens
            row = [point.name, f"{100 * a.mean:.1f} %", f"{100 * a.low:.1f} to {100 * a.high:.1f}", f"{n.mean:,.0f}"]
            pair, worse = pairs.get(point.name), made.dominated[name].get(point.name)
            if pair:
                d = pair.difference
                row += [f"{100 * d.mean:+.1f}", f"{100 * d.low:+.1f} to {100 * d.high:+.1f}", f"{pair.p:.2g}"]
                row += [str(len(pair.won)), str(len(pair.lost)), pair.verdict]
            row += [""] * (10 - len(row))
            rows.append((*row, f"dominated by {worse.by}{'' if worse.sure else ' (maybe)'}" if worse else "on the frontier"))
        widths = [max(len(row[i]) for row in rows) for i in range(11)]
        padded = (
            [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:9], widths[1:9], strict=True)), *row[9:]] for row in rows
        )
        lines += ["  ".join(row).rstrip() for row in padded]
    if made.efficiency:
        lines.append("ΔAcc/CR against the first: " + ", ".join(f"{name} {value:.2f}" for name, value in made.efficiency.items()))
    if len(made.pairs) > 1:
        lines.append(f"p is corrected for {len(made.pairs)} comparisons (Holm); intervals are not")
    return "\n".join(lines)
