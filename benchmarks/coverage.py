"""How often our intervals hold the truth: `make coverage`, about ten minutes, written into docs/evaluation.md.

A test has P problems of n samples. "One difficulty": every problem is solved with the same chance p. "A spread": p of a test is
drawn from 0.05 to 0.95; its problems' chances are all p, or drawn from Beta(2p, 2(1 - p)). Truth is p for the interval over
problems, the mean of the problems' own chances for that over samples.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longthink import storage
from longthink.evaluation.until import FIRST, MOST, plan
from longthink.stats import Over, score_interval, wilson

ROOT = Path(__file__).resolve().parents[1]
RESULT, PAGE = ROOT / "benchmarks" / "results" / "coverage.json", ROOT / "docs" / "evaluation.md"
SAMPLES, PROBLEMS = (1, 2, 4, 8, 16, 64), (30, 500)
SINGLE = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9)
REPEATS = 4000
CHECKED = 5  # tests of each cell whose intervals are also taken from `score_interval`
SPREAD = (0.05, 0.95)
UNTIL = ((30, 0.05, 0.5, 0.5), (30, 0.05, 1.0, 3.0), (30, 0.02, 0.3, 0.3), (100, 0.01, 0.2, 0.2))
UNTIL_REPEATS = 1000


def held(chances: NDArray[np.float64], truth: NDArray[np.float64], n: int, over: Over, draw: np.random.Generator) -> float:
    """The share of tests [R, P] whose interval holds the truth [R]."""
    solved = draw.binomial(n, chances)
    means, problems = solved / n, chances.shape[1]
    mean = means.mean(axis=1)
    if over == "problems":
        variance, size, df = means.var(axis=1, ddof=1) / problems, problems, problems - 1
    else:
        within = means * (1 - means) / (n - 1)  # ddof 1, over n
        variance, size, df = within.sum(axis=1) / problems**2, n * problems, (n - 1) * problems
    bounds = [wilson(float(m), float(v), size, df, 0.95) for m, v in zip(mean, variance, strict=True)]
    for row, interval in zip(solved[:CHECKED].astype(int), bounds, strict=False):  # the shortcut above is the function in use
        np.testing.assert_allclose(interval, score_interval([[1.0] * s + [0.0] * (n - s) for s in row], over=over), atol=1e-12)
    return float(np.mean([i.low <= t <= i.high for i, t in zip(bounds, truth, strict=True)]))


def row(problems: int, n: int, over: Over, draw: np.random.Generator) -> dict[str, Any]:
    """One line of the table."""
    singles = []
    for p in SINGLE:
        chances = np.full((REPEATS, problems), p)
        singles.append(held(chances, np.full(REPEATS, p), n, over, draw))
    p = draw.uniform(*SPREAD, REPEATS)
    alike = np.repeat(p[:, None], problems, axis=1)
    mixed = draw.beta(2 * alike, 2 * (1 - alike))
    spread = held(alike, p, n, over, draw)
    varied = held(mixed, p if over == "problems" else mixed.mean(axis=1), n, over, draw)
    facts = {"problems": problems, "samples": n, "over": over, "lowest": min(singles), "at": SINGLE[int(np.argmin(singles))]}
    return facts | {"alike": spread, "mixed": varied}


def until(problems: int, half: float, a: float, b: float, draw: np.random.Generator) -> dict[str, Any]:
    """Sampling until tight: bias, coverage and samples, beside the samples that the same number for all would need."""
    chances = draw.beta(a, b, size=problems)
    truth, found = float(chances.mean()), []
    for _ in range(UNTIL_REPEATS):
        rows = [(draw.random(MOST) < p).tolist() for p in chances]
        counts = [FIRST] * problems
        while (made := plan([r[:n] for r, n in zip(rows, counts, strict=True)], half)).interval is None:
            counts = made.wanted
        found.append((made.interval, sum(counts)))
    means = np.array([i.mean for i, _ in found])
    bias, error = float(means.mean() - truth), float(means.std(ddof=1) / np.sqrt(len(means)))
    facts = {"problems": problems, "half": half, "spread": f"Beta({a:g}, {b:g})", "bias": bias, "error": error}
    covered = float(np.mean([i.low <= truth <= i.high for i, _ in found]))
    equal = float(np.mean(chances * (1 - chances)) * (1.96 / half) ** 2)
    return facts | {"covered": covered, "samples": float(np.mean([n for _, n in found])), "same_for_all": equal}


def tables(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| problems | samples | interval | lowest at one difficulty | alike, over a spread | mixed, over a spread |"]
    lines.append("|---|---|---|---|---|---|")
    for r in found["coverage"]:
        lowest = f"{100 * r['lowest']:.1f} % (at {r['at']})"
        spread = f"{100 * r['alike']:.1f} % | {100 * r['mixed']:.1f} %"
        lines.append(f"| {r['problems']} | {r['samples']} | over {r['over']} | {lowest} | {spread} |")
    lines += [
        "",
        "| problems | asked | their chances | bias in points | held | samples | the same for all |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in found["until"]:
        bias = f"{100 * r['bias']:+.2f} ± {196 * r['error']:.2f}"
        shares = f"{100 * r['covered']:.1f} % | {r['samples']:.0f} | {r['same_for_all']:.0f}"
        lines.append(f"| {r['problems']} | ±{100 * r['half']:g} | {r['spread']} | {bias} | {shares} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Simulate, write the results and the table."""
    draw = np.random.default_rng(0)
    cases: list[tuple[int, int, Over]] = [(p, n, "problems") for p in PROBLEMS for n in SAMPLES]
    cases += [(p, n, "samples") for p in PROBLEMS for n in SAMPLES if n > 1]
    found = {"command": "make coverage", "repeats": REPEATS, "coverage": [row(*case, draw) for case in cases]}
    found["until"] = [until(*case, draw) for case in UNTIL]
    storage.replace_file(RESULT, json.dumps(found, indent=1).encode())
    begin, end = "<!-- coverage -->\n", "<!-- end of coverage -->\n"
    text = PAGE.read_text()
    storage.replace_file(PAGE, (text.partition(begin)[0] + begin + tables(found) + end + text.partition(end)[2]).encode())
    print(tables(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
