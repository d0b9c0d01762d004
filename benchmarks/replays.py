"""Histories with the shape and the numbers of published runs, to be judged by the triggers of our recipes.

What a paper prints is used as printed; what it only draws or says is a curve through it, and what it does not give (the noise of
a step) is drawn from the sizes it does give: problems, samples, prompts, group size. `python benchmarks/replays.py` prints what
fires.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from longthink import storage
from longthink.control.base import Trigger
from longthink.part import load_part
from longthink.recipe import load_recipe

DOCS = Path(__file__).resolve().parents[1] / "docs" / "control.md"
MARKS = ("<!-- replays -->\n", "<!-- end of replays -->\n")
RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "deepscaler_1.5b.toml"
Rows = list[dict[str, Any]]


def curve(points: Sequence[tuple[float, float]], steps: int) -> np.ndarray[Any, Any]:
    """Straight lines through (step, value)."""
    return np.interp(np.arange(steps), *zip(*points, strict=True))


def rows(
    draw: np.random.Generator,
    *,
    reward: Sequence[tuple[float, float]],
    accuracy: Sequence[tuple[float, float]],
    length: Sequence[tuple[float, float]],
    clipped: Sequence[tuple[float, float]],
    steps: int,
    every: int,
    problems: int,
    samples: int,
    prompts: int,
    group: int,
    kl: Sequence[tuple[float, float]] = ((0, 0.001), (1, 0.002)),
    language: Sequence[tuple[float, float]] = ((0, 0.995), (1, 0.995)),
    looping: Sequence[tuple[float, float]] = ((0, 0.005), (1, 0.005)),
) -> Rows:
    """Metrics as a run would have written them."""
    hardness = draw.normal(0, 2.0, problems)
    each = {
        "reward": reward,
        "accuracy": accuracy,
        "length": length,
        "clipped": clipped,
        "kl": kl,
        "language": language,
        "looping": looping,
    }
    lines = {name: curve(points, steps) for name, points in each.items()}
    found: Rows = []
    for step in range(steps):
        at = {name: float(values[step]) for name, values in lines.items()}
        spread = np.sqrt(at["reward"] * (1 - at["reward"]) * (0.55 / prompts + 0.45 / (prompts * group)))
        row: dict[str, Any] = {
            "step": step,
            "stage": 0,
            "reward/mean": at["reward"] + spread * draw.normal(),
            "length/mean": at["length"] * draw.normal(1, 0.5 / np.sqrt(prompts)),
            "loss/kl/mean": at["kl"] * draw.lognormal(0, 0.25),
            "reward/part/language/mean": draw.binomial(prompts * group, at["language"]) / (prompts * group),
            "length/looping_share": draw.binomial(prompts * group, at["looping"]) / (prompts * group),
        }
        if step % every == 0:
            odds = solve(at["accuracy"], hardness)
            scores = draw.binomial(samples, 1 / (1 + np.exp(hardness - odds))) / samples
            half = 2.05 * scores.std(ddof=1) / np.sqrt(problems)
            total = problems * samples
            row |= {
                "validation/accuracy": float(scores.mean()),
                "validation/low": max(0.0, float(scores.mean() - half)),
                "validation/high": min(1.0, float(scores.mean() + half)),
                "validation/mean_tokens": at["length"] * draw.normal(1, 0.6 / np.sqrt(total)),
                "validation/truncated_share": draw.binomial(total, at["clipped"]) / total,
            }
        found.append(row)
    return found


def solve(accuracy: float, hardness: np.ndarray[Any, Any]) -> float:
    """The ability at which problems of these difficulties are solved this often."""
    low, high = -12.0, 12.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(hardness - middle))).mean() < accuracy else (low, middle)
    return low


def deepscaler_8k(draw: np.random.Generator) -> Rows:
    """3.3: reward 46 to 58 %, length 5,500 to 3,500; near 1,000 steps length and clip ratio (4.2 to 6.5 %) begin to rise."""
    return rows(
        draw,
        reward=((0, 0.46), (300, 0.53), (980, 0.58), (1100, 0.575), (1300, 0.565)),
        accuracy=((0, 0.289), (980, 0.339), (1300, 0.33)),
        length=((0, 5500), (300, 4000), (900, 3500), (960, 3500), (1040, 3750), (1300, 4300)),
        clipped=((0, 0.20), (200, 0.07), (900, 0.042), (960, 0.042), (1040, 0.065), (1300, 0.10)),
        steps=1300,
        every=20,
        problems=30,
        samples=8,
        prompts=128,
        group=8,
    )


def deepscaler_16k(draw: np.random.Generator) -> Rows:
    """The same run's second stage: reward to 62.5 %, length 3,500 to 5,500, then slightly falling; clip ratio up to 2.0 %."""
    return rows(
        draw,
        reward=((0, 0.58), (380, 0.625), (700, 0.625)),
        accuracy=((0, 0.339), (380, 0.38), (700, 0.38)),
        length=((0, 3500), (330, 5500), (700, 5450)),
        clipped=((0, 0.004), (300, 0.012), (480, 0.020), (700, 0.028)),
        steps=700,
        every=20,
        problems=30,
        samples=8,
        prompts=128,
        group=16,
    )


def nvidia(draw: np.random.Generator, trouble: str) -> Rows:
    """Scaling Up RL 3.3 and figure 6, a run of 500 steps with trouble from step 300 on: `drop`, `spike`, `plateau` or `loops`."""
    falls = trouble == "drop"
    return rows(
        draw,
        reward=((0, 0.45), (300, 0.55), (500, 0.55 if trouble in ("plateau", "spike") else 0.61)),
        accuracy=(
            (0, 0.35),
            (300, 0.42),
            (340, 0.25 if falls else 0.42),
            (500, 0.24 if falls else 0.42 if trouble != "loops" else 0.45),
        ),
        length=((0, 4000), (300, 4200), (360, 7000 if trouble == "loops" else 4200), (500, 7500 if trouble == "loops" else 4300)),
        clipped=((0, 0.05), (300, 0.05), (360, 0.35 if trouble == "loops" else 0.05), (500, 0.4 if trouble == "loops" else 0.05)),
        kl=((0, 0.002), (300, 0.02), (306, 0.3 if trouble == "spike" else 0.02), (330, 0.04), (500, 0.04)),
        looping=((0, 0.01), (300, 0.01), (360, 0.3 if trouble == "loops" else 0.01), (500, 0.3 if trouble == "loops" else 0.01)),
        steps=500,
        every=20,
        problems=150,
        samples=4,
        prompts=256,
        group=16,
    )


# AIME24, MATH-500 and AMC23 by step, one sample a problem (the released logs), and the sizes of the three sets
OPEN_RS = {
    "experiment 1": {
        100: (30.0, 83.8, 70.0),
        200: (30.0, 79.8, 57.5),
        300: (26.7, 75.6, 57.5),
        400: (33.3, 82.0, 67.5),
        500: (23.3, 79.8, 67.5),
    },
    "experiment 2": {
        **{50: (30.0, 85.4, 80.0), 100: (33.3, 85.6, 70.0), 150: (36.7, 85.4, 75.0), 200: (20.0, 80.0, 57.5)},
        **{250: (30.0, 82.6, 65.0), 300: (20.0, 82.4, 67.5), 350: (33.3, 81.4, 62.5), 400: (26.7, 82.2, 70.0)},
    },
    "experiment 3": {
        **{50: (46.7, 84.4, 72.5), 100: (30.0, 84.4, 70.0), 150: (43.3, 85.6, 75.0), 200: (23.3, 85.2, 77.5)},
        **{250: (33.3, 80.4, 60.0), 300: (26.7, 83.0, 70.0), 350: (23.3, 81.4, 70.0), 400: (30.0, 82.4, 67.5)},
    },
}
SIZES = (30, 500, 40)
TROUBLES: dict[str, dict[str, Any]] = {
    "drop": {"kind": "drop"},
    "spike": {"kind": "kl_spike"},
    "plateau": {"kind": "plateau", "reward_over": 100},
    "loops": {"kind": "looping"},
}
DRIFTS: tuple[dict[str, Any], ...] = (
    {"kind": "kl_spike"},
    {"kind": "language_drift"},
    {"kind": "rising", "metric": "training_length", "over": 100, "confidence": 0.99},
)


def open_rs_scores(experiment: str, which: int) -> Rows:
    """The published single-sample scores of one set, with the interval that one sample a problem gives."""
    found: Rows = []
    for step, scores in OPEN_RS[experiment].items():
        mean, size = scores[which] / 100, SIZES[which]
        half = 1.96 * np.sqrt(mean * (1 - mean) / (size - 1))
        found.append(
            {"step": step, "stage": 0, "validation/accuracy": mean, "validation/low": mean - half, "validation/high": mean + half}
        )
    return found


def open_rs_curves(draw: np.random.Generator) -> Rows:
    """Figures 4 and 5 as the text has them: KL unstable, languages mixed after 150 steps; lengths fall to 2,800, then rise."""
    return rows(
        draw,
        reward=((0, 0.5), (80, 0.62), (400, 0.60)),
        accuracy=((0, 0.29), (60, 0.33), (400, 0.28)),
        length=((0, 3300), (80, 2800), (150, 2700), (400, 3400)),
        clipped=((0, 0.3), (100, 0.2), (400, 0.45)),
        kl=((0, 0.001), (150, 0.02), (200, 0.03), (203, 0.5), (210, 0.05), (300, 0.04), (302, 0.6), (310, 0.06), (400, 0.06)),
        language=((0, 0.995), (160, 0.99), (220, 0.88), (400, 0.8)),
        steps=400,
        every=50,
        problems=30,
        samples=1,
        prompts=12,
        group=6,
    )


def quiet(draw: np.random.Generator) -> Rows:
    """Nothing happens, with the noise of a small validation."""
    level = draw.uniform(0.2, 0.6)
    flat = ((0, level), (1, level))
    return rows(
        draw, reward=flat, accuracy=flat, length=((0, 3000), (1, 3000)), clipped=((0, 0.05), (1, 0.05)), steps=500, every=20,
        problems=30, samples=8, prompts=128, group=8,
    )  # fmt: skip


def first(options: dict[str, Any], history: Rows) -> int | None:
    """The step after which a trigger first fires on a history."""
    trigger = load_part(Trigger, options)
    slow = options["kind"] in ("drop", "plateau", "lengthen")
    found = (
        i
        for i in range(1, len(history) + 1)
        if (not slow or "validation/accuracy" in history[i - 1]) and trigger.fires(history[:i])
    )
    return next((int(history[i - 1]["step"]) for i in found), None)


def switch(stage: int, history: Rows) -> int:
    """The step after which a stage of the DeepScaleR recipe ends: by its trigger, or by its number of steps."""
    made = load_recipe(RECIPE).stage[stage]
    at = first(dict(made.until or {}), history)
    return min(made.max_steps, history[-1]["step"] if at is None else at)


def said(name: str, steps: Sequence[int | None]) -> str:
    """A line: how often it fired, and when."""
    fired = [s for s in steps if s is not None]
    when = "never" if not fired else "at step {:.0f} (5 to 95 %: {:.0f} to {:.0f})".format(*np.quantile(fired, (0.5, 0.05, 0.95)))
    return f"{name}: fired in {len(fired)} of {len(steps)}, {when}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print what fires on every history, over seeds, or write it into docs/control.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--write", action="store_true", help="into docs/control.md")
    args = parser.parse_args(argv)
    lines = judged(range(args.seeds))
    print("\n".join(lines))
    if args.write:
        text = DOCS.read_text()
        before, after = text.partition(MARKS[0])[0], text.partition(MARKS[1])[2]
        block = "".join(f"- {line}\n" for line in lines)
        storage.replace_file(DOCS, (before + MARKS[0] + block + MARKS[1] + after).encode())
    return 0


def judged(seeds: Sequence[int]) -> list[str]:
    """A line for every history and trigger."""
    found = []
    draws = [lambda seed=seed: np.random.default_rng([7, seed]) for seed in seeds]
    until = dict(load_recipe(RECIPE).stage[0].until or {})
    for stage, history, published in ((0, deepscaler_8k, "1,040"), (1, deepscaler_16k, "480, 1,520 in all")):
        found.append(
            said(f"DeepScaleR stage {stage}, lengthen alone (published {published})", [first(until, history(d())) for d in draws])
        )
        found.append(said(f"DeepScaleR stage {stage}, its end by the recipe", [switch(stage, history(d())) for d in draws]))
    for trouble in TROUBLES:
        for name, options in TROUBLES.items():
            if name == trouble or name != "plateau":
                found.append(
                    said(
                        f"NVIDIA {trouble} from step 300, {options['kind']}",
                        [first(options, nvidia(d(), trouble)) for d in draws],
                    )
                )
    for experiment in OPEN_RS:
        for which, test in enumerate(("AIME24", "MATH-500", "AMC23")):
            at = first({"kind": "drop"}, open_rs_scores(experiment, which))
            found.append(f"Open-RS {experiment}, {test}: {'not distinguishable' if at is None else f'drop at step {at}'}")
    for options in DRIFTS:
        found.append(said(f"Open-RS figures 4-5, {options['kind']}", [first(options, open_rs_curves(d())) for d in draws]))
    counts: Counter[str] = Counter()
    for draw in draws:
        history = quiet(draw())
        for kind in ("drop", "kl_spike", "lengthen", "looping", "language_drift"):
            counts[kind] += first({"kind": kind} if kind != "lengthen" else until, history) is not None
    found.append(f"flat and noisy, {len(seeds)} runs of 500 steps: " + ", ".join(f"{k} {counts[k]}" for k in counts))
    return found


if __name__ == "__main__":
    main()
