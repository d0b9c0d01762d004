"""What goes wrong in a curation: odd graphs, empty streams, hostile rows, files that change or are lost, mistakes in recipes."""

import json
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w

from longthink.cli import main
from longthink.curation import sources
from longthink.curation.recipe import Source
from longthink.curation.rows import Row
from longthink.curation.sources import _Taken


def problems(count: int) -> list[dict[str, Any]]:
    words = "ash bay cod dew elm fir gum hay ivy jet kit log".split()  # noqa: SIM905
    texts = (
        f"How many {words[i % 12]} are in {i + 2} boxes of {words[i * 5 % 12]} and {words[i * 7 % 11]}?" for i in range(count)
    )
    return [{"problem": text, "answer": str(i), "n": i, "kind": "even" if i % 2 == 0 else "odd"} for i, text in enumerate(texts)]


def curate(folder: Path, steps: list[dict[str, Any]], status: int = 0, source: Any = None, **more: Any) -> dict[str, Any]:
    """Curate; the data and the rejects by split, and the funnel."""
    given = [{"name": "a", "path": str(folder / "a.jsonl"), **(source or {})}]
    (folder / "r.toml").write_text(tomli_w.dumps({"name": "odd", "source": given, "step": steps, **more}))
    assert main(["curate", str(folder / "r.toml"), "--out", str(folder / "out"), "--workers", "1"]) == status
    if status:
        return {}
    found = {path.stem: pq.read_table(path).to_pylist() for path in (folder / "out" / "data").glob("*.parquet")}
    steps_ = json.loads((folder / "out" / "funnel.json").read_text())["steps"]
    return found | {"funnel": {node["name"]: node for node in steps_}}


def jsonl(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("by", ["exact", "minhash"])
def test_shards_without_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    monkeypatch.setattr(sources, "SHARD", 10)
    jsonl(tmp_path / "a.jsonl", problems(30))
    halves = {"where": {"kind": "even"}}
    steps = [{"kind": "duplicates", "by": by}, {"kind": "duplicates", "name": "again", "from": "duplicates.rejected", "by": by}]
    steps += [{"kind": "split", "from": "duplicates", "rows": 3}]
    found = curate(tmp_path, steps, source=halves)
    assert found["funnel"]["again"]["in"] == found["funnel"]["duplicates"]["rejected"]
    jsonl(tmp_path / "a.jsonl", [{"problem": "What?", "answer": "1", "kind": "even" if i == 25 else "odd"} for i in range(30)])
    found = curate(tmp_path, steps[:1], source=halves)
    assert len(found["train"]) == 1 and found["funnel"]["a"]["rejected"] == 29


def test_a_row_without_an_answer_is_no_data_and_alternatives_are_texts(tmp_path: Path) -> None:
    answers: list[Any] = [None, "[1, 2]", ["7", 8], {"m": 1}, 9]
    jsonl(tmp_path / "a.jsonl", [{"problem": f"Question {i}?", "answer": a} for i, a in enumerate(answers)])
    found = curate(tmp_path, [])
    assert [row["answer"] for row in found["train"]] == ["[1, 2]", '["7", "8"]', '{"m": 1}', "9"]
    [dropped] = found["rejects"]
    assert (dropped["id"], dropped["step"], dropped["reason"], dropped["in_data"]) == ("a:0", "output", "no_answer", False)


def test_another_name_draws_other_rows_and_all_that_follows_is_done_again(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", problems(60))
    drawn = []
    for name in ("one", "two"):
        mix = {"kind": "mix", "name": name, "take": [{"from": "a", "rows": 20}]}
        found = curate(tmp_path, [mix, {"kind": "extract"}])
        drawn.append([row["row"] for row in found["train"]])
        assert {row["step"] for row in found["rejects"]} == {name}
    assert drawn[0] != drawn[1] and len(drawn[1]) == 20


def test_a_folder_of_another_recipe_is_emptied_beginning_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the rows of an old recipe are removed, back to it: nothing counts as done that is half gone."""
    jsonl(tmp_path / "a.jsonl", problems(20))
    first = [{"kind": "mix", "take": [{"from": "a", "rows": 10}]}]
    before = curate(tmp_path, first)["train"]

    def killed(folder: Path, *_: Any) -> None:
        for path in Path(folder).glob("kept/*"):
            path.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        curate(tmp_path, [{"kind": "mix", "take": [{"from": "a", "rows": 5}]}], status=130)
    assert curate(tmp_path, first)["train"] == before


def test_lost_and_torn_files_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonl(tmp_path / "a.jsonl", problems(20))
    steps = [{"kind": "extract"}]
    whole = curate(tmp_path, steps)["train"]
    shard = tmp_path / "out" / "steps" / "a" / "kept" / "00000.jsonl"
    lines = shard.read_bytes()
    for data, words in ((b"".join(lines.splitlines(True)[:9]), "20 rows went in, and 9 kept"), (lines[:-9], "torn or changed")):
        shard.write_bytes(data)
        curate(tmp_path, [{"kind": "extract", "name": words[:2]}], status=2)
        assert words in capsys.readouterr().err
    shard.write_bytes(lines)
    (tmp_path / "out" / "data" / "train.parquet").unlink()
    assert curate(tmp_path, steps)["train"] == whole
    (tmp_path / "out" / "steps" / "a" / "done.json").write_text("{")
    curate(tmp_path, steps, status=2)
    assert "done.json is torn or changed" in capsys.readouterr().err


def test_a_row_that_is_dropped_never_has_the_name_of_another(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"problem": "A?", "answer": "1", "id": 1}\n{bad\n{"problem": "B?", "answer": "2", "id": 3}\n'
    )
    found = curate(tmp_path, [], source={"id": "id"})
    assert [row["id"] for row in found["train"]] == ["a:1", "a:3"]
    assert [(row["id"], row["in_data"]) for row in found["rejects"]] == [("a:#1", False)]


def test_hostile_rows_are_rejected_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = {"problem": "What is 2 + 2?", "answer": "4", "k": "x"}
    deep = "[" * 900 + "]" * 900
    lines = [
        json.dumps(good),
        json.dumps(good | {"answer": "[" + "7" * 5000 + "]"}),  # too many digits for a number
        json.dumps(good)[:-1] + f', "k": {deep}}}',
        json.dumps(good)[:-1] + f', "answer": {deep}}}',
        json.dumps(good | {"problem": "half \ud83d a character"}),
        json.dumps(good | {"answer": "#### a" + " " * 90_000 + "\nb"}),
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = curate(tmp_path, [{"kind": "duplicates", "by": "exact"}], source={"keep": ["k"]})
    reasons = {row["row"]: row["reason"] for row in found["rejects"]}
    assert reasons == {1: "same", 2: "too_deep", 3: "too_deep", 4: "no_text", 5: "same"} and len(found["train"]) == 1


def test_columns_that_python_has_no_form_for_and_csv_that_is_broken(tmp_path: Path) -> None:
    table = pa.table(
        {"problem": ["Q?"], "answer": ["1"], "at": pa.array([1], pa.timestamp("ns")), "far": pa.array([2**60], "date64")}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert len(curate(tmp_path, [], source={"path": str(tmp_path / "a.parquet"), "keep": ["at"]})["train"]) == 1
    (tmp_path / "a.csv").write_bytes("problem,answer\nsmile 😀 ".encode() + b"\xff,1\nWhat?,2\n")
    found = curate(tmp_path, [], source={"path": str(tmp_path / "a.csv")})
    assert [row["question"] for row in found["train"]] == ["What?"] and "not UTF-8 at line 2" in found["rejects"][0]["detail"]
    (tmp_path / "a.csv").write_text('problem,answer\nWhat?,2\n"open,1\nWho?,3\n')
    found = curate(tmp_path, [], source={"path": str(tmp_path / "a.csv")})
    assert len(found["train"]) == 1 and "not CSV" in found["rejects"][0]["detail"]


def test_a_column_that_is_not_there_is_no_text(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [{"problem": "Q?", "answer": "1"}, {"problem": "R?", "answer": "2", "kind": "even"}])
    found = curate(tmp_path, [], source={"where": {"kind": "even"}})
    assert json.loads(found["rejects"][0]["detail"]) == {"kind": None}


def test_golds_that_are_tables_can_be_used_and_each_source_has_a_file(tmp_path: Path) -> None:
    """A verifier that makes no response from its gold is asked whether it can use it."""
    made = [{"name": "ifeval", "generate": {"kind": "instructions", "rows": 12}}]
    made += [{"name": "numbers", "generate": {"kind": "countdown", "rows": 5}}]
    steps = [
        {"kind": "gradable", "name": "ok", "from": "ifeval", "reward": {"kind": "instructions"}},
        {"kind": "mix", "take": [{"from": "ok"}, {"from": "numbers"}]},
    ]
    (tmp_path / "r.toml").write_text(tomli_w.dumps({"name": "b", "source": made, "step": steps, "output": {"apart": True}}))
    assert main(["curate", str(tmp_path / "r.toml"), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    counts = {path.name: pq.read_metadata(path).num_rows for path in (tmp_path / "out" / "data").glob("*.parquet")}
    assert counts == {"train.ifeval.parquet": 12, "train.numbers.parquet": 5, "rejects.parquet": 0}


@pytest.mark.parametrize(
    ("steps", "source", "words"),
    [
        ([{"kind": "gradable", "reward": {"kind": "maths"}}], {}, "maths"),
        ([{"kind": "decontaminate", "against": ["nowhere.jsonl"]}], {}, "nowhere.jsonl"),
        ([{"kind": "duplicates", "prefer": ["b"]}], {}, "prefers 'b'"),
        ([{"kind": "mix", "from": "a", "take": [{"from": "a"}]}], {}, "not from one `from`"),
        ([{"kind": "extract", "from": "a.rejected"}], {}, "what a source drops is no question"),
        ([], {"path": "", "generate": {"kind": "countdown", "rows": -1}}, "a whole number from 1"),
        ([], {"path": "", "generate": {"kind": "countdown", "rows": True}}, "a whole number from 1"),
        ([], {"path": "", "generate": {"kind": "file", "train": "a.jsonl", "rows": 3}}, "a file makes no problems"),
        ([], {"path": "", "generate": {"kind": "puzzles", "taks": ["ab"], "rows": 3}}, "puzzles have no 'taks'"),
        ([], {"files": "/etc/*"}, "expected a pattern below `path`"),
    ],
)
def test_a_mistake_is_told_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: list[dict[str, Any]], source: dict[str, Any], words: str
) -> None:
    jsonl(tmp_path / "a.jsonl", problems(5))
    curate(
        tmp_path, steps, status=2, source={k: v for k, v in source.items() if v} | ({"path": ""} if "generate" in source else {})
    )
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said and not (tmp_path / "out" / "steps").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonl(tmp_path / "a.jsonl", problems(5))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    curate(tmp_path, [], status=2)
    assert "holds thesis.tex and is no curation's folder" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["thesis.tex"]


def test_a_column_of_questions_that_no_row_has_and_a_split_that_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jsonl(tmp_path / "a.jsonl", problems(5))
    curate(tmp_path, [], status=2, source={"question": "problme"})
    assert "no row has a question in a column 'problme'; its columns are answer, kind, n, problem" in capsys.readouterr().err
    curate(tmp_path, [], status=2, source={"answer": "finl"})
    assert "no row has a column finl; fix `answer`" in capsys.readouterr().err
    curate(tmp_path, [{"kind": "content", "drop": ["open_ended"]}, {"kind": "extract", "ways": ["boxed"]}], status=1)
    assert "no row is left" in capsys.readouterr().err
    curate(tmp_path, [{"kind": "split", "rows": 5}], status=2)
    assert "leave none to train on" in capsys.readouterr().err


def test_a_disk_that_fills_up_while_the_data_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonl(tmp_path / "a.jsonl", problems(400))
    curate(tmp_path, [])
    shutil.rmtree(tmp_path / "out" / "data")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
        status = main(["curate", str(tmp_path / "r.toml"), "--out", str(tmp_path / "out"), "--workers", "1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert status == 2 and "what is whole is kept, the same command goes on" in capsys.readouterr().err
    assert len(curate(tmp_path, [])["train"]) == 400


def test_a_solution_may_be_put_together_from_columns() -> None:
    """A row that lacks one of them has none."""
    taken = _Taken(Source(name="a", path="a.jsonl", solution="<think>{deep.thought}</think> {said}"))
    found = [
        {"problem": "Why?", "answer": "7", "deep": {"thought": "so"}, "said": "7"},
        {"problem": "How?", "answer": "7", "said": "7"},
    ]
    assert [row.solution for row in taken.rows(iter(found)) if isinstance(row, Row)] == ["<think>so</think> 7", ""]
    assert not taken.lacks
