"""Training with vLLM in a process of its own and a learner cut over two ranks: the same log-probs on both sides at every step."""

import json
from pathlib import Path
from typing import Any

import pytest

from longthink.recipe import Recipe, parse_recipe
from longthink.train import train

pytestmark = pytest.mark.cluster


def recipe(model: Path, **changes: Any) -> Recipe:
    table: dict[str, Any] = {
        "name": "vllm",
        "model": {"path": str(model), "dtype": "float32"},
        "cluster": {"learners": 2, "threads": 1, "shard": True, "samplers": 1},
        "engine": {"kind": "vllm", "max_rows": 32, "cache_gb": 1.0},
        "task": {"kind": "countdown", "count": 2, "high": 6, "min_target": 2, "seed": 1},
        "reward": {"kind": "countdown"},
        "workers": 1,
        "rollout": {"prompts": 4, "group_size": 4, "window": 48},
        "loss": {"kl": 0.01},
        "learner": {"lr": 1e-3},
        "validation": {"every": 2, "problems": 2, "samples": 4, "window": 48},
        "budget": {"max_steps": 4},
        "checkpoint": {"every": 2},
    }
    return parse_recipe(table | changes, "vllm")


def rows_of(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def test_four_steps_and_again(warm_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    for name in ("once", "again"):
        assert train(recipe(warm_folder), tmp_path / name).complete
    rows = rows_of(tmp_path / "once")
    assert [r["step"] for r in rows] == [0, 1, 2, 3, 4] and rows[-1]["policy_version"] == 3
    learnt = [r for r in rows[1:] if "mismatch/logprob_gap/max" in r]
    assert len(learnt) >= 3 and max(r["mismatch/logprob_gap/max"] for r in learnt) < 1e-5
    assert rows_of(tmp_path / "again") == rows


def test_calls_of_a_tool(tool_folder: Path, tmp_path: Path) -> None:
    """Rollouts that vLLM draws call the interpreter and go on; learner and sampler agree on the tokens behind its output."""
    pytest.importorskip("vllm")
    few = str(tool_folder / "few.jsonl")
    changes = {
        "task": {"kind": "file", "train": few, "validation": few},
        "reward": {"kind": "countdown", "think": "template"},
        "tool": {"format": "tags", "call_s": 0.5, "patience_s": 0.2},
        "rollout": {"prompts": 4, "group_size": 8, "window": 48},
        "budget": {"max_steps": 2},
    }
    assert train(recipe(tool_folder, **changes), tmp_path / "run").complete
    rows = rows_of(tmp_path / "run")[1:]
    assert all(row["tool/calls/mean"] > 0.5 and 0.0 < row["tool/error_share"] < 1.0 for row in rows)
    assert max(row["mismatch/logprob_gap/max"] for row in rows if "mismatch/logprob_gap/max" in row) < 1e-5
    told = [json.loads(line) for line in (tmp_path / "run" / "rollouts" / "step_000001.jsonl").read_text().splitlines()]
    assert {row["finish_reason"] for row in told} <= {"stop", "length"}
    for row in told:
        spans = row.get("sources", [])
        assert sum(count for _, count in spans) in (0, len(row["response_ids"]))
        assert [source for source, _ in spans if source == "tool"] == ["tool"] * len(row.get("calls", []))
