"""What responses do: action words by correctness, repetition, scripts, and responses without an end."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from longthink.analysis.exhibit import Exhibit, stem
from longthink.evaluation.results import Evaluated, Sample
from longthink.reports.page import COLOURS, HATCHES
from longthink.rewards.language import script
from longthink.rewards.repetition import Repetition
from longthink.stats import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["WORDS", "behaviour", "habits"]

# SIRI 5.3 for backtracking, alternatives and deduction, STILL-3 4.2.2 for verification and correction
WORDS: dict[str, tuple[str, ...]] = {
    "reflection": ("wait", "hold on", "hmm", "however", "but"),
    "verification": ("verify", "check", "double-check", "confirm"),
    "correction": ("correct", "revise", "adjust", "mistake"),
    "alternative": ("alternatively", "another way", "instead"),
    "deduction": ("so", "thus", "therefore", "compute"),
}


def habits(samples: Sequence[Sample], words: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """For each group of words: per 1,000 tokens, per response, and the share of responses with one of them.

    Words count whole and in any case. Per 1,000 tokens is all words over all tokens, so that long responses weigh more.

    >>> habits([Sample(0, "Wait. So wait, 7", 8, "stop", 1.0, "ok"), Sample(1, "7", 2, "stop", 1.0, "ok")], {"r": ["wait"]})
    {'r': {'per_1000_tokens': 200.0, 'per_response': 1.0, 'share': 0.5}}
    """
    tokens = sum(s.tokens for s in samples)
    found = {}
    for group, listed in words.items():
        pattern = re.compile(rf"\b(?:{'|'.join(re.escape(w) for w in listed)})\b", re.IGNORECASE)
        counts = [len(pattern.findall(s.text)) for s in samples]
        per_token = 1000.0 * sum(counts) / tokens if tokens else 0.0
        found[group] = {"per_1000_tokens": per_token, "per_response": fmean(counts), "share": fmean(c > 0 for c in counts)}
    return found


def behaviour(found: Sequence[Evaluated], name: str, words: Mapping[str, Sequence[str]] | None = None) -> list[Exhibit]:
    """Words by correct and incorrect responses, and how responses end and repeat themselves, of each evaluation in order.

    Source: SIRI's figure 6 and STILL-3's figure 4.
    """
    words = words or WORDS
    rows: list[tuple[Any, ...]] = []
    for evaluated in found:
        graded = [s for row in evaluated.sets[name].graded for s in row]
        for kind, samples in (("correct", [s for s in graded if s.solved]), ("incorrect", [s for s in graded if not s.solved])):
            if samples:
                measured = habits(samples, words)
                rows += [(evaluated.name, kind, g, *m.values(), len(samples)) for g, m in measured.items()]
    columns = ("model", "responses", "words", "per 1,000 tokens", "per response", "share with one", "number")
    seen = [g for g in words if any(r[2] == g and r[3] for r in rows)]
    said = "; ".join(_change(found, rows, group) for group in seen)
    said = f"{found[0].name} to {found[-1].name}, per 1,000 tokens: {said}" if len(found) > 1 and seen else ""
    labels = ("", "per 1,000 tokens")
    title, note = f"Action words: {name}", "light: incorrect responses"
    bars = Exhibit(
        stem("behaviour", name),
        title,
        note,
        columns,
        rows,
        said,
        labels,
        _bars(rows, seen) if seen else None,
    )
    return [bars, _endings(found, name)]


def _change(found: Sequence[Evaluated], rows: Sequence[tuple[Any, ...]], group: str) -> str:
    ends = []
    for evaluated in (found[0], found[-1]):
        own = [r for r in rows if r[0] == evaluated.name and r[2] == group]
        ends.append(sum(r[3] * r[6] for r in own) / sum(r[6] for r in own))
    return f"{group} {ends[0]:.2f} to {ends[1]:.2f}"


def _bars(rows: Sequence[tuple[Any, ...]], groups: Sequence[str]) -> Any:
    names = list(dict.fromkeys(row[0] for row in rows))

    def draw(axes: "Axes") -> None:
        width = 0.8 / max(1, 2 * len(names))
        for number, name in enumerate(names):
            for kind, shade in (("correct", 1.0), ("incorrect", 0.45)):
                own = {r[2]: r[3] for r in rows if r[0] == name and r[1] == kind}
                offset = (2 * number + (kind == "incorrect") - len(names) + 0.5) * width
                label = name if kind == "correct" else None
                places = [i + offset for i in range(len(groups))]
                look = {
                    "color": COLOURS[number % 5],
                    "alpha": shade,
                    "hatch": HATCHES[number // 5 % 5],
                    "edgecolor": "white",
                    "lw": 0,
                }
                axes.bar(places, [own.get(g, 0.0) for g in groups], width, label=label, **look)  # type: ignore[arg-type]
        axes.set_xticks(range(len(groups)), groups)

    return draw


def _endings(found: Sequence[Evaluated], name: str) -> Exhibit:
    """Repetition, scripts and ends of each evaluation."""
    repetition, rows = Repetition(), []
    for evaluated in found:
        problems = evaluated.sets[name].samples
        repeated = mean_interval([[-repetition.score(s.text) for s in row] for row in problems if row])
        scripts: Counter[str] = Counter()
        for sample in evaluated.sets[name].every:
            scripts.update("LATIN" if c.isascii() else script(c) for c in sample.text if c.isalpha())
        letters = scripts.total() or 1
        listed = ", ".join(f"{s.lower()} {100 * n / letters:.1f} %" for s, n in scripts.most_common(4))
        endless = mean_interval([[float(s.truncated) for s in row] for row in problems if row])
        unclosed = mean_interval([[float("</think>" not in s.text) for s in row] for row in problems if row])
        numbers = (100 * repeated.mean, 100 * endless.mean, 100 * endless.low, 100 * endless.high, 100 * unclosed.mean)
        rows.append((evaluated.name, *numbers, listed))
    columns = ("model", "repeated 3-grams %", "no end %", "low", "high", "thinking not ended %", "scripts of letters")
    return Exhibit(stem("endings", name), f"Repetition, ends and scripts: {name}", "", columns, rows)
