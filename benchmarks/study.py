"""Resumable experiments: `make study NAME=quickstart`. Finished parts are skipped; each part's result is kept at once.

NAME is `quickstart` or a recipe whose `[study]` names the arms. Results go into benchmarks/results/NAME.json, small enough to be
committed; the run folders stay under runs/.
"""

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean as mean
from typing import Any

from trouble import Troubled

from longthink import storage
from longthink.folder import tiny_folder
from longthink.machine import cpu_name
from longthink.quickstart import TEMPLATE as quickstart_template
from longthink.recipe import load_recipe, load_study
from longthink.stats import mean_interval
from longthink.sweep import area, study_cells, sweep
from longthink.tasks.countdown import CHARACTERS, WORDS, Countdown

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BESIDE = {"siri_mini": ("deepscaler_mini",), "signal_mini": ("deepscaler_mini",)}  # arms of the same settings and budget
BASE = {"siri_mini": "direct", "signal_mini": "direct", "cold_mini": "base_rl"}  # compared with, where it is not the first
EQUAL = ("cold_mini",)  # studies that also count the tokens until an arm is as accurate as this one is at its end
WARM = "runs/warm_{seed}"  # a warm start a seed, shared by the miniatures: their model.path begins with it

LETTERS = "runs/letters_{seed}"  # a random model a seed whose tokens are characters
COLD = "runs/cold_{seed}"  # what cold starts are made of
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}<think>"


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()}


def quickstart(path: Path) -> int:
    """The main job, its control and direct training, for seeds 0, 1 and 2."""
    results = json.loads(path.read_text())
    for seed in (0, 1, 2):
        out = Path("runs") / f"study_quickstart_{seed}"
        for job in ("main", "control", "direct"):
            name = f"{job}_{seed}"
            if name in results["parts"]:
                continue
            if job == "main" and out.exists():
                subprocess.run(["rm", "-rf", str(out)], check=True)
            subprocess.run(
                [sys.executable, "-m", "longthink.quickstart", job, "--seed", str(seed), "--out", str(out)], check=True
            )
            summary = json.loads((out / "summary.json").read_text())
            events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
            wanted = {
                "main": ("before", "after", "difference", "seconds", "generated_tokens", "windows", "cpu_seconds"),
                "control": ("control", "after_minus_control"),
                "direct": ("direct", "after_minus_direct"),
            }[job]
            results["parts"][name] = {key: summary[key] for key in wanted}
            if job == "main":
                results["parts"][name]["events"] = [[e["step"], e["rule"], e["action"]] for e in events]
            storage.replace_file(path, json.dumps(results, indent=1).encode())
    return 0


def study(path: Path) -> int:
    """The arms of a recipe's study, from warm starts that are made first where they are missing."""
    recipe = ROOT / "recipes" / f"{path.stem}.toml"
    settings = load_study(recipe)
    assert settings is not None
    for seed in range(settings.seeds):
        model = load_recipe(recipe, [f"seed={seed}"]).model.path
        if model.startswith(WARM.format(seed=seed)):
            _warm_start(Path(WARM.format(seed=seed)), seed)
        elif model.startswith(LETTERS.format(seed=seed)) and not Path(model).exists():
            tiny_folder(Path(model), CHARACTERS, seed=seed, template=TEMPLATE, characters=True)
        if path.stem == "cold_mini":
            _cold_start(Path(COLD.format(seed=seed)), seed)
    return sweep(recipe, study_cells(settings), settings.seeds, [], Path("runs") / path.stem, path, Troubled)


def _warm_start(out: Path, seed: int) -> None:
    """The quickstart's warm start, unless it is there; one that was interrupted is made again."""
    if (out / "warm_is_done").exists():
        return
    subprocess.run(["rm", "-rf", str(out)], check=True)
    subprocess.run([sys.executable, "-m", "longthink.quickstart", "warm", "--seed", str(seed), "--out", str(out)], check=True)
    (out / "warm_is_done").touch()


def _cold_start(out: Path, seed: int) -> None:
    """A random model, a stronger one to learn from, its verified responses, as many synthesised ones, and problems to test on."""
    if (out / "is_done").exists():
        return
    tiny_folder(Path(f"runs/words_{seed}/model"), WORDS, seed=seed, template=quickstart_template)
    _warm_start(Path(WARM.format(seed=seed)), seed)
    warm = f"{WARM.format(seed=seed)}/warm/checkpoints/step_000080"
    teacher = out / "teacher"
    asked = [f"model.path={warm}", f"seed={seed}", f"task.seed={seed}", "stage=[]", "rollout.window=192", "budget.max_steps=24"]
    longthink("train", str(ROOT / "recipes" / "countdown_grpo_cpu.toml"), teacher, [*asked, "checkpoint.every=24"])
    model = teacher / "checkpoints" / "step_000024"
    asked = [f"seed={seed}", f"source.0.generate.seed={1000 + seed}", f"step.0.model.path={model}"]
    longthink("curate", str(ROOT / "recipes" / "curation" / "cold_mini.toml"), out / "data", asked)
    kept = (out / "data" / "data" / "responses.train.jsonl").read_text().splitlines()
    storage.replace_file(out / "distilled.jsonl", "".join(line + "\n" for line in kept).encode())
    task, other = Countdown(seed=1000 + seed), Countdown(seed=seed)
    drawn = [(problem, task.trace(problem, 0)) for problem in (task.problem("train", i) for i in range(len(kept)))]
    sets = {"synthesised": drawn, **{s: [(other.problem(s, i), "") for i in range(256)] for s in ("validation", "test")}}
    for name, rows in sets.items():
        lines = [{"prompt": list(map(dict, p.prompt)), "answer": p.gold} | ({"response": r} if r else {}) for p, r in rows]
        storage.replace_file(out / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    (out / "is_done").touch()


def longthink(verb: str, recipe: str, out: Path, sets: list[str]) -> None:
    """Run a command of longthink, or go on with it. Raises: CalledProcessError."""
    given = [part for text in sets for part in ("--set", text)]
    more = ["--resume"] if verb == "train" and (out / "recipe.toml").exists() else []
    command = [sys.executable, "-m", "longthink.cli", verb, recipe, "--out", str(out), *given, *more]
    subprocess.run(command, check=True)


def tables() -> int:
    """Write the results of every miniature into docs/papers.md, between its marks."""
    path = ROOT / "docs" / "papers.md"
    text = path.read_text()
    for name in miniatures():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        if begin in text and (RESULTS / f"{name}.json").exists():
            before, after = text.partition(begin)[0], text.partition(end)[2]
            text = before + begin + table_of(name) + end + after
    storage.replace_file(path, text.encode())
    return 0


def miniatures() -> list[str]:
    """The recipes that can be studied here."""
    return [p.stem for p in sorted((ROOT / "recipes").glob("*_mini.toml"))]


def table_of(name: str) -> str:
    """A study's arms as a Markdown table: means over seeds, and the difference to the first arm with its interval."""
    parts: dict[str, Any] = {}
    for source in (name, *BESIDE.get(name, ())):
        path = RESULTS / f"{source}.json"
        found = json.loads(path.read_text())["parts"] if path.exists() else {}
        parts |= {part: facts for part, facts in found.items() if part not in parts}
    failed = Counter(part.rpartition("/seed_")[0] for part, facts in parts.items() if "failed" in facts)
    parts = {part: facts for part, facts in parts.items() if "failed" not in facts}
    if not parts:
        return "Not run yet.\n"
    arms = list(dict.fromkeys(part.rpartition("/seed_")[0] for part in parts))
    first = BASE.get(name, arms[0] if arms else "")
    study = load_study(ROOT / "recipes" / f"{name}.toml")
    samples = study.samples if study else 1
    steered = any(arm.endswith("_steered") for arm in arms)  # then each is compared with the arm that is left alone
    width = min(facts["curve"][-1][0] for facts in parts.values())
    minus = "minus left alone" if steered else f"minus {first}"
    columns = (
        "arm",
        "seeds",
        "accuracy",
        minus,
        "mean tokens",
        minus,
        "right / wrong",
        "truncated",
        "entropy",
        "area",
        "k tokens",
        "s",
        *(["k tokens to equal"] if name in EQUAL else []),
    )
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for arm in arms:
        base = arm.removesuffix("_steered") if steered else first
        runs = {part: facts for part, facts in parts.items() if part.rpartition("/seed_")[0] == arm}
        paired = [(facts, parts[at]) for part, facts in runs.items() if (at := f"{base}/seed_{part.rpartition('_')[2]}") in parts]
        more = {key: difference(key, paired, samples) if arm != base else "" for key in ("accuracy", "mean_tokens")}
        areas = [area(facts["curve"], width) or 0.0 for facts in runs.values()]
        rows = list(runs.values())
        cells = [
            f"`{arm}`",
            f"{len(rows)}" + (f", {failed[arm]} failed" if failed[arm] else ""),
            f"{100 * mean(r['accuracy'] for r in rows):.1f}",
            more["accuracy"],
            f"{mean(r['mean_tokens'] for r in rows):.0f}",
            more["mean_tokens"],
            f"{mean(r['right_tokens'] or 0.0 for r in rows):.0f} / {mean(r['wrong_tokens'] or 0.0 for r in rows):.0f}",
            f"{100 * mean(r['truncated'] for r in rows):.0f} %",
            f"{mean(r['entropy']['first'] for r in rows):.2f} to {mean(r['entropy']['last'] for r in rows):.2f}",
            f"{100 * mean(areas):.1f}",
            f"{mean(r['generated_tokens'] for r in rows) / 1000:.0f}",
            f"{mean(r['seconds'] for r in rows):.0f}",
        ]
        if name in EQUAL:
            beside = {part: parts.get(f"{first}/seed_{part.rpartition('_')[2]}") for part in runs}
            cells.append(to_equal([(runs[part]["curve"], other["curve"]) for part, other in beside.items() if other]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def to_equal(curves: list[tuple[list[list[float]], list[list[float]]]]) -> str:
    """Thousands of tokens until a run is as accurate as another of its seed is at its end, lowest to highest over seeds.

    Accuracy is the mean of the last three validations on both sides, or as many as there are.
    """

    def smooth(curve: list[list[float]]) -> list[float]:
        return [mean(point[1] for point in curve[max(0, i - 2) : i + 1]) for i in range(len(curve))]

    found = []
    for ours, theirs in curves:
        goal = smooth(theirs)[-1]
        found += [point[0] / 1000 for point, accuracy in zip(ours, smooth(ours), strict=True) if accuracy >= goal][:1]
    reached = f"{min(found):.0f} to {max(found):.0f}" if found else "never"
    return reached if len(found) in (0, len(curves)) else f"{reached}, {len(found)} of {len(curves)} seeds"


def difference(key: str, paired: list[tuple[dict[str, Any], dict[str, Any]]], samples: int) -> str:
    """The mean difference of pairs of runs of one seed, with a 95 % t-interval over seeds; points for accuracy.

    Accuracy has a second interval: over the test problems of these seeds, paired by problem, as if there were no other seeds.
    """
    if len(paired) < 2:
        return ""
    factor = 100 if key == "accuracy" else 1
    found = mean_interval([[factor * (ours[key] - theirs[key])] for ours, theirs in paired])
    text = f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
    if key != "accuracy":
        return text
    each = [[100 * (a - b) / samples] for ours, theirs in paired for a, b in zip(ours["right"], theirs["right"], strict=True)]
    over = mean_interval(each)
    return f"{text}; problems [{over.low:+.1f}, {over.high:+.1f}]"


def main() -> int:
    """Run one study to its end, or write the tables of all."""
    if sys.argv[1:] == ["tables"]:
        return tables()
    known = ["quickstart", *miniatures()]
    if len(sys.argv) != 2 or sys.argv[1] not in known:
        print(f"study: name one of {', '.join(known)} (make study NAME=quickstart)", file=sys.stderr)
        return 2
    name = sys.argv[1]
    path = RESULTS / f"{name}.json"
    if not path.exists():
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        fresh = {"command": f"make study NAME={name}", "commit": commit, "machine": machine(), "parts": {}}
        storage.replace_file(path, json.dumps(fresh, indent=1).encode())
    status = quickstart(path) if name == "quickstart" else study(path)
    print(f"{name}: {len(json.loads(path.read_text())['parts'])} parts in {path}")
    return status


if __name__ == "__main__":
    sys.exit(main())
