"""Thousands of mixed rows, some hostile, through the command: see benchmarks/stress.py for what it checks."""

import subprocess
import sys
from pathlib import Path

import pytest

STRESS = Path(__file__).resolve().parents[1] / "benchmarks" / "stress.py"


@pytest.mark.full
def test_nothing_is_lost_wrong_or_left_behind() -> None:
    done = subprocess.run([sys.executable, str(STRESS), "--rows", "3000", "--hostile", "20"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3,000 verdicts, 20 of them on hostile rows" in done.stdout
