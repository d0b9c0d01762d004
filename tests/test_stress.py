"""What benchmarks/stress.py and benchmarks/pathological.py check, in small."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.full
def test_nothing_is_lost_wrong_or_left_behind() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "stress.py"), "--rows", "3000", "--hostile", "20"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3,000 verdicts, 20 of them on hostile rows" in done.stdout


@pytest.mark.full
def test_answers_made_to_hang_are_survived() -> None:
    command = [sys.executable, str(BENCHMARKS / "pathological.py"), "--deadline", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "636 verdicts" in done.stdout and "0 failures" in done.stdout
