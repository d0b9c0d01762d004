"""Draws the curves of docs/papers.md from the functions that training uses. Usage: make figures."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longthink.schedules import kl_coefficient, learning_rate, window_at
from longthink.shaping.base import Outcome
from longthink.shaping.cosine import Cosine
from longthink.shaping.length import Length
from longthink.shaping.overlong import Overlong
from longthink.tables import CycleSettings, LearnerSettings

OUT = Path(__file__).resolve().parents[1] / "docs" / "figures"
COLD = OUT.parents[1] / "benchmarks" / "results" / "cold_mini.json"
RIGHT, WRONG, GREY = "#2b6cb0", "#c05621", "#718096"
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25}


def outcome(score: float, tokens: int, window: int, characters: int = 0) -> Outcome:
    return Outcome(score, tokens, characters, window, tokens >= window)


def cosine(axes: Axes) -> None:
    lengths = range(0, 10_753, 16)
    paper, script = Cosine(max_length=3584), Cosine(max_length=3584, wrong_short=0.0, unit="characters", clamp=False)
    for score, colour, name in ((1.0, RIGHT, "right"), (0.0, WRONG, "wrong")):
        axes.plot(
            lengths, [paper.values([outcome(score, n, 1 << 20)])[0] for n in lengths], color=colour, label=f"{name}, as meant"
        )
        swing = [script.values([outcome(score, 0, 1 << 20, n)])[0] for n in lengths]
        axes.plot(lengths, swing, color=colour, ls="--", lw=1, label=f"{name}, the script (characters)")
    axes.axvline(3584, color=GREY, lw=0.8)
    axes.set(xlabel="length (tokens; the script counts characters)", ylabel="reward", ylim=(-1.15, 1.15))


def length(axes: Axes) -> None:
    tokens = range(0, 20_481, 64)
    for score, colour, name in ((1.0, RIGHT, "right"), (-1.0, WRONG, "wrong")):
        values = [score + Length().values([outcome(1.0, n, 20_480)])[0] for n in tokens]
        axes.plot(tokens, values, color=colour, label=f"RRL, {name}")
    dapo = [Overlong(buffer=4096).values([outcome(1.0, n, 20_480)])[0] for n in tokens]
    axes.plot(tokens, dapo, color=GREY, label="DAPO's overlong penalty")
    axes.set(xlabel="tokens, in a window of 20,480", ylabel="reward")


def actions(axes: Axes) -> None:
    from longthink.rewards.actions import Actions

    counts = range(41)
    for score, colour, name in ((1.0, RIGHT, "right"), (-1.0, WRONG, "wrong")):
        axes.plot(counts, [score + Actions().score("wait " * n) for n in counts], color=colour, label=f"RRA, {name}")
    axes.set(xlabel="action words in the response", ylabel="reward")


def schedules(axes: Axes) -> None:
    steps = range(1281)
    for shape, style, colour in (("stair", "-", GREY), ("cosine", "-", RIGHT), ("stair_cosine", "--", WRONG)):
        cycle = CycleSettings(shape=shape, low=8192, high=16384, period=640)  # type: ignore[arg-type]
        axes.plot(steps, [window_at(t, cycle) for t in steps], style, color=colour, label=shape.replace("_", "-"))
    axes.set(xlabel="step", ylabel="window (tokens)", ylim=(7500, 17000))


def weights(axes: Axes) -> None:
    updates = range(601)
    axes.plot(updates, [1e3 * kl_coefficient(u, 1e-3, "cosine", 500) for u in updates], color=RIGHT, label="KL, STILL-3 (1e-3)")
    rates = LearnerSettings(lr=1e-6, schedule="cosine", warmup_updates=50, total_updates=500, floor=0.1)
    axes.plot(updates, [1e6 * learning_rate(u, rates) for u in updates], color=WRONG, label="learning rate, Open-RS (1e-6)")
    axes.axhline(1.0, color=GREY, lw=0.8, label="constant")
    axes.set(xlabel="update", ylabel="share of its start")


def cold_starts(axes: Axes) -> None:
    """Reinforcement learning from each start, as STILL-3's figure 5: means over seeds of the validations of each step."""
    parts = json.loads(COLD.read_text())["parts"]
    for start, colour in (("base", GREY), ("synthesised", WRONG), ("distilled", RIGHT)):
        curves = [facts["curve"] for part, facts in parts.items() if part.startswith(f"{start}_rl/") and "failed" not in facts]
        tokens, accuracy, length = ([fmean(values) for values in zip(*column, strict=True)] for column in columns(curves))
        label = f"{'none' if start == 'base' else start}: {length[0]:.0f} to {length[-1]:.0f} tokens long"
        axes.plot([n / 1000 for n in tokens], [100 * a for a in accuracy], color=colour, marker=".", label=label)
    axes.set(xlabel="tokens of reinforcement learning (thousands)", ylabel="accuracy (%)")


def columns(curves: list[list[list[float]]]) -> list[list[list[float]]]:
    """Of curves of [tokens, accuracy, length]: each of the three, by curve."""
    return [[[point[i] for point in curve] for curve in curves] for i in range(3)]


FIGURES: dict[str, Callable[[Axes], None]] = {
    "cosine_reward": cosine,
    "length_rewards": length,
    "action_reward": actions,
    "window_cycles": schedules,
    "annealing": weights,
    "cold_starts": cold_starts,
}


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        with rc_context({**STYLE, "svg.hashsalt": name, "svg.fonttype": "none"}):
            figure = Figure(figsize=(6.4, 2.9), layout="constrained")
            axes = figure.add_subplot()
            draw(axes)
            axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.0, 1.2), ncols=2)
            figure.savefig(OUT / f"{name}.svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")), facecolor="white")
    print(f"{len(FIGURES)} figures in {OUT}")


if __name__ == "__main__":
    main()
