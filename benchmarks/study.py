"""Resumable experiments: `make study NAME=quickstart`. Finished parts are skipped; each part's result is kept at once.

Results go into benchmarks/results/NAME.json, small enough to be committed; the run folders stay under runs/.
"""

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {"cpu": models[0] if models else platform.processor(), "cores": len(models), "python": platform.python_version()}


def quickstart(results: dict[str, Any], save: Callable[[], None]) -> None:
    """The main job, its control and direct training, for seeds 0, 1 and 2."""
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
            save()


STUDIES = {"quickstart": quickstart}


def main() -> int:
    """Run one study to its end."""
    if len(sys.argv) != 2 or sys.argv[1] not in STUDIES:
        print(f"study: name one of {', '.join(STUDIES)} (make study NAME=quickstart)", file=sys.stderr)
        return 2
    name = sys.argv[1]
    path = RESULTS / f"{name}.json"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    fresh = {"command": f"make study NAME={name}", "commit": commit, "machine": machine(), "parts": {}}
    results = json.loads(path.read_text()) if path.exists() else fresh

    def save() -> None:
        RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(results, indent=1))

    STUDIES[name](results, save)
    print(f"{name}: {len(results['parts'])} parts in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
