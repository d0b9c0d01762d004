"""Resumable experiments: `make study NAME=quickstart`. Finished parts are skipped; each part's result is kept at once.

NAME is `quickstart` or a recipe whose `[study]` names the arms. Results go into benchmarks/results/NAME.json, small enough to be
committed; the run folders stay under runs/.
"""

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from trouble import Troubled

from longthink import storage
from longthink.recipe import load_recipe, load_study
from longthink.sweep import study_cells, sweep

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WARM = "runs/warm_{seed}"  # a warm start a seed, shared by the miniatures: their model.path begins with it


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {"cpu": models[0] if models else platform.processor(), "cores": len(models), "python": platform.python_version()}


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
    if load_recipe(recipe).model.path.startswith(WARM):
        for seed in range(settings.seeds):
            _warm_start(Path(WARM.format(seed=seed)), seed)
    return sweep(recipe, study_cells(settings), settings.seeds, [], Path("runs") / path.stem, path, Troubled)


def _warm_start(out: Path, seed: int) -> None:
    """The quickstart's warm start, unless it is there; one that was interrupted is made again."""
    if (out / "warm_is_done").exists():
        return
    subprocess.run(["rm", "-rf", str(out)], check=True)
    subprocess.run([sys.executable, "-m", "longthink.quickstart", "warm", "--seed", str(seed), "--out", str(out)], check=True)
    (out / "warm_is_done").touch()


def main() -> int:
    """Run one study to its end."""
    known = ["quickstart", *(p.stem for p in sorted((ROOT / "recipes").glob("*_mini.toml")))]
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
