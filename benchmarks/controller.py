"""What the triggers do on runs whose trouble is known: `make controller` (seeded; about ten minutes on two cores).

Runs are simulated by two generators that share nothing but the names of the metrics. On the first (smooth curves, independent
noise, both of a pace and a size of its own in every run) each trigger's options are chosen: of those with at most 20 false alarms
in 1,000 healthy runs and a median delay within ten steps of the smallest, the one that fires least on healthy runs, then the
least eager. On the second (random walks, heavy tails, wandering noise, another cadence and length) the chosen ones are judged.
"""

import argparse
import json
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from longthink import storage
from longthink.control.base import Trigger
from longthink.part import load_part

RESULT = Path(__file__).resolve().parent / "results" / "controller.json"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "control.md"
MARKS = ("<!-- controller -->\n", "<!-- end of controller -->\n")
ALARMS = 20  # a thousand healthy runs that are accepted when options are chosen
Rows = list[dict[str, Any]]
Generator = Callable[[np.random.Generator, str], tuple[Rows, int]]

# options that are tried, by the trouble they are for
GRID: dict[str, list[dict[str, Any]]] = {
    "drop": [{"kind": "drop", "validations": v, "errors": e} for v in (1, 2, 3) for e in (1.5, 2.0, 2.5, 3.0)],
    "kl_spike": [
        {"kind": "kl_spike", "factor": f, "over": o, "gap": g} for f in (3.0, 5.0, 8.0) for o in (10, 20) for g in (0, 5, 10)
    ],
    # with a gap, the trigger's default: set after the second family had shown what the first does not, so no blind figure there
    "kl_spike_default": [{"kind": "kl_spike", "factor": 8.0, "over": 20, "gap": 10}],
    "entropy_collapse": [{"kind": "entropy", "low": s, "over": o} for s in (0.1, 0.2, 0.3, 0.4) for o in (3, 5, 10)],
    "entropy_explosion": [{"kind": "entropy", "low": 0.0, "high": s, "over": o} for s in (1.5, 2.0, 3.0) for o in (3, 5, 10)],
    "looping": [{"kind": "looping", "share": s, "over": o} for s in (0.05, 0.1, 0.2) for o in (3, 5, 10)],
    "language": [{"kind": "language_drift", "below": b, "over": o} for b in (0.8, 0.9, 0.95, 0.98) for o in (3, 5, 10)],
    "verifier": [{"kind": "verifier_failures", "share": s, "over": o} for s in (0.05, 0.1, 0.2) for o in (1, 3, 5)],
    "mismatch": [{"kind": "mismatch", "above": a, "over": o} for a in (0.05, 0.1, 0.2) for o in (1, 3, 5)],
    "constant": [{"kind": "constant_groups", "share": s, "over": o} for s in (0.7, 0.8, 0.9) for o in (5, 10)],
    "plateau": [{"kind": "plateau", "validations": v} for v in (4, 6, 8, 10, 12)],
    "rising": [{"kind": "rising", "over": o, "confidence": c} for o in (6, 9, 12, 16) for c in (0.95, 0.99)],
    "lengthen": [
        {"kind": "lengthen", "validations": v, "rising_over": o, "confidence": c}
        for v in (4, 6, 8, 10)
        for o in (6, 9, 12, 16)
        for c in (0.95, 0.99)
    ],
}


def smooth(draw: np.random.Generator, trouble: str) -> tuple[Rows, int]:
    """Family A: 300 steps, a validation of 64 problems with 4 samples every 10, smooth curves with independent noise."""
    steps, every, onset = 300, 10, int(draw.integers(100, 180))
    t = np.arange(steps)
    speed, noise = np.exp(draw.uniform(np.log(0.3), np.log(3), 2))
    after = np.clip(t - onset, 0, None) * speed
    begin = t >= onset
    reach, pace = draw.uniform(0.15, 0.35), draw.uniform(60, 150)
    accuracy = draw.uniform(0.25, 0.5) + reach * (1 - np.exp(-t / pace))
    length = 4000 * np.exp(-0.001 * t * draw.uniform(0, 1))
    if trouble in ("healthy_rising", "plateau", "lengthen", "flat"):
        rise = draw.uniform(0.0010, 0.0020)
        still = {"healthy_rising": steps, "flat": 0}.get(trouble, onset)
        accuracy = 0.3 + rise * np.minimum(t, still)
        length = 4000 - 2.0 * t
    if trouble in ("rising", "lengthen"):
        length = 4000 - 2.0 * np.minimum(t, onset) + draw.uniform(4, 10) * after
    if trouble == "drop":
        accuracy = accuracy - draw.uniform(0.4, 0.7) * accuracy * (1 - np.exp(-after / 20))
    clipped = np.clip((length - 3000) / 20000, 0.01, 1)

    def rise_to(low: Any, high: float, pace: float) -> Any:
        return low + (high - low) * (1 - np.exp(-after / pace))

    kl = 0.02 * np.sqrt(1 + t) / 10 * (1 + 15 * after / 10 * np.exp(1 - after / 10) if trouble == "kl_spike" else 1)
    entropy = 0.6 * np.exp(-t / 800)
    entropy = entropy * (np.exp(-after / 15) if trouble == "entropy_collapse" else 1)
    entropy = entropy * (rise_to(1, 6, 25) if trouble == "entropy_explosion" else 1)
    low = np.minimum(0.01 * noise * draw.lognormal(0, 0.3 * noise, steps), 0.5)
    curves = {
        "policy/entropy/mean": entropy * draw.lognormal(0, 0.08 * noise, steps),
        "loss/kl/mean": kl * draw.lognormal(0, 0.2 * noise, steps),
        "length/looping_share": draw.binomial(256, rise_to(low, 0.35, 15) if trouble == "looping" else low, steps) / 256,
        "reward/part/language/mean": 1 - draw.binomial(256, rise_to(low, 0.3, 30) if trouble == "language" else low, steps) / 256,
        "verdict/unscored_share": draw.binomial(256, np.where(begin, 0.5, low) if trouble == "verifier" else low, steps) / 256,
        "mismatch/logprob_gap/mean": (rise_to(0.02, 0.4, 20) if trouble == "mismatch" else 0.02)
        * draw.lognormal(0, 0.3 * noise, steps),
        "group/constant_share": draw.binomial(16, rise_to(0.35, 0.95, 20) if trouble == "constant" else 0.35, steps) / 16,
    }
    return _rows(draw, steps, every, accuracy, length, clipped, curves, problems=64, samples=4), onset


def rough(draw: np.random.Generator, trouble: str) -> tuple[Rows, int]:
    """Family B: 400 steps, a validation of 30 problems with 8 samples every 20, random walks, heavy tails, wandering noise."""
    steps, every, onset = 400, 20, int(draw.integers(150, 260))
    t = np.arange(steps)
    ramp = 1 / (1 + np.exp(-(t - onset - 20) / draw.uniform(4, 14)))  # trouble comes in a sigmoid some time after its onset

    def wander(scale: float, memory: float = 0.9) -> np.ndarray[Any, Any]:
        shocks, found = draw.standard_t(3, steps) * scale * np.sqrt(1 - memory**2) / np.sqrt(3), np.zeros(steps)
        for i in range(1, steps):
            found[i] = memory * found[i - 1] + shocks[i]
        return found

    kinks = np.cumsum(np.repeat(draw.gamma(2.0, 0.0004, steps // 50), 50))
    walk = draw.uniform(0.15, 0.45) + kinks
    length = 6000 + np.cumsum(draw.normal(-2, 3, steps))
    if trouble in ("healthy_rising", "plateau", "lengthen", "flat"):
        pace = 0.0011 + 0.0007 * np.sin(t / draw.uniform(30, 70))
        pace = pace * {"healthy_rising": 1.0, "flat": 0.0}.get(trouble, 1.0 - ramp)
        walk = 0.25 + np.cumsum(pace)
    if trouble in ("rising", "lengthen"):
        length = length + np.cumsum(ramp * draw.uniform(8, 20))
    accuracy = np.clip(walk * (1 - ramp * draw.uniform(0.4, 0.7) if trouble == "drop" else 1), 0.01, 0.95)
    clipped = np.clip(0.03 + (length - 6000) / 30000, 0.005, 1)
    swing = 1 + 0.1 * np.sin(t / 9)  # the order of the data
    kl = (
        0.03
        * swing
        * np.exp(wander(0.3))
        * (1 + (draw.uniform(10, 25) * np.exp(-np.abs(t - onset - 12) / 6) if trouble == "kl_spike" else 0))
    )
    entropy = 0.9 * np.exp(-t / 900 + wander(0.1)) * swing
    entropy = (
        entropy
        * (1 - 0.97 * ramp if trouble == "entropy_collapse" else 1)
        * (1 + 6 * ramp if trouble == "entropy_explosion" else 1)
    )

    def share(name: str, low: float, high: float) -> Any:
        return np.clip((low + (high - low) * (ramp if trouble == name else 0)) * np.exp(wander(0.4)), 0, 1)

    curves = {
        "policy/entropy/mean": entropy,
        "loss/kl/mean": kl,
        "length/looping_share": share("looping", 0.012, 0.4),
        "reward/part/language/mean": 1 - share("language", 0.006, 0.25),
        "verdict/unscored_share": share("verifier", 0.005, 0.4),
        "mismatch/logprob_gap/mean": share("mismatch", 0.018, 0.35),
        "group/constant_share": np.clip(0.3 + wander(0.07) + (0.7 * ramp if trouble == "constant" else 0), 0, 1),
    }
    return _rows(draw, steps, every, accuracy, length, clipped, curves, problems=30, samples=8), onset


def _rows(
    draw: np.random.Generator,
    steps: int,
    every: int,
    accuracy: np.ndarray[Any, Any],
    length: np.ndarray[Any, Any],
    clipped: np.ndarray[Any, Any],
    curves: dict[str, np.ndarray[Any, Any]],
    *,
    problems: int,
    samples: int,
) -> Rows:
    """Rows as a run writes them; validations are drawn problem by problem, the same problems every time."""
    hardness = draw.normal(0, 1.5, problems)
    rows: Rows = []
    for step in range(steps):
        row: dict[str, Any] = {"step": step, "stage": 0} | {key: float(values[step]) for key, values in curves.items()}
        if step % every == 0:
            odds = np.log(accuracy[step] / (1 - accuracy[step])) * 1.3
            scores = draw.binomial(samples, 1 / (1 + np.exp(-(odds - hardness)))) / samples
            half = 2.0 * scores.std(ddof=1) / np.sqrt(problems)
            row |= {
                "validation/accuracy": scores.mean(),
                "validation/low": scores.mean() - half,
                "validation/high": scores.mean() + half,
            }
            row["validation/mean_tokens"] = float(length[step] * draw.normal(1, 0.6 / np.sqrt(problems * samples)))
            row["validation/truncated_share"] = float(draw.binomial(problems * samples, clipped[step]) / (problems * samples))
        rows.append(row)
    return rows


FAMILIES: dict[str, Generator] = {"smooth": smooth, "rough": rough}
HEALTHY = {"plateau": "healthy_rising", "lengthen": "flat", "rising": "flat"}  # what a trigger must not fire on, else "healthy"


class Judged(NamedTuple):
    """What a trigger did: delays in steps of the runs it was right about, and counts."""

    delays: list[int]
    early: int  # fired before the trouble
    missed: int
    false: int  # fired in a healthy run
    runs: int


def first_alarm(options: dict[str, Any], rows: Rows) -> int | None:
    """The step after which a trigger first fires."""
    trigger = load_part(Trigger, options)
    checked = options["kind"] in ("drop", "plateau", "rising", "lengthen")
    for i in range(1, len(rows) + 1):
        if (not checked or "validation/accuracy" in rows[i - 1]) and trigger.fires(rows[:i]) is not None:
            return i - 1
    return None


def judge(family: str, trouble: str, options: dict[str, Any], runs: int, seed: int) -> Judged:
    """One trigger's options on `runs` troubled and as many healthy runs of a family."""
    trouble = trouble.removesuffix("_default")
    delays, early, missed, false = [], 0, 0, 0
    for run in range(runs):
        rows, onset = FAMILIES[family](np.random.default_rng([seed, run, 0]), trouble)
        at = first_alarm(options, rows)
        missed += at is None
        early += at is not None and at < onset
        delays += [at - onset] if at is not None and at >= onset else []
        rows, _ = FAMILIES[family](np.random.default_rng([seed, run, 1]), HEALTHY.get(trouble, "healthy"))
        false += first_alarm(options, rows) is not None
    return Judged(delays, early, missed, false, runs)


def chosen(trouble: str, runs: int, seed: int) -> dict[str, Any]:
    """The options with the smallest median delay among those with few false alarms, on the first family."""
    found = [(options, judge("smooth", trouble, options, runs, seed)) for options in GRID[trouble]]
    fine = [(o, j) for o, j in found if 1000 * (j.false + j.early) <= ALARMS * 2 * runs and j.missed <= runs // 50]
    if fine:
        fastest = min(float(np.median(j.delays)) for _, j in fine)
        near = [(o, j) for o, j in fine if np.median(j.delays) <= fastest + 10]
        return min(near, key=lambda pair: (pair[1].false + pair[1].early, -float(np.median(pair[1].delays))))[0]
    return min(
        found, key=lambda pair: (pair[1].false + pair[1].early + pair[1].missed, float(np.median(pair[1].delays or [999])))
    )[0]


def row_of(judged: Judged) -> dict[str, Any]:
    """What is written down of it."""
    lows = np.quantile(judged.delays, (0.5, 0.9)) if judged.delays else (None, None)
    per = 1000 / judged.runs
    return {
        "delay_median": lows[0],
        "delay_90": lows[1],
        "missed_per_1000": judged.missed * per,
        "early_per_1000": judged.early * per,
        "false_per_1000": judged.false * per,
        "runs": judged.runs,
    }


def job(asked: tuple[str, int, int]) -> tuple[str, dict[str, Any]]:
    """Choose and judge one trigger."""
    trouble, runs, seed = asked
    options = chosen(trouble, max(50, runs // 5), seed)
    families = {family: row_of(judge(family, trouble, options, runs, seed + 1)) for family in FAMILIES}
    return trouble, {"options": options, **families}


def main(argv: Sequence[str] | None = None) -> int:
    """Choose, judge and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(GRID), help="one trigger; the others' results are kept")
    args = parser.parse_args(argv)
    kept = json.loads(RESULT.read_text())["triggers"] if args.only else {}
    with multiprocessing.Pool(2) as pool:
        made = dict(pool.imap(job, [(trouble, args.runs, args.seed) for trouble in GRID if args.only in (None, trouble)]))
    found = {trouble: made.get(trouble) or kept[trouble] for trouble in GRID}
    command = f"python benchmarks/controller.py --runs {args.runs} --seed {args.seed}"
    storage.replace_file(RESULT, json.dumps({"command": command, "triggers": found}, indent=1).encode())
    text = DOCS.read_text()
    before, after = text.partition(MARKS[0])[0], text.partition(MARKS[1])[2]
    storage.replace_file(DOCS, (before + MARKS[0] + table(found) + MARKS[1] + after).encode())
    print(table(found))
    return 0


def table(found: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    head = "median delay, 90 % | missed | early | false"
    lines = [f"| trouble | options chosen | first family: {head} | second: {head} |", "|" + "---|" * 10]
    for trouble, row in found.items():
        cells = [trouble.replace("_", " "), ", ".join(f"{k} {v}" for k, v in row["options"].items())]
        for family in FAMILIES:
            r = row[family]
            cells.append("-" if r["delay_median"] is None else f"{r['delay_median']:.0f}, {r['delay_90']:.0f}")
            cells += [f"{r[key]:.0f}" for key in ("missed_per_1000", "early_per_1000", "false_per_1000")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
