"""Where a step's time goes, and what the simulation of the loop says of it: `make scaling`.

Three parts, each kept in benchmarks/results/scaling.json as it ends and skipped when it is there: `modes` measures a step by
phase for each way to place the quickstart's reinforcement learning on this machine; `runs` measures the CPU seconds of sampler
and learner in small runs; `tables` fits the simulation's costs to some of those runs and predicts the others from their response
lengths alone, then sets its predictions for GPUs beside what others have published, and draws DeepScaleR's stages.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from study import RESULTS, ROOT, WARM, _warm_start, machine

from longthink import storage
from longthink.machine import resolve
from longthink.planning.hardware import Hardware, shape_of
from longthink.planning.plan import Lengths, plan, stage_plan
from longthink.planning.simulate import Costs, Load, simulate
from longthink.recipe import Recipe, load_recipe
from longthink.settings import Settings
from longthink.train import Training

PATH, PICTURE, PAGE = RESULTS / "scaling.json", RESULTS / "scaling.svg", RESULTS / "scaling.md"
RECIPE = ROOT / "recipes" / "cluster_mini.toml"
PLAIN = ["seed=0", "stage=[]", "validation.every=0", "checkpoint.every=100", "reference.replace_every=0"]
AHEAD = ["rollout.staleness=1", "loss.old_logprobs=learner", "loss.correction=truncate"]
VLLM = ["cluster.learners=1", "cluster.samplers=1", "engine.kind=vllm"]
MODES = {
    "embedded, two replicas": [],
    "embedded, two sharded ranks": ["cluster.learners=2", "cluster.shard=true"],
    "embedded sampler beside a learner": ["cluster.learners=1", "cluster.samplers=1"],
    "the same, one step ahead": ["cluster.learners=1", "cluster.samplers=1", *AHEAD],
    "vLLM beside a learner": VLLM,
    "the same, one step ahead, vLLM": [*VLLM, *AHEAD],
}
STEPS = 8  # of a run; the first two are warm-up
# (prompts, group size, window): the runs that costs are fitted to, and those that are predicted
FITTED = ((16, 16, 64), (8, 16, 160), (16, 8, 256), (16, 16, 192), (4, 16, 96))
HELD_OUT = ((16, 16, 96), (8, 16, 224), (12, 16, 128), (16, 12, 160), (8, 8, 256))


class Measured(Training):
    """A training that notes CPU seconds of learner and sampler, and the lengths, of each step."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        super().__init__(recipe, folder, resume=False, parent=None)
        self.seen: list[dict[str, Any]] = []

    def train_step(self, step: int, settings: Settings) -> dict[str, Any]:
        before = self._cpu()
        row = super().train_step(step, settings)
        spent = [b - a for a, b in zip(before, self._cpu(), strict=True)]
        rollouts = self.run.rollouts(step)
        lengths = [len(r["response_ids"]) for r in rollouts]
        prompt = sum(len(r["prompt_ids"]) for r in rollouts) / len(rollouts)
        self.seen.append({"update": spent[0], "rollout": spent[1], "lengths": lengths, "prompt": round(prompt)})
        return row

    def _cpu(self) -> tuple[float, float]:
        cluster = self.cluster
        return sum(cluster._all(cluster.ranks, "cpu_seconds")), sum(cluster._all(cluster.samplers, "cpu_seconds"))


def run(sets: list[str], kind: type[Training] | None = None) -> Any:
    """A short run of the study's recipe; its training, closed."""
    folder = Path("runs") / "scaling"
    shutil.rmtree(folder, ignore_errors=True)
    path = f"model.path={WARM.format(seed=0)}/warm/checkpoints/step_000080"
    recipe = resolve(load_recipe(RECIPE, [*PLAIN, path, f"budget.max_steps={STEPS}", *sets]))
    training = Measured(recipe, folder) if kind is Measured else Training(recipe, folder, resume=False, parent=None)
    with training:
        training.loop()
    return training


def modes(kept: dict[str, Any]) -> None:
    """Seconds of a step by phase: medians over the steps after the warm-up."""
    for name, sets in MODES.items():
        if name not in kept["modes"]:
            rows = run(["rollout.window=96", *sets]).run.rows[3:]
            phases = {phase: median(r[f"time/{phase}_s"] for r in rows) for phase in ("rollout", "update", "step")}
            kept["modes"][name] = {phase: round(seconds, 3) for phase, seconds in phases.items()}
            save(kept)


def runs(kept: dict[str, Any]) -> None:
    """CPU seconds and lengths of small runs, a learner and an embedded sampler in processes of their own."""
    for prompts, group, window in (*FITTED, *HELD_OUT):
        name = f"{prompts}x{group} at {window}"
        if name not in kept["runs"]:
            shape = [f"rollout.prompts={prompts}", f"rollout.group_size={group}", f"rollout.window={window}"]
            minibatch = [f"learner.minibatch_prompts={prompts // 2}"]
            training = run(["cluster.learners=1", "cluster.samplers=1", *shape, *minibatch], Measured)
            kept["runs"][name] = [{**s, "group": group} for s in training.seen[2:]]
            save(kept)


def save(kept: dict[str, Any]) -> None:
    storage.replace_file(PATH, json.dumps(kept).encode())


# -- the simulation against the runs ----------------------------------------------------------------------------------


def features(step: dict[str, Any]) -> tuple[list[float], list[float]]:
    """What a step's sampler and learner seconds are linear in: the simulation's times for each cost alone, and 1."""
    load, rows = Load(step["lengths"], step["group"], step["prompt"]), 256

    def alone(**cost: float) -> Any:
        names = ("pass_s", "row_s", "context_s", "prefill_s", "logprob_s", "update_s", "square_s", "step_s", "sync_s")
        (time,) = simulate([load], Costs(**{name: cost.get(name, 0.0) for name in names}), samplers=1, rows=rows)
        return time

    sampler = [alone(**{name: 1.0}).rollout for name in ("pass_s", "row_s", "context_s")]
    learner = [alone(update_s=1.0).update, alone(square_s=1.0).update]
    return [*sampler, 1.0], [*learner, 1.0]


def fit(steps: list[dict[str, Any]], phase: int) -> np.ndarray:
    """Costs of a phase, none negative, that make the relative errors of these steps small."""
    rows = np.array([features(s)[phase] for s in steps])
    seconds = np.array([s[("rollout", "update")[phase]] for s in steps])
    rows = rows / seconds[:, None]
    active = list(range(rows.shape[1]))
    while True:
        found = np.linalg.lstsq(rows[:, active], np.ones(len(rows)), rcond=None)[0]
        if (found >= 0).all():
            break
        active.pop(int(found.argmin()))
    costs = np.zeros(rows.shape[1])
    costs[active] = found
    return costs


def validation(kept: dict[str, Any]) -> list[str]:
    """Predicted over measured CPU seconds of the runs that were held out, by phase."""
    names = [[f"{p}x{g} at {w}" for p, g, w in which] for which in (FITTED, HELD_OUT)]
    fitted = [step for name in names[0] for step in kept["runs"][name]]
    lines = [
        "| run | rollouts: predicted / measured s | ratio | update: predicted / measured s | ratio |",
        "|---|---|---|---|---|",
    ]
    ratios: list[list[float]] = [[], []]
    costs = [fit(fitted, phase) for phase in (0, 1)]
    for name in names[1]:
        cells = []
        for phase, key in enumerate(("rollout", "update")):
            steps = kept["runs"][name]
            predicted = sum(float(np.dot(features(s)[phase], costs[phase])) for s in steps) / len(steps)
            measured = sum(s[key] for s in steps) / len(steps)
            ratios[phase].append(predicted / measured)
            cells += [f"{predicted:.2f} / {measured:.2f}", f"{predicted / measured:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append(f"| median of {len(names[1])} | | {median(ratios[0]):.2f} | | {median(ratios[1]):.2f} |")
    return lines


# -- predictions for GPUs ---------------------------------------------------------------------------------------------

# What was published, and what is assumed where it says nothing: lengths above all.
DIRECT = "responses of the untrained model: 42 % beyond 8K and a mean of about 5,500 under that cap fit a median of 7,000"
VERL = "lengths are not published; a median of 500 (mean 690): an update of 270 s on 16 GPUs leaves no room for much more"


def published() -> list[str]:
    """Step times and costs that others have published beside what the plan says of the same settings."""
    rows: list[tuple[str, float, float, str]] = []
    before = ["loss.old_logprobs=learner"]  # their code computes the policy's log-probs again before the update
    deepscaler = ROOT / "recipes" / "deepscaler_1.5b.toml"
    (direct,) = plan(load_recipe(deepscaler, before, "direct_24k"), Hardware.of("2x8xA100"), Lengths.of("7000:0.8"))
    rows.append(("DeepScaleR, direct 24K, 16 A100: s a step", direct.step, 1300.0, DIRECT))
    hours = 0.0
    staged = load_recipe(deepscaler, before)
    for index, (on, length) in enumerate((("8xA100", "4000:0.8"), ("4x8xA100", "4500:0.8"), ("4x8xA100", "5000:0.8"))):
        stage = plan(staged, Hardware.of(on), Lengths.of(length))[index]
        hours += stage.steps * stage.step * Hardware.of(on).gpus / 3600
    rows.append(("DeepScaleR, three stages: A100 hours", hours, 3800.0, "medians of 4,000, 4,500 and 5,000 in the stages"))
    whole = direct.step * 1770 * 16 / 3600
    rows.append(("1,770 steps at 24K over the stages", whole / hours, 2.6, "the direct run's lengths throughout"))
    (open_rs,) = plan(load_recipe(ROOT / "recipes" / "open_rs_1.5b.toml"), Hardware.of("4xA40"), Lengths.of("7000:0.8"))
    rows.append(
        ("Open-RS, 500 steps on 4 A40: hours", open_rs.steps * open_rs.step / 3600, 24.0, "one of four GPUs sampled there")
    )
    for gpus, machines, step, gen, update in (
        (32, 4, 790.1, 357.4, 313.8),
        (64, 8, 365.3, 150.7, 133.4),
        (128, 16, 356.3, 177.9, 113.8),
    ):
        sync = verl(machines, 0)
        rows += [
            (f"verl, 7B at 28K, {gpus} H20: s a step", sync.step, step, VERL),
            (f"… its rollouts, {gpus} H20", sync.rollout, gen, VERL),
            (f"… its update, {gpus} H20", sync.update, update, VERL),
        ]
    rows.append(("verl, asynchronous, 16 + 16 H20: s for 512 prompts", verl(4, 1).step, 294.8, VERL))
    lines = ["| | predicted | published | ratio | assumed |", "|---|---|---|---|---|"]
    return lines + [f"| {name} | {p:,.1f} | {q:,.1f} | {p / q:.2f} | {why} |" for name, p, q, why in rows]


def verl(machines: int, staleness: int) -> Any:
    """verl's DAPO at 7B and 28K: 512 prompts of 16 responses, updates of 32 prompts; old log-probs only where synchronous."""
    sets = ["rollout.prompts=512", "rollout.group_size=16", "rollout.window=28672", "rollout.max_prompt_tokens=2048", "loss.kl=0"]
    sets += [
        "learner.minibatch_prompts=32",
        "learner.checkpoint_layers=true",
        f"loss.old_logprobs={'learner' if not staleness else 'sampler'}",
    ]
    sets += [f"rollout.staleness={staleness}", "cluster.samplers=1", "stage=[]", "engine.kind=vllm", "engine.max_rows=1024"]
    made = load_recipe(ROOT / "recipes" / "deepscaler_1.5b.toml", sets)
    hardware = Hardware.of(f"{machines}x8xH20")
    return stage_plan(made, 400, shape_of("Qwen2.5-7B"), hardware, Lengths.of("500:0.8"))


def stages() -> list[tuple[str, int, float, float]]:
    """DeepScaleR's stages on 8, 32 and 1,024 A100: window, GPUs, hours synchronous and one step ahead."""
    found = []
    for on in ("8xA100", "4x8xA100", "128x8xA100"):
        hardware = Hardware.of(on)
        ahead = ["rollout.staleness=1", "cluster.samplers=1", "loss.old_logprobs=learner", "loss.correction=truncate"]
        both = [
            plan(load_recipe(ROOT / "recipes" / "deepscaler_1.5b.toml", sets), hardware, Lengths.of("4500:0.8"))
            for sets in (["loss.old_logprobs=learner"], ahead)
        ]
        for a, b in zip(*both, strict=True):
            found.append((f"{a.window // 1024}K", hardware.gpus, a.steps * a.step / 3600, b.steps * b.step / 3600))
    return found


def draw(found: list[tuple[str, int, float, float]]) -> None:
    """Hours of each stage, stacked, for each number of GPUs, synchronous beside ahead."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "longthink"
    figure, axes = plt.subplots(figsize=(7, 3.4))
    sizes = sorted({gpus for _, gpus, _, _ in found})
    windows = list(dict.fromkeys(window for window, *_ in found))
    for place, gpus in enumerate(sizes):
        for offset, which in ((-0.2, 2), (0.2, 3)):
            bottom = 0.0
            for window, color in zip(windows, ("#9ecae1", "#4292c6", "#084594"), strict=True):
                height = next(row[which] for row in found if row[:2] == (window, gpus))
                axes.bar(
                    place + offset, height, 0.36, bottom=bottom, color=color, label=window if (place, which) == (0, 2) else None
                )
                bottom += height
            axes.text(
                place + offset,
                bottom,
                f"{bottom:,.0f} h\n{'in turn' if which == 2 else 'ahead'}",
                ha="center",
                va="bottom",
                fontsize=7,
            )
    axes.set_xticks(range(len(sizes)), [f"{gpus} A100" for gpus in sizes])
    axes.set_ylabel("hours")
    axes.set_ylim(0, 450)
    axes.legend(title="window", frameon=False)
    axes.set_title("DeepScaleR's 1,770 steps, as the simulation has them", fontsize=10)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


def tables(kept: dict[str, Any]) -> str:
    """The page."""
    head = kept["modes"]["embedded, two replicas"]["step"]
    by_mode = ["| placed | rollouts s | update s | step s | steps of the first |", "|---|---|---|---|---|"]
    by_mode += [
        f"| {name} | {m['rollout']:.2f} | {m['update']:.2f} | {m['step']:.2f} | {m['step'] / head:.2f} |"
        for name, m in kept["modes"].items()
    ]
    drawn = [
        "| GPUs | window | hours, one after the other | hours, one step ahead | ahead is faster by |",
        "|---|---|---|---|---|",
    ]
    found = stages()
    drawn += [f"| {gpus} | {window} | {a:,.1f} | {b:,.1f} | {a / b:.2f} |" for window, gpus, a, b in found]
    draw(found)
    where = f"{kept['machine']['cpu']}, {kept['machine']['cores']} cores; commit {kept['commit']}"
    return "\n".join(
        [
            "# Where a step's time goes",
            "",
            f"`make scaling`; {where}. Nothing here is of a GPU that was at hand: figures for GPUs are the simulation's.",
            "",
            "## Measured: the quickstart's reinforcement learning by phase",
            "",
            "16 prompts of 16 rollouts at a window of 96; medians of six steps, one run each; rollouts: what the learner waits.",
            "",
            *by_mode,
            "",
            "## The simulation against CPU seconds",
            "",
            "Costs fitted to five runs of other sizes; five runs predicted from their response lengths alone.",
            "",
            *validation(kept),
            "",
            "## Predicted beside published",
            "",
            "From longthink/planning/devices.toml. Sources: the papers; verl's docs/advance/fully_async.md.",
            "",
            *published(),
            "",
            "## DeepScaleR's stages on 8, 32 and 1,024 GPUs",
            "",
            "128 prompts of 16 responses cannot fill 1,024 GPUs: a step lasts as long as its longest response there. One step "
            "ahead, half of the GPUs sample and half train.",
            "",
            *drawn,
            "",
            "![hours by stage](scaling.svg)",
            "",
        ]
    )


def main() -> int:
    """Measure what is missing, then write the page."""
    _warm_start(Path(WARM.format(seed=0)), 0)
    if not PATH.exists():
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        save({"command": "make scaling", "commit": commit, "machine": machine(), "modes": {}, "runs": {}})
    kept = json.loads(PATH.read_text())
    modes(kept)
    runs(kept)
    storage.replace_file(PAGE, tables(kept).encode())
    print(PAGE.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
