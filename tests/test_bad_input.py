"""Every user's mistake: one clear message, a non-zero exit, nothing half-written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from longthink.cli import main
from longthink.folder import tiny_folder
from longthink.tasks.countdown import WORDS

TEMPLATE = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}<think>"
SERVED = {"kind": "vllm", "servers": ["http://a:1", "http://b:1"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_folder(
        folder,
        WORDS,
        seed=0,
        template=TEMPLATE,
        hidden_size=32,
        num_hidden_layers=1,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    return folder


def recipe_file(folder: Path, model: Path, **changes: object) -> Path:
    table: dict[str, object] = {
        "name": "bad",
        "model": {"path": str(model), "dtype": "float32"},
        "cluster": {"learners": 1, "threads": 1},
        "task": {"kind": "countdown"},
        "reward": {"kind": "countdown"},
        "workers": 1,
        "rollout": {"prompts": 2, "group_size": 2, "window": 16},
        "budget": {"max_steps": 3},
    }
    path = folder / "recipe.toml"
    path.write_text(tomli_w.dumps(table | changes))
    return path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a refused command; asserts the status and that there is no traceback."""
    capsys.readouterr()
    status = main(list(arguments))
    error = capsys.readouterr().err
    assert status == 2, (status, error)
    assert "Traceback" not in error
    return error


def copied(model: Path, folder: Path, damage: Callable[[Path], object]) -> Path:
    shutil.copytree(model, folder)
    damage(folder)
    return folder


def without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def torn_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "no such model folder"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not JSON"),
        (lambda f: (f / "config.json").write_text('{"model_type": "gpt2"}'), "model_type is 'gpt2'"),
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
        (torn_weights, "cannot be read"),
        (without_template, "no chat template"),
        (lambda f: (f / "tokenizer.json").unlink(), "no usable tokenizer"),
    ],
)
def test_model_folders(
    model: Path, tmp_path: Path, damage: Callable[[Path], object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = copied(model, tmp_path / "broken", damage)
    path = recipe_file(tmp_path, broken)
    assert words in refusal(capsys, "train", str(path), "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollout": {"prompts": 2, "group_size": 1, "window": 16}}, "a group of one has no advantage"),
        ({"rollout": {"prompts": 2, "group_size": 2, "window": 64}}, "64 positions"),
        ({"rollout": {"prompts": 2, "group_size": 2, "window": 16, "max_prompt_tokens": 3}}, "leaves allow 3"),
        ({"rollout": {"prompts": 2, "group_size": 2, "window": 16, "top_p": 0.9}}, "no ratio can correct"),
        ({"rollout": {"windw": 16}}, "did you mean window"),
        ({"task": {"kind": "countdwn"}}, "expected one of countdown, file"),
        ({"task": {"kind": "countdown", "cuont": 3}}, "did you mean count?"),
    ],
)
def test_recipes(model: Path, tmp_path: Path, changes: dict[str, object], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe_file(tmp_path, model, **changes)
    assert words in refusal(capsys, "train", str(path), "--out", str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"selection": {"questions": "longer_right"}, "rollout": {"group_size": 1}}, "a group of one has no advantage"),
        ({"reference": {"replace_every": 5}}, "without a KL"),
        ({"stage": [{"reset": "reference"}]}, "without a KL"),
        ({"loss": {"kl_in": "reward"}}, "needs loss.kl above 0"),
        ({"loss": {"kl": 0.1, "kl_in": "reward", "kl_level": "sequence"}}, "every token has its own"),
        ({"loss": {"correction": "truncate"}}, "set loss.old_logprobs = 'learner'"),
        ({"loss": {"old_logprobs": "learner", "correction": "mask", "correction_low": 3.0}}, "expected below"),
        ({"loss": {"entropy_step": 0.1}}, "set loss.entropy_target"),
        ({"loss": {"entropy_target": 0.1}}, "does nothing"),
        ({"loss": {"entropy_target": 0.1, "entropy": -0.1}}, "a bonus of at least 0"),
        ({"rollout": {"window": 64}}, "64 positions"),
        ({"rollout": {"cycle": {"shape": "stair", "low": 8, "high": 64, "period": 4}}}, "64 positions"),
        ({"shape": [{"kind": "accuracy"}, {"kind": "accuracy"}]}, "accuracy is there twice"),
        ({"shape": [{"kind": "accuracy", "weight": 0.0}]}, "every weight is 0"),
        ({"shape": [{"kind": "acuracy"}]}, "did you mean accuracy"),
        ({"pools": {"retire_right": 2}}, "problems that come again"),
        ({"reference": {"optimizer": "reset"}, "loss": {"kl": 0.1}}, "does nothing without reference.replace_every"),
        ({"stage": [{"until": {"foo": 1}}], "validation": {"every": 1}}, "has no `kind`"),
        ({"stage": [{"until": {"kind": "lenghten"}}], "validation": {"every": 1}}, "is 'lenghten', expected one of all, any"),
        ({"shape": {"kind": "accuracy"}}, "write [[shape]]"),
        ({"shape": [{"kind": "accuracy", "weight": "2"}]}, "weight is '2', expected a number"),
        ({"rollout": {"window": 16, "graded_tokens": 16}}, "it does nothing"),
        ({"task": {"kind": "file", "train": "few.jsonl"}, "reward": {"kind": "math"}}, "few.jsonl"),
        ({"loss": {"kind": "nll"}, "shape": [{"kind": "accuracy"}]}, "does not look at"),
        ({"reward": {"kind": "file", "path": "nowhere.py"}}, "nowhere.py cannot be read"),
        ({"engine": {"kind": "vllm"}}, "expected cluster.samplers >= 1"),
        ({"engine": {"servers": ["http://a:1"]}, "cluster": {"samplers": 1}}, "engine.kind is embedded; expected vllm"),
        (
            {"engine": SERVED, "cluster": {"samplers": 1}},
            "engine.servers are 2, cluster.samplers is 1; expected a sampler for each",
        ),
        (
            {"engine": {**SERVED, "servers": ["http://a:1", "http://a:1"]}, "cluster": {"samplers": 2}},
            "engine.servers has an address twice",
        ),
        ({"engine": {**SERVED, "servers": ["a:1", "b:1"]}, "cluster": {"samplers": 2}}, "'a:1'; expected http://host:port"),
        ({"engine": {**SERVED, "transfer": "NCCL"}, "cluster": {"samplers": 2}}, "expected nccl, or a folder from the root on"),
        ({"engine": {**SERVED, "transfer": "nccl"}, "cluster": {"samplers": 2}}, "engine.transfer is nccl, which needs GPUs"),
    ],
)
def test_contradictions_are_refused_by_check(
    model: Path, tmp_path: Path, changes: dict[str, object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe_file(tmp_path, model, **changes)
    message = refusal(capsys, "check", str(path))
    assert words in message and message.count("\n") == 1


def test_an_empty_data_set(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    path = recipe_file(tmp_path, model, task={"kind": "file", "train": str(tmp_path / "rows.jsonl")}, reward={"kind": "math"})
    assert "rows.jsonl" in refusal(capsys, "train", str(path), "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_gold_its_own_verifier_rejects(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"problem": "1 + 1", "answer": "2"}, {"problem": "say it", "answer": "\\frac{"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = recipe_file(tmp_path, model, task={"kind": "file", "train": str(tmp_path / "rows.jsonl")}, reward={"kind": "math"})
    # the tiny tokenizer knows none of these words; the check does not need it to
    assert main(["check", str(path)]) == 1
    out = capsys.readouterr().out
    assert "golds: 1 of 2 accepted" in out and "rows:" in out


def test_a_group_that_never_differs(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A random model solves nothing: after the stated patience the run stops and says so; it can be resumed."""
    path = recipe_file(tmp_path, model, max_constant_steps=2, checkpoint={"every": 1})
    message = refusal(capsys, "train", str(path), "--out", str(tmp_path / "run"))
    assert "no group had two different rewards for 2 steps" in message and "mean reward 0.000" in message


def test_resume_with_a_changed_recipe(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe_file(tmp_path, model, budget={"max_steps": 1})
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 0
    before = {p: p.read_bytes() for p in sorted((tmp_path / "run").rglob("*")) if p.is_file()}
    message = refusal(capsys, "train", str(path), "--out", str(tmp_path / "run"), "--resume", "--set", "learner.lr=0.5")
    assert "learner.lr was 1e-06, is 0.5" in message
    assert "a run is already there" in refusal(capsys, "train", str(path), "--out", str(tmp_path / "run"))
    assert before == {p: p.read_bytes() for p in sorted((tmp_path / "run").rglob("*")) if p.is_file()}


def test_branching(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe_file(tmp_path, model, budget={"max_steps": 2}, checkpoint={"every": 1})
    run = tmp_path / "run"
    assert main(["train", str(path), "--out", str(run)]) == 0
    branch = ["train", str(path), "--out", str(tmp_path / "branch"), "--from", f"{run}@1", "--with", "data"]
    assert main(branch) == 0
    lineage = json.loads((tmp_path / "branch" / "run.json").read_text())["lineage"]
    assert (lineage["parent_step"], lineage["with_data"], lineage["with_optimizer"]) == (1, True, False)
    cursor = json.loads((tmp_path / "branch" / "checkpoints" / "step_000001" / "data.json").read_text())["cursors"][""]
    assert cursor == 4  # two problems of the parent's first step, two of its own
    assert "no checkpoint of step '9'; there are 1, 2" in refusal(
        capsys, "train", str(path), "--out", str(tmp_path / "b2"), "--from", f"{run}@9"
    )


def test_missing_files_and_arguments(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such recipe" in refusal(capsys, "train", str(tmp_path / "none.toml"))
    assert "give a recipe" in refusal(capsys, "train")
    assert "metrics.jsonl" in refusal(capsys, "report", str(tmp_path))
    assert "none.json" in refusal(capsys, "eval", str(model), "--on", str(tmp_path / "none.json"))
