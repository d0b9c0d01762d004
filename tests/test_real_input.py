"""The DeepScaleR recipe on real rows with a small Qwen2: two steps that learn, and two benchmark files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import random_qwen2

from longthink.cli import main
from longthink.folder import ModelFolder, write_weights
from longthink.learners.local import LocalLearner
from longthink.part import load_part
from longthink.tables import LearnerSettings, LossSettings
from longthink.tasks.base import Task
from longthink.types import Batch, Group, Problem, Rollout, RolloutId, Sampling, Segment, Verdict

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
SUFFIX = "Let's think step by step and output the final answer within \\boxed{}."
OWN_ROWS = [
    {"problem": "A box holds 12 red and 9 blue marbles. How many marbles are in it?", "answer": "21"},
    {"problem": "What is the sum of the first five odd numbers?", "answer": "25"},
    {"problem": "A triangle has sides 6, 8 and 10. What is its area?", "answer": "24"},
    {"problem": "How many two-digit multiples of 15 are there?", "answer": "6"},
]


def rows_file(folder: Path, source: str) -> Path:
    """Four problems: real ones as verl stores them, or self-written ones."""
    if source == "own":
        path = folder / "rows.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in OWN_ROWS))
        return path
    parquet = SHARED / "math_train" / "oneshot_dsr_sub.parquet"
    if not parquet.is_file():
        pytest.skip("no local copy of the real rows")
    import pyarrow.parquet as pq

    table = pq.read_table(parquet)
    short = sorted(range(len(table)), key=lambda i: len(table["prompt"][i].as_py()[0]["content"]))[:4]
    pq.write_table(table.take(short), folder / "rows.parquet")
    return folder / "rows.parquet"


def response(model: ModelFolder, problem: Problem, answer: Any) -> Rollout:
    text = f"So it is so.\n</think>\n\\boxed{{{answer}}}"
    ids = np.append(model.tokenizer.encode(text), min(model.tokenizer.stop_ids))
    return Rollout(
        RolloutId(0, 0), problem, model.tokenizer.prompt_ids(problem), (Segment("policy", ids),), "stop", Sampling(), len(ids)
    )


def warmed(folder: Path, rows: Path) -> Path:
    """A random Qwen2 taught a right and a wrong answer to each row, so that its groups are mixed."""
    task = load_part(Task, {"kind": "file", "train": str(rows), "shuffle": False, "prompt_suffix": SUFFIX})
    problems = [task.problem("train", i) for i in range(4)]
    random_qwen2(folder, [p.prompt[-1]["content"] for p in problems], seed=0)
    model = ModelFolder(folder)
    learner = LocalLearner(
        model.decoder(), LearnerSettings(lr=5e-3, betas=(0.9, 0.95), microbatch_tokens=4096), dtype=torch.float32
    )
    groups = [
        Group(p, (response(model, p, p.gold), response(model, p, 7)), (Verdict(1.0, "ok"),) * 2, (1.0, 0.0)) for p in problems
    ]
    batch = Batch.of(groups)
    for _ in range(80):
        found = learner.update(batch, LossSettings(kind="nll"), 1.0).means()
    assert found["policy/sampled_nll/mean"] < 0.3
    write_weights(folder, learner.decoder.state_dict())
    return folder


@pytest.mark.parametrize("source", ["real", "own"])
def test_two_steps_of_the_deepscaler_recipe(tmp_path: Path, source: str) -> None:
    rows = rows_file(tmp_path, source)
    model = warmed(tmp_path / "model", rows)
    shrunk = [
        f"model.path={model}",
        "model.device=cpu",
        "model.dtype=float32",
        "cluster.learners=1",
        "cluster.threads=1",
        f"task.train={rows}",
        "rollout.prompts=4",
        "learner.minibatch_prompts=2",
        "rollout.window=48",
        "stage=[]",
        "loss.kl=0.0",
        "loss.entropy=0.0",
        "validation.every=0",
        "budget.max_steps=2",
    ]
    sets = [argument for text in shrunk for argument in ("--set", text)]
    recipe = str(ROOT / "recipes" / "deepscaler_1.5b.toml")
    assert main(["train", recipe, "--out", str(tmp_path / "run"), *sets]) == 0
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [0, 1, 2]
    for row in metrics[1:]:
        assert row["group/constant_share"] < 1 and 0 < row["reward/mean"] < 1
        assert row["learner/grad_norm/mean"] > 0
        assert row["learner/updates/sum"] == 2
    rollout = json.loads((tmp_path / "run" / "rollouts" / "step_000001.jsonl").read_text().splitlines()[0])
    assert SUFFIX in rollout["prompt"][-1]["content"]
    assert rollout["verdict"]["status"] in ("ok", "truncated", "no_answer")


@pytest.mark.parametrize("name", ["deepscaler_test_aime.json", "deepscaler_test_math.json"])
def test_eval_on_benchmark_files(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = SHARED / "math_eval" / name
    if not path.is_file():
        pytest.skip("no local copy of the benchmark")
    model = random_qwen2(tmp_path / "model", ["Find the value of x in 2x + 3 = 11."], seed=1)
    out = tmp_path / "eval"
    arguments = ["--on", str(path), "-n", "2", "--problems", "5", "--window", "32", "--out", str(out)]
    small = ["--set", "cluster.learners=1", "--set", "model.dtype=float32", "--set", "cluster.threads=1"]
    assert main(["eval", str(model), *arguments, *small]) == 0
    summary = json.loads((out / "summary.json").read_text())["benchmarks"][name.split(".")[0]]
    assert (summary["problems"], summary["n"]) == (5, [2, 2])
    assert 0.0 <= summary["low"] <= summary["accuracy"] <= summary["high"] <= 1.0
    assert len((out / "samples.jsonl").read_text().splitlines()) == 10
    assert SUFFIX in (out / "problems.jsonl").read_text().replace("\\\\", "\\")
    assert "pass@n" in capsys.readouterr().out
