"""Curations of real files: every row accounted for, finished steps used again, and a killed run that ends as another."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tomli_w

from longthink import storage
from longthink.cli import main
from longthink.curation import run as runs
from longthink.curation import sources
from longthink.curation.rows import Shards
from longthink.curation.steps import mix
from longthink.tasks.file import File

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
NOUNS = ("apples", "coins", "pages", "steps", "tiles", "birds", "beads", "rooms", "lamps", "trees", "boats", "cards")


def problems(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Word problems that differ in more than their numbers."""
    draw, rows = random.Random(seed), []
    for _ in range(count):
        a, b, x, y, z = draw.randint(2, 90), draw.randint(2, 90), *draw.sample(NOUNS, 3)
        text = f"Ann has {a} {x} and trades each for {b} {y}, while the {z} stay at home. How many {y} does she have at the end?"
        rows.append({"problem": text, "answer": str(a * b), "solution": f"It is \\boxed{{{a * b}}}."})
    return rows


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(path: Path, sources_: list[dict[str, Any]], steps: list[dict[str, Any]], **more: Any) -> Path:
    path.write_text(tomli_w.dumps({"name": "tried", "source": sources_, "step": steps, **more}))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    kept = ("data", "figures", "steps")
    found = {str(p.relative_to(folder)): p.read_bytes() for part in kept for p in (folder / part).rglob("*") if p.is_file()}
    return found | {name: (folder / name).read_bytes() for name in ("card.md", "funnel.json")}


def funnel(folder: Path) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for node in json.loads((folder / "funnel.json").read_text())["steps"]}


def rejects(folder: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(folder / "data" / "rejects.parquet").to_pylist())


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with every kind of step that asks no model, over three shards and a bit."""
    monkeypatch.setattr(sources, "SHARD", 40)
    monkeypatch.setattr(mix, "SHARD", 40)
    rows = problems(120)
    rows += [dict(rows[3], problem=rows[3]["problem"].upper()), dict(rows[5], problem=rows[5]["problem"].replace("Ann", "Eve"))]
    rows += [{"problem": "What is left?", "answer": None, "solution": "nothing"}, {"problem": "Which?", "answer": "\\frac{1"}]
    jsonl(tmp_path / "a.jsonl", rows)
    jsonl(tmp_path / "b.jsonl", problems(30, seed=1))
    jsonl(tmp_path / "bench.jsonl", [rows[7], {"problem": "Where do all the lamps of this street end at night?", "answer": "7"}])
    return recipe(
        tmp_path / "r.toml",
        [{"name": "a", "path": str(tmp_path / "a.jsonl")}, {"name": "b", "path": str(tmp_path / "b.jsonl"), "licence": "MIT"}],
        [
            {"kind": "extract", "from": "a"},
            {"kind": "duplicates", "name": "alike"},
            {"kind": "decontaminate", "against": [str(tmp_path / "bench.jsonl")]},
            {"kind": "gradable", "reward": {"kind": "math", "deadline_s": 30.0}},
            {"kind": "mix", "take": [{"from": "gradable", "rows": 60}, {"from": "b", "rows": 20}, {"from": "alike.rejected"}]},
            {"kind": "split", "rows": 15},
        ],
        output={"prompt_suffix": "Think step by step."},
    )


@pytest.mark.usefixtures("drawn")
def test_rows_in_are_rows_kept_and_rows_rejected_in_every_step(made: Path, tmp_path: Path) -> None:
    assert main(["curate", str(made), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    nodes, steps = funnel(tmp_path / "out"), tmp_path / "out" / "steps"
    inputs: dict[str, list[str]] = {}
    for name, node in nodes.items():
        shards = Shards(steps / name)
        kept, dropped = [row.id for row in shards.rows()], [row.id for row in shards.rows(rejected=True)]
        taken = [id for source in node["from"] for id in inputs[source]] if node["from"] else kept + dropped
        assert sorted(taken) == sorted(kept + dropped), name
        assert (node["in"], node["kept"], node["rejected"]) == (len(taken), len(kept), len(dropped))
        inputs |= {name: kept, f"{name}.rejected": dropped}
    assert nodes["extract"]["reasons"] == {"no_answer": 1} and nodes["alike"]["reasons"] == {"alike": 1, "same": 1}
    assert nodes["decontaminate"]["reasons"] == {"same": 1} and nodes["gradable"]["rejected"] == 1
    assert nodes["mix"]["kept"] == 60 + 20 + 2 and set(nodes["mix"]["reasons"]) == {"not_drawn"}
    told = rejects(tmp_path / "out")
    trained = [row["id"] for row in pq.read_table(tmp_path / "out" / "data" / "train.parquet").to_pylist()]
    held = [row["id"] for row in pq.read_table(tmp_path / "out" / "data" / "validation.parquet").to_pylist()]
    assert len(held) == 15 and len({*trained, *held}) == len(trained) + len(held) == 82
    assert {*trained, *held} | {row["id"] for row in told} == {*(f"a:{i}" for i in range(124)), *(f"b:{i}" for i in range(30))}
    assert {row["id"] for row in told if row["in_data"]} == {"a:120", "a:121"}  # dropped as alike, and drawn again
    (leak,) = (row for row in told if row["step"] == "decontaminate")
    assert leak["id"] == "a:7" and json.loads(leak["detail"])["benchmark"] == "bench" and leak["question"].startswith("Ann has")
    card = (tmp_path / "out" / "card.md").read_text()
    assert "| alike | duplicates | extract | 123 | 121 | 2 |" in card and "| b | MIT | 20 |" in card


def test_nothing_is_done_twice_and_what_changes_is_done_again(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ["curate", str(made), "--out", str(out), "--workers", "1"]
    assert main(command) == 0
    before, done = contents(out), []
    begin = runs._Run._begin
    monkeypatch.setattr(
        runs._Run, "_begin", lambda self, name, of: (done.append(name) if (x := begin(self, name, of)) else None, x)[1]
    )
    assert main(command) == 0
    assert contents(out) == before and done == []
    assert main([*command, "--set", "step.4.take.1.rows=10"]) == 0
    assert done == ["mix", "split"] and funnel(out)["mix"]["kept"] == 72
    done.clear()
    with (tmp_path / "bench.jsonl").open("a") as file:
        file.write(json.dumps(problems(12)[11]) + "\n")
    assert main(command) == 0
    assert done == ["decontaminate", "gradable", "mix", "split"] and funnel(out)["decontaminate"]["reasons"]["same"] == 2


def test_processes_change_nothing(made: Path, tmp_path: Path) -> None:
    for workers in ("1", "2"):
        assert main(["curate", str(made), "--out", str(tmp_path / workers), "--workers", workers]) == 0
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


class Killed(Exception):
    """Stands for the end of the process."""


class Striking:
    """Stands in for `os` inside longthink.storage and ends the process at its k-th call that matters."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        return self._counted(found) if name in ("write", "fsync", "replace") else found

    def _counted(self, call: Any) -> Any:
        def counted(*args: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                os._exit(9)
            return call(*args)

        return counted


def in_child(command: list[str], at: int) -> tuple[int, int]:
    """Exit status of the command in a forked child, and the calls that mattered."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            storage.os = striking = Striking(at)  # type: ignore[assignment]
            status = main(command)
            os.write(write, str(striking.count).encode())
        finally:
            os._exit(status)
    os.close(write)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(read) as pipe:
        return status, int(pipe.read() or 0)


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("points", [2, pytest.param(24, marks=pytest.mark.full)])
def test_a_run_killed_at_any_write_ends_as_one_that_was_not(made: Path, tmp_path: Path, points: int) -> None:
    command = ["curate", str(made), "--workers", "1", "--out"]
    status, calls = in_child([*command, str(tmp_path / "whole")], at=0)
    assert status == 0 and calls > 100
    whole = contents(tmp_path / "whole")
    for at in sorted(random.Random(5).sample(range(1, calls), points)):
        out = str(tmp_path / str(at))
        assert in_child([*command, out], at)[0] == 9
        assert in_child([*command, out], 0)[0] == 0
        assert contents(tmp_path / str(at)) == whole, at


def test_a_killed_command_with_processes_goes_on(tmp_path: Path) -> None:
    """A terminal's Ctrl-C, then SIGKILL of the whole process group, once so many shards are there."""
    jsonl(tmp_path / "a.jsonl", problems(240))
    text = [{"name": "a", "path": str(tmp_path / "a.jsonl")}]
    made = recipe(tmp_path / "r.toml", text, [{"kind": "extract"}, {"kind": "duplicates"}, {"kind": "split", "rows": 30}])
    script = "import sys; from longthink.curation import sources; sources.SHARD = 10\nfrom longthink.cli import main\n"
    script += "if __name__ == '__main__':\n    sys.exit(main(sys.argv[1:]))\n"
    (tmp_path / "curate.py").write_text(script)
    command = [sys.executable, str(tmp_path / "curate.py"), "curate", str(made), "--workers", "2", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    out = tmp_path / "out"
    for how in (signal.SIGINT, signal.SIGKILL):
        shards = len(list(out.glob("steps/*/kept/*.jsonl"))) + 25
        child = subprocess.Popen([*command, str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        while child.poll() is None and len(list(out.glob("steps/*/kept/*.jsonl"))) < shards:
            time.sleep(0.005)
        assert child.poll() is None
        os.killpg(child.pid, how)
        said = child.communicate()[0].decode()
        if how == signal.SIGINT:
            assert child.returncode == 130 and f"the same command goes on in {out}" in said and "Traceback" not in said
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    assert contents(out) == contents(tmp_path / "whole")


def test_broken_rows_are_rejected_with_their_line_and_the_rest_goes_on(tmp_path: Path) -> None:
    rows = [json.dumps(row).encode() for row in problems(5)]
    lines = [rows[0], b'{"problem": ', b'{"problem": "\xff", "answer": "2"}', b"[1, 2]", b'{"answer": "3"}', rows[1]]
    lines += [
        json.dumps({"problem": "x" * (10 << 20), "answer": "1"}).encode(),
        rows[2],
        b'{"problem": "  ", "answer": "1"}',
        rows[2],
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    made = recipe(tmp_path / "r.toml", [{"name": "a", "path": str(tmp_path / "a.jsonl"), "id": "problem"}], [{"kind": "extract"}])
    assert main(["curate", str(made), "--out", str(tmp_path / "out")]) == 0
    assert funnel(tmp_path / "out")["a"] == funnel(tmp_path / "out")["a"] | {"in": 10, "kept": 3, "rejected": 7}
    found = {row["row"]: (row["reason"], json.loads(row["detail"])) for row in rejects(tmp_path / "out")}
    assert {row: reason for row, (reason, _) in found.items()} == {
        **{1: "unreadable", 2: "unreadable", 3: "no_object", 4: "no_question", 6: "too_large", 8: "no_question", 9: "id_twice"},
    }
    assert found[1][1]["why"] == "a.jsonl: not JSON at line 2: Expecting value"
    assert found[2][1]["why"] == "a.jsonl: not UTF-8 at line 3: invalid start byte"
    assert found[6][1] == {"characters": {"question": 10 << 20}, "at_most": 100_000}


def test_what_is_written_is_read_by_our_own_task(made: Path, tmp_path: Path) -> None:
    assert main(["curate", str(made), "--out", str(tmp_path / "out")]) == 0
    data = tmp_path / "out" / "data"
    for suffix in ("parquet", "jsonl"):
        task = File(train=str(data / f"train.{suffix}"), validation=str(data / f"validation.{suffix}"), shuffle=False)
        assert (task.size("train"), task.size("validation")) == (67, 15)
        problem = task.problem("train", 0)
        assert problem.prompt[0]["content"].endswith("end? Think step by step.") and problem.gold.isdigit()
    (row, *_) = pq.read_table(data / "train.parquet").to_pylist()
    assert row["reward_model"] == {"style": "rule", "ground_truth": row["answer"]} and row["data_source"] == row["source"]
    assert row["prompt"] == [{"role": "user", "content": f"{row['question']} Think step by step."}]
    assert row["extra_info"] == {"split": "train", "index": 0, "id": row["id"]}


@pytest.mark.parametrize(
    ("sources_", "steps", "words"),
    [
        ([{"name": "a"}], [], "source.0: expected one of path, hub and generate"),
        ([{"name": "a", "path": "a.jsonl", "colums": "x"}], [], "unknown key source.0.colums"),
        (
            [{"name": "a", "path": "a.jsonl"}],
            [{"kind": "extrakt"}],
            "step.0: kind is 'extrakt', expected one of agreement, audit",
        ),
        ([{"name": "a", "path": "a.jsonl"}], [{"kind": "extract", "from": "b"}], "step.0 (extract) takes from 'b'"),
        ([{"name": "a", "path": "a.jsonl"}], [{"kind": "extract"}] * 2, "step.1: 'extract' is a name twice"),
        ([{"name": n, "path": "a.jsonl"} for n in "ab"], [{"kind": "extract"}], "no step takes from source 'a'"),
        ([{"name": "a", "path": "a.jsonl"}] * 2, [], "two sources are called 'a'"),
        ([{"name": "a", "path": "none.jsonl"}], [], "source a: none.jsonl: no .json, .jsonl"),
        ([{"name": "a", "path": "a.jsonl"}], [{"kind": "mix", "take": [{"from": "a"}], "rows": 5}], "take has `rows` of each"),
        ([{"name": "a", "path": "a.jsonl"}], [{"kind": "decontaminate", "against": ["nothing"]}], "--on nothing: no such file"),
    ],
)
def test_a_wrong_recipe_says_what_to_mend(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sources_: list[Any],
    steps: list[Any],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "a.jsonl", problems(3))
    assert main(["curate", str(recipe(tmp_path / "r.toml", sources_, steps)), "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said


@pytest.mark.full
@pytest.mark.skipif(not DATA.is_dir(), reason="no local copy of the data")
def test_the_local_recipe_finds_what_is_known_to_overlap(tmp_path: Path) -> None:
    """One AIME row of the sample is in MATH-500, one row of dsr_sub in OlympiadBench."""
    made = Path(__file__).resolve().parents[2] / "recipes" / "curation" / "curate_local.toml"
    places = [
        f"source.0.path={DATA}/math_train/deepscaler_train_sample2000.json.gz",
        f"source.1.path={DATA}/math_train/oneshot_dsr_sub.parquet",
    ]
    sets = [text for place in (*places, f"step.3.data={DATA}") for text in ("--set", place)]
    assert main(["curate", str(made), "--out", str(tmp_path / "out"), *sets]) == 0
    found = [
        (r["source"], json.loads(r["detail"]), r["reason"]) for r in rejects(tmp_path / "out") if r["step"] == "decontaminate"
    ]
    same = [(source, d["benchmark"], d["text"]) for source, d, reason in found if reason == "same"]
    assert [text[:40] for source, name, text in same if (source, name) == ("deepscaler", "math500")] == [
        "Find the number of integer values of $k$"
    ]
    assert [text[:30] for source, name, text in same if (source, name) == ("dsr_sub", "olympiadbench")] == [
        "Find all triples $(a, b, c)$ o"
    ]
    assert not [name for _, name, _ in same if name.startswith(("aime", "amc", "minerva"))]
    nodes = funnel(tmp_path / "out")
    assert nodes["all"]["in"] == 3209 and nodes["split"]["kept"] == nodes["gradable"]["kept"] > 3000
