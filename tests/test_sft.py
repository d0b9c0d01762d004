"""`longthink sft`: data in the usual forms, epochs, loss on validation traces, packing, resume, mistakes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from support import stopped_after_one

from longthink.cli import main
from longthink.engines.teacher import TeacherEngine, told_apart, trace_calls
from longthink.folder import ModelFolder, tiny_folder
from longthink.learners.local import LocalLearner
from longthink.machine import resolve
from longthink.recipe import load_recipe
from longthink.report import write_report
from longthink.sft import by_epochs
from longthink.tables import LearnerSettings, LossSettings
from longthink.tasks.file import File
from longthink.tools.formats import FORMATS, Piece
from longthink.types import Batch, Group, Request, RolloutId, Sampling, Verdict

WORDS = "one two three four five six seven eight nine ten <code> </code> <output> </output> 42 a b".split()  # noqa: SIM905
TEMPLATE = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}<think>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, and thirteen rows to learn."""
    root = tmp_path_factory.mktemp("sft")
    tiny_folder(root / "model", WORDS, seed=0, template=TEMPLATE, hidden_size=32, num_hidden_layers=2, intermediate_size=48)
    rows = [{"prompt": f"{WORDS[i % 10]} a", "response": " ".join(WORDS[(i + k) % 10] for k in range(2 + i))} for i in range(13)]
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[::4]))
    return root


def write(folder: Path, path: Path, **changes: Any) -> Path:
    """A recipe as a user would write one."""
    table: dict[str, Any] = {
        **{"name": "sft", "model": {"path": str(folder / "model"), "dtype": "float32"}, "cluster": {"learners": 1, "threads": 1}},
        "task": {"kind": "file", "train": str(folder / "train.jsonl"), "validation": str(folder / "held.jsonl")},
        **{"rollout": {"prompts": 4, "window": 40}, "learner": {"lr": 1e-2}, "workers": 1},
        **{"validation": {"every": 2, "problems": 100}, "budget": {"max_epochs": 2}, "checkpoint": {"every": 2}},
    }
    path.write_text(tomli_w.dumps(table | changes))
    return path


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_what_it_is_given_for_as_many_epochs_as_asked(folder: Path, tmp_path: Path) -> None:
    assert main(["sft", str(write(folder, tmp_path / "r.toml")), "--out", str(tmp_path / "run")]) == 0
    rows = rows_of(tmp_path / "run")
    assert [r["step"] for r in rows] == [*range(8)]  # 2 · 13 / 4, rounded up
    losses = [r["validation/loss"] for r in rows if "validation/loss" in r]
    assert len(losses) == 4 and losses[-1] < losses[0] < 1.3 * np.log(64)
    assert not [key for key in rows[-1] if key.startswith(("validation/accuracy", "reward/", "verdict/"))]  # nobody grades
    page = write_report(tmp_path / "run").read_text()
    assert ">Loss<" in page and ">Validation loss<" in page and ">Reward<" not in page
    problems = [
        json.loads(line)["problem"]
        for step in range(1, 8)
        for line in (tmp_path / "run" / "rollouts" / f"step_{step:06d}.jsonl").read_text().splitlines()
    ]
    assert sorted(problems[:13]) == sorted(problems[13:26]) == sorted(f"train:{i}" for i in range(13))
    assert problems[:13] != problems[13:26]


def test_the_validation_loss_is_that_of_each_trace_alone(folder: Path, tmp_path: Path) -> None:
    """A mean over tokens of all traces, computed here one by one with transformers, from the checkpoint that was left."""
    from transformers import AutoModelForCausalLM

    run = tmp_path / "run"
    assert main(["sft", str(write(folder, tmp_path / "r.toml", budget={"max_steps": 2})), "--out", str(run)]) == 0
    model = AutoModelForCausalLM.from_pretrained(run / "checkpoints" / "step_000002", dtype=torch.float32)
    tokenizer, task = ModelFolder(folder / "model").tokenizer, File(validation=str(folder / "held.jsonl"), empty_golds="keep")
    total, count = 0.0, 0
    for index in range(4):
        problem = task.problem("validation", index)
        prompt, trace = tokenizer.prompt_ids(problem), tokenizer.encode(str(task.trace(problem, 0)))
        ids = torch.from_numpy(np.concatenate([prompt, trace, [tokenizer.end_id]]))
        with torch.no_grad():
            found = torch.log_softmax(model(ids[None]).logits[0, :-1].float(), -1).gather(1, ids[1:, None]).squeeze(1)
        total -= float(found[len(prompt) - 1 :].sum())
        count += len(trace) + 1
    assert rows_of(run)[-1]["validation/loss"] == pytest.approx(total / count, abs=2e-5)


def test_packed_traces_do_not_see_each_other_and_only_learnt_pieces_have_a_gradient(folder: Path, tmp_path: Path) -> None:
    """The gradient of a packed batch is that of a naive sum over the learnt tokens of each row alone, in float64."""
    parts = [{"text": "one two"}, {"text": "three four five", "learn": False}, {"text": "six"}]
    rows = [{"prompt": "a", "response": parts}, {"prompt": "b", "response": "<code> one </code><output> 42 </output> two"}]
    rows += [{"prompt": "a b", "response": "nine " * n + "ten"} for n in (1, 7, 3)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = File(train=str(tmp_path / "d.jsonl"), empty_golds="keep", shuffle=False)
    recipe = load_recipe(write(folder, tmp_path / "r.toml", tool={"format": "tags"}), engine="teacher")
    opened = ModelFolder(folder / "model")
    teacher = TeacherEngine({"": task}, opened.tokenizer, trace_calls(recipe))
    for i in range(len(rows)):
        problem = task.problem("train", i)
        ids = opened.tokenizer.prompt_ids(problem)
        teacher.submit(Request(RolloutId(i, 0), problem, ids, 60, Sampling(), 0))
    rollouts = list(teacher.finished())
    sources = [[(s.source, opened.tokenizer.decode(s.token_ids)) for s in r.segments] for r in rollouts[:2]]
    assert sources[0] == [("policy", "one two"), ("prefix", "three four five"), ("policy", "six")]
    assert [source for source, _ in sources[1]] == ["policy", "tool", "policy"] and "42" in sources[1][1][1]
    batch = Batch.of([Group(r.problem, (r,), (Verdict(0.0, "ok"),), (0.0,)) for r in rollouts])
    gradients = []
    for tokens in (10_000, 1):  # all in one micro-batch, each in one of its own
        settings = LearnerSettings(lr=1e-9, grad_clip=1e9, microbatch_tokens=tokens)
        learner = LocalLearner(opened.decoder(), settings, dtype=torch.float64)
        learner.update(batch, LossSettings(kind="nll"), 1.0)
        gradients.append([p.grad.clone() for p in learner.decoder.parameters() if p.grad is not None])
    naive = LocalLearner(opened.decoder(), LearnerSettings(), dtype=torch.float64).decoder
    from longthink.attention import Layout

    count = int(batch.loss_mask.sum())
    for at in range(len(batch)):
        where = slice(int(batch.offsets[at]), int(batch.offsets[at + 1]))
        ids, mask = torch.from_numpy(batch.tokens[where]), torch.from_numpy(batch.loss_mask[where])
        logits = naive(ids, Layout.of([[len(ids)]])) @ naive.head_weight.T
        logprobs = torch.log_softmax(logits[:-1], -1).gather(1, ids[1:, None]).squeeze(1)
        (-(logprobs[mask[1:]].sum()) / count).backward()
    for packed, alone, p in zip(*gradients, naive.parameters(), strict=True):
        torch.testing.assert_close(packed, p.grad, atol=1e-12, rtol=1e-9)
        torch.testing.assert_close(alone, p.grad, atol=1e-12, rtol=1e-9)


def test_what_a_tool_says_is_found_across_parts() -> None:
    """A call in one part and its output in the next, which also says more; what is not learnt stays so."""
    parts = [Piece("so <code> 1 </code>", "policy"), Piece("<output> 1 </output> a", "policy"), Piece(" b", "prefix")]
    assert told_apart(parts, FORMATS["tags"]) == [
        *(Piece("so <code> 1 </code>", "policy"), Piece("<output> 1 </output>", "tool")),
        *(Piece(" a", "policy"), Piece(" b", "prefix")),
    ]
    assert told_apart([Piece("", "policy")], FORMATS["tags"]) == []


def test_thinking_is_opened_once(folder: Path, tmp_path: Path) -> None:
    """The template's prompt ends with the mark, and the trace begins with it: it is there once."""
    rows = [{"prompt": "a", "response": text} for text in ("<think>one two", " <think> one two", "one two")]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task, tokenizer = (
        File(train=str(tmp_path / "d.jsonl"), empty_golds="keep", shuffle=False),
        ModelFolder(folder / "model").tokenizer,
    )
    teacher, told = TeacherEngine({"": task}, tokenizer), []
    for problem in (task.problem("train", i) for i in range(3)):
        ids = tokenizer.prompt_ids(problem)
        assert tokenizer.decode(ids).endswith("<think>")
        told.append([tokenizer.decode(s.token_ids).strip() for s in teacher.segments(problem, 0, ids)])
    assert told == [["one two"]] * 3


def test_what_the_verifier_cannot_grade_is_learnt_all_the_same(folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) | {"answer": {"no": "gold"}} for line in (folder / "train.jsonl").read_text().splitlines()]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"kind": "file", "train": str(tmp_path / "train.jsonl")}
    path = write(folder, tmp_path / "r.toml", task=task, reward={"kind": "math"}, validation={}, budget={"max_steps": 1})
    assert main(["sft", str(path), "--out", str(tmp_path / "run")]) == 0
    found = [json.loads(line) for line in (tmp_path / "run" / "rollouts" / "step_000001.jsonl").read_text().splitlines()]
    assert all(row["trained"] and row["verdict"]["score"] is None for row in found) and len(found) == 4


def test_a_run_that_was_stopped_ends_as_one_that_was_not(folder: Path, tmp_path: Path) -> None:
    path = write(folder, tmp_path / "r.toml")
    assert main(["sft", str(path), "--out", str(tmp_path / "whole")]) == 0
    recipe = by_epochs(resolve(load_recipe(path, engine="teacher")))
    stopped_after_one(recipe, tmp_path / "run")
    assert main(["sft", str(path), "--out", str(tmp_path / "run"), "--resume"]) == 0
    whole, run = (
        [{k: v for k, v in r.items() if not k.startswith("time/")} for r in rows_of(tmp_path / n)] for n in ("whole", "run")
    )
    assert run == whole
    last = Path("checkpoints/step_000007/model.safetensors")
    assert (tmp_path / "run" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()


@pytest.mark.cluster
@pytest.mark.parametrize("cluster", [{"learners": 2, "threads": 1, "shard": True}, {"learners": 1, "threads": 1, "samplers": 1}])
def test_it_learns_the_same_wherever_it_computes(folder: Path, tmp_path: Path, cluster: dict[str, Any]) -> None:
    runs = {"here": {"learners": 1, "threads": 1}, "there": cluster}
    for name, table in runs.items():
        path = write(folder, tmp_path / f"{name}.toml", cluster=table, budget={"max_steps": 4})
        assert main(["sft", str(path), "--out", str(tmp_path / name)]) == 0
    here, there = ([r["validation/loss"] for r in rows_of(tmp_path / name) if "validation/loss" in r] for name in runs)
    assert here == pytest.approx(there, abs=1e-5) and len(here) == 3


@pytest.mark.parametrize("told", [True, False])
def test_sampled_accuracy_goes_with_a_verifier(folder: Path, tmp_path: Path, told: bool) -> None:
    """Beside the loss, or in its place where the validation file has no responses."""
    rows = [json.loads(line) | {"answer": "7"} for line in (folder / "train.jsonl").read_text().splitlines()]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = [row if told else {k: row[k] for k in ("prompt", "answer")} for row in rows]
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    task = {"kind": "file", "train": str(tmp_path / "train.jsonl"), "validation": str(tmp_path / "held.jsonl")}
    validation = {"every": 1, "problems": 3, "samples": 2}
    path = write(folder, tmp_path / "r.toml", task=task, reward={"kind": "math"}, validation=validation, budget={"max_steps": 1})
    assert main(["sft", str(path), "--out", str(tmp_path / "run")]) == 0
    row = rows_of(tmp_path / "run")[-1]
    assert "validation/accuracy" in row and ("validation/loss" in row) == told


GRADED = {"reward": {"kind": "math"}}
MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("sft", GRADED | {"engine": {"kind": "embedded"}}, "budget.max_epochs counts passes over traces"),
    ("sft", GRADED | {"engine": {"kind": "embedded"}, "budget": {}}, "engine.kind is 'embedded', whose responses are sampled"),
    ("sft", {"loss": {"kind": "grpo"}}, "expected loss.kind = 'nll'"),
    ("sft", {"task": {"kind": "countdown"}}, "its task makes new problems for ever; expected budget.max_steps"),
    ("sft", {"learner": {"schedule": "cosine", "warmup_updates": 9}}, "warmup_updates is 9, and all epochs are 7 updates"),
    ("train", {"budget": {}}, "reward is missing"),
    ("train", GRADED | {"validation": {"samples": 0}, "budget": {}}, "validation.samples is 0, for the loss of traces alone"),
]


@pytest.mark.parametrize(("verb", "changes", "words"), MISTAKES)
def test_mistakes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, changes: dict[str, Any], words: str
) -> None:
    path = write(folder, tmp_path / "r.toml", **changes)
    assert main([verb, str(path), "--out", str(tmp_path / "run")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_recipe_with_epochs_is_fine_tuning_to_check_and_plan_too(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(folder, tmp_path / "r.toml", rollout={"prompts": 4, "window": 12}))
    assert main(["check", path]) == 0
    assert "traces: 3 to 15 tokens, median 9; 3 of 13 are cut at the window of 12" in capsys.readouterr().out
    assert main(["plan", path, "--on", "1xA100"]) == 0
    head, row = (line.split() for line in capsys.readouterr().out.splitlines()[2:4])
    assert row[head.index("rollouts")] == "0" and row[head.index("steps")] == "7"


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("wrong", [7, [{"txt": "a"}], [{"text": "a", "learn": "no"}], [{"text": "a", "learn": False}]])
def test_a_response_that_is_none_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str, wrong: Any
) -> None:
    rows = [{"prompt": "a", "response": "one"}, {"prompt": "b", "response": wrong}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"kind": "file", "train": str(folder / "train.jsonl"), split: str(tmp_path / "d.jsonl")}
    path = write(folder, tmp_path / "r.toml", task=task, validation={"every": 1})
    if split == "train":
        path = write(folder, tmp_path / "r.toml", task=task, validation={})
    assert main(["sft", str(path), "--out", str(tmp_path / "run")]) == 2 == main(["check", str(path)])
    assert f"d.jsonl: row 1: the response is {wrong!r}; expected text" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_file_without_responses_is_told_before_anything_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "answer": "7"}\n')
    task = {"kind": "file", "train": str(folder / "train.jsonl"), split: str(tmp_path / "d.jsonl")}
    validation = {"every": 1} if split == "validation" else {}
    path = write(folder, tmp_path / "r.toml", task=task, validation=validation)
    assert main(["sft", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "d:0 has no response to fine-tune on" in capsys.readouterr().err and not (tmp_path / "run").exists()
