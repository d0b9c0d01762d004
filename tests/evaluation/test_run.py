"""Evaluations of a real model: folders, resuming after kills and Ctrl-C, more samples, refusals."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from longthink import storage
from longthink.cli import main
from longthink.errors import CheckpointError, TaskError
from longthink.evaluation.gather import gather
from longthink.evaluation.results import read_evaluation
from longthink.evaluation.until import FIRST

SMALL = ["--set", "cluster.learners=1", "--set", "cluster.threads=1", "--set", "model.dtype=float32"]
DRAWN = ["--window", "48", "--temperature", "1", "--top-p", "1"]
FILES = ("eval.json", "problems.jsonl", "samples.jsonl", "summary.json")


MINE = Path(__file__).with_name("two_numbers.toml")


def ask(model, out, *more, problems="12", n="4"):
    fixed = ["eval", str(model), "--on", str(MINE), "--problems", problems, *DRAWN, *SMALL, "--out", str(out)]
    return [*fixed, *(["-n", n] if n else []), *more]


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def model(warm_folder):
    return warm_folder


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "eval"
    assert main(ask(model, out)) == 0
    return out


def test_an_evaluation_keeps_every_sample(whole):
    found = read_evaluation(whole)
    answers = found.sets["two_numbers"]
    assert [len(row) for row in answers.samples] == [4] * 12 and [s.number for s in answers.samples[3]] == [0, 1, 2, 3]
    summary = json.loads((whole / "summary.json").read_text())["benchmarks"]["two_numbers"]
    scores = [[s.score for s in row] for row in answers.samples]
    assert summary["accuracy"] == pytest.approx(sum(map(sum, scores)) / 48)
    assert summary["low"] <= summary["low_here"] <= summary["accuracy"] <= summary["high_here"] <= summary["high"]
    assert summary["pass_at_k"][0] == pytest.approx(summary["accuracy"]) and len(summary["pass_at_k"]) == 4
    assert sum(summary["statuses"].values()) == summary["samples"] == 48
    assert summary["tokens"]["total"] == sum(s.tokens for s in answers.every)
    facts = found.facts
    assert facts["window"] == 48 and len(facts["benchmarks"]["two_numbers"]["sha256"]) == 64 and len(facts["weights"]) == 16
    assert {s.vote is None for s in answers.every if s.extracted is None} <= {True}


def test_asking_again_samples_nothing(whole, model, capsys):
    before = contents(whole)
    assert main(ask(model, whole)) == 0
    assert contents(whole) == before and "sampling" not in capsys.readouterr().out


@pytest.mark.parametrize("kept", [0, 1, 17, 47])
def test_what_is_there_is_not_sampled_again(whole, model, tmp_path, kept):
    out = tmp_path / "eval"
    out.mkdir()
    (out / "eval.json").write_bytes((whole / "eval.json").read_bytes())
    lines = (whole / "samples.jsonl").read_bytes().split(b"\n")[:-1]
    random.Random(kept).shuffle(lines)
    rows = [json.loads(line) | {"vote": None} for line in lines[:kept]]
    torn = b'{"benchmark": "count'
    (out / "samples.jsonl").write_bytes(b"".join(json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in rows) + torn)
    assert main(ask(model, out)) == 0
    assert contents(out) == contents(whole)


KILLED = """
import os, sys
from longthink.cli import main
from longthink.evaluation import run
run.EVERY_S, run.AT_ONCE = 1e9, 8  # written by number alone
kind, left, sync, begun = sys.argv[1], int(sys.argv[2]), os.fsync, run.Evaluation.open
def counted(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)
def flushed(descriptor):
    counted()
    sync(descriptor)
def opened(*args):
    sys.setprofile(lambda frame, event, arg: counted() if event in ("call", "c_call") else None)
    begun(*args)
if kind == "flush":
    os.fsync = flushed
else:
    run.Evaluation.open = opened
status = main(sys.argv[3:])
sys.setprofile(None)
print(int(sys.argv[2]) - left)
sys.exit(status)
"""


def run_until(kind, call, arguments):
    """An evaluation that dies at its k-th flush, or function call; its exit status and, where it lived, how many it made."""
    done = subprocess.run([sys.executable, "-c", KILLED, kind, str(call), *arguments], capture_output=True, text=True)
    return done.returncode, int(done.stdout.split()[-1]) if done.returncode == 0 else 0


@pytest.fixture(scope="module")
def calls(model, tmp_path_factory):
    """How many functions a whole evaluation calls: the instants at which it can be killed."""
    status, calls = run_until("call", 0, ask(model, tmp_path_factory.mktemp("calls") / "eval"))
    assert status == 0 and calls > 10_000
    return calls


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.full) for s in range(1, 24))])
def test_killed_at_random_instants_and_resumed(whole, model, tmp_path, calls, seed):
    """Killed at function calls that are drawn, in sampling, grading or writing, twice; then run through."""
    out, draw = tmp_path / "eval", random.Random(seed)
    assert run_until("call", draw.randint(1, calls // 2), ask(model, out))[0] == -9
    run_until("call", draw.randint(1, calls), ask(model, out))
    assert main(ask(model, out)) == 0
    assert contents(out) == contents(whole)


@pytest.mark.full
def test_killed_at_every_flush_and_resumed(whole, model, tmp_path):
    status, calls = run_until("flush", 0, ask(model, tmp_path / "through"))
    assert status == 0 and calls > 8
    for call in range(1, calls + 1):
        out = tmp_path / str(call)
        assert run_until("flush", call, ask(model, out))[0] == -9
        assert main(ask(model, out)) == 0
        assert contents(out) == contents(whole), call


def test_ctrl_c_keeps_what_is_done(model, tmp_path):
    out = tmp_path / "eval"
    command = [sys.executable, "-m", "longthink.cli", *ask(model, out, problems="16", n="1024")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("eval "):
                os.kill(process.pid, signal.SIGINT)
                break
        said = process.stdout.read()
    assert process.returncode == 130 and "goes on in" in said
    assert 0 < len((out / "samples.jsonl").read_text().splitlines()) < 16 * 1024
    assert not (out / "summary.json").exists()
    with pytest.raises(TaskError, match="unfinished"):
        gather([out])
    assert main(["view", str(out)]) == 0
    assert "eval (unfinished)" in (out / "view.html").read_text()


def test_more_samples_and_other_questions(whole, model, tmp_path, capsys):
    out = tmp_path / "eval"
    assert main(ask(model, out, n="2")) == 0
    assert main(ask(model, out)) == 0
    same = ("samples.jsonl", "summary.json")
    assert {k: contents(out)[k] for k in same} == {k: contents(whole)[k] for k in same}
    assert main(ask(model, out, n="2")) == 0  # the first two of the four that are there
    fewer = read_evaluation(out).sets["two_numbers"].samples
    assert fewer == [
        [s._replace(vote=x.vote) for s, x in zip(row, own, strict=False)]
        for row, own in zip(read_evaluation(whole).sets["two_numbers"].samples, fewer, strict=True)
    ]
    assert {len(row) for row in fewer} == {2} and json.loads(contents(out)["summary.json"])["benchmarks"]["two_numbers"]["n"] == [
        2,
        2,
    ]
    assert main(ask(model, out)) == 0
    for more, said in (
        (["--seed", "1"], "another seed"),
        (["--protocol", "siri"], "another protocol"),
        (["--window", "50"], "another window"),
    ):
        assert main(ask(model, out, *more)) == 2
        assert said in capsys.readouterr().err
    assert {k: contents(out)[k] for k in same} == {k: contents(whole)[k] for k in same}


def test_until_the_interval_is_tight(model, tmp_path, capsys):
    assert main(ask(model, tmp_path / "eval", "--until", "±3", n="")) == 0
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())["benchmarks"]["two_numbers"]
    assert (summary["high_here"] - summary["low_here"]) / 2 <= 0.03
    assert summary["n"][0] < summary["n"][1]
    (adaptive,) = gather([tmp_path / "eval"])
    assert adaptive.until == 0.03 and not adaptive.first(FIRST).until
    assert {len(row) for row in adaptive.first(FIRST).sets["two_numbers"].samples} == {FIRST}
    assert main(["analyze", "coverage", str(tmp_path / "eval")]) == 0
    assert "the first 4 samples of each problem are analysed" in capsys.readouterr().out
    before = contents(tmp_path / "eval")
    assert main(ask(model, tmp_path / "eval", "--until", "3", n="")) == 0
    assert contents(tmp_path / "eval") == before
    lines = before["samples.jsonl"].split(b"\n")[:-1]
    random.Random(3).shuffle(lines)
    (tmp_path / "eval" / "samples.jsonl").write_bytes(b"\n".join(lines[: len(lines) // 3]) + b"\n")
    (tmp_path / "eval" / "summary.json").unlink()
    assert main(ask(model, tmp_path / "eval", "--until", "3", n="")) == 0
    assert contents(tmp_path / "eval") == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--window", "5000"], "give a smaller --window"),
        (["--window", "0"], "window"),
        (["--top-p", "1.5"], "top_p"),
        (["--until", "often"], "give one of them"),
        (["--reward", "countdwon"], "countdown"),
        (["--protocol", "deepscale"], "did you mean deepscaler"),
        (["--set", "rollout.window=3"], "model, engine, cluster and tool alone"),
        (["--set", "engine.rows=3"], "engine"),
        (["--served-model", "x"], "leave it out"),
        (["--problems", "0"], "at least 1"),
    ],
)
def test_refusals_come_before_any_file(model, tmp_path, capsys, more, said):
    assert main(ask(model, tmp_path / "eval", *more)) == 2
    assert said in capsys.readouterr().err
    for points in ("often", "0"):
        assert main(ask(model, tmp_path / "eval", "--until", points, n="")) == 2
        assert "expected points above 0" in capsys.readouterr().err
    assert not (tmp_path / "eval").exists()


def test_killed_before_anything_was_written_out(whole, model, tmp_path):
    out = tmp_path / "eval"
    out.mkdir()
    (out / ".eval.json.tmp").write_text("{")
    (out / "problems.jsonl").write_text("")
    assert main(ask(model, out)) == 0
    assert contents(out) == contents(whole)


def test_lines_that_were_written_twice_count_once(whole, model, tmp_path):
    out = tmp_path / "eval"
    shutil.copytree(whole, out)
    text = (out / "samples.jsonl").read_text()
    (out / "samples.jsonl").write_text(text + "".join(text.splitlines(keepends=True)[:9]))
    assert [len(row) for row in read_evaluation(out).sets["two_numbers"].samples] == [4] * 12


def test_what_was_not_graded_is_graded_again(whole, model, tmp_path):
    out = tmp_path / "eval"
    shutil.copytree(whole, out)
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    for row in rows[:7]:
        if row["status"] != "truncated":
            row |= {"score": None, "status": "timeout", "extracted": None, "detail": {"why": "busy"}}
    (out / "samples.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    (out / "summary.json").unlink()
    assert main(ask(model, out)) == 0
    assert contents(out) == contents(whole)


BAD = """title = "Half of its golds are none"
domain = "logic"
licence = "ours"
files = ["bad"]
[task]
gold_fields = { numbers = "n", target = "t" }
[reward]
kind = "countdown"
think = "template"
"""


def test_until_ends_where_a_problem_can_never_be_graded(model, tmp_path, capsys):
    (tmp_path / "bad.toml").write_text(BAD)
    rows = [{"prompt": "2 3 -> 6", "n": "2,3", "t": 6}] * 5 + [{"prompt": "1 2 -> 3", "n": "x", "t": 3}]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = ["eval", str(model), "--on", str(tmp_path / "bad.toml"), "--data", str(tmp_path), *DRAWN, *SMALL]
    assert main([*named, "--out", str(tmp_path / "eval"), "--until", "10"]) == 0
    found = read_evaluation(tmp_path / "eval").sets["bad"]
    assert len(found.samples[5]) == 4 and not any(s.score is not None for s in found.samples[5] if s.status != "truncated")
    capsys.readouterr()


def test_until_refuses_scores_that_are_shares(model, tmp_path, capsys):
    text = BAD.replace('"template"', '"template"\ncredit = "tinyzero"')
    (tmp_path / "bad.toml").write_text(text)
    (tmp_path / "bad.jsonl").write_text(json.dumps({"prompt": "2 3 -> 6", "n": "2,3", "t": 600}) + "\n")
    named = ["eval", str(model), "--on", str(tmp_path / "bad.toml"), "--data", str(tmp_path), *DRAWN, *SMALL]
    assert main([*named, "--out", str(tmp_path / "eval"), "--until", "10"]) == 2
    assert "its scores are shares" in capsys.readouterr().err


def test_folders_that_are_something_else(model, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    assert main(ask(model, tmp_path / "mine")) == 2
    assert "holds no evaluation" in capsys.readouterr().err and len(list((tmp_path / "mine").iterdir())) == 1
    with pytest.raises(CheckpointError, match="not an evaluation"):
        read_evaluation(tmp_path / "mine")
    assert main(ask(tmp_path / "no model", tmp_path / "eval")) == 2


def test_exports(whole, model):
    assert main(ask(model, whole, "--export", "lm-eval", "--export", "lighteval")) == 0
    summary = json.loads((whole / "summary.json").read_text())["benchmarks"]["two_numbers"]
    harness = json.loads((whole / "results_lm_eval.json").read_text())
    assert harness["results"]["two_numbers"]["exact_match,none"] == summary["accuracy"]
    assert harness["n-samples"]["two_numbers"] == {"original": 16, "effective": 12}
    assert len((whole / "samples_two_numbers.jsonl").read_text().splitlines()) == 12
    light = json.loads((whole / "results_lighteval.json").read_text())
    assert light["results"]["all"]["extractive_match"] == summary["accuracy"]
    assert light["results"]["longthink|two_numbers|0"]["pass@k:k=4&n=4"] == summary["pass_at_k"][3]


def test_a_hostile_verifier_loses_nothing(model, tmp_path):
    """A file of golds that break the verifier: statuses, no scores, and a clear end."""
    rows = [{"problem": "1 2 3 -> 6", "answer": {"numbers": "x", "target": 6}}] * 2
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fixed = ["eval", str(model), "--on", str(path), "--reward", "countdown", "-n", "2", *DRAWN, *SMALL]
    assert main([*fixed, "--out", str(tmp_path / "eval")]) == 2
    statuses = {json.loads(line)["status"] for line in Path(tmp_path / "eval" / "samples.jsonl").read_text().splitlines()}
    assert statuses <= {"verifier_error", "no_answer"} and "verifier_error" in statuses


def test_two_commands_in_one_folder_do_not_mix(model, tmp_path, capsys):
    out = tmp_path / "eval"
    out.mkdir()
    with storage.lock(out, "an evaluation"):
        assert main(ask(model, out)) == 2
    assert "goes on there in another process" in capsys.readouterr().err
    assert main(ask(model, out)) == 0


def test_a_benchmark_without_a_grade_does_not_cost_the_others_their_summary(model, tmp_path, capsys):
    (tmp_path / "bad.toml").write_text(BAD)
    (tmp_path / "bad.jsonl").write_text(json.dumps({"prompt": "1 2 -> 3", "n": "x", "t": 3}) + "\n")
    out = tmp_path / "eval"
    named = ["--on", str(MINE), str(tmp_path / "bad.toml"), "--data", str(tmp_path), "--problems", "3", "-n", "2"]
    assert main(["eval", str(model), *named, *DRAWN, *SMALL, "--out", str(out)]) == 0
    found = json.loads((out / "summary.json").read_text())
    graded = [json.loads(line)["score"] for line in (out / "samples.jsonl").read_text().splitlines() if '"bad"' in line]
    assert len(graded) == 2 and found["benchmarks"].keys() == {
        "two_numbers",
        *(["bad"] if any(s is not None for s in graded) else []),
    }
    assert "logic" in found["domains"]
    capsys.readouterr()
