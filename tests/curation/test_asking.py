"""Steps that ask a model: a real endpoint in a process of its own, and a folder with the embedded engine."""

import json
import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tomli_w
from asking import Endpoint, curated, products

from longthink.cli import main
from longthink.curation import sources
from longthink.tasks.countdown import Countdown


def test_a_pass_rate_with_its_interval_and_a_band(endpoint: Endpoint, tmp_path: Path) -> None:
    rows = products("A trivial one.", "An impossible one.", "fail-once", "Plain.", "Plain again.")
    step = {"kind": "difficulty", "samples": 8, "zeros": False, "ones": False, "model": {"path": endpoint.address, "window": 64}}
    found = curated(tmp_path / "c", rows, [step])
    assert sorted(found["kept"]) == [2, 3, 4]
    assert {n: row["reason"] for n, row in found["dropped"].items()} == {0: "always_right", 1: "never_right"}
    assert endpoint.asked() == 5 * 8 + 1  # a reply that failed is asked for again
    for row in found["kept"].values():
        facts = row["facts"]["difficulty"]
        assert facts["samples"] == 8 and 0 < facts["low"] < facts["pass_rate"] < facts["high"] < 1
        assert row["pass_rate"] == facts["pass_rate"] and facts["pass_rate"] * 8 == round(facts["pass_rate"] * 8)
    always = found["dropped"][0]["facts"]["difficulty"]
    assert always["pass_rate"] == always["high"] == 1.0 and 0.5 < always["low"] < 0.8
    wrong = found["dropped"][1]["facts"]["difficulty"]["majority"]
    assert wrong == {"answer": "999983", "votes": 8, "right": False}


def test_samples_are_kept_and_used_again(endpoint: Endpoint, tmp_path: Path) -> None:
    """A wider band asks nothing, more samples ask for those that are missing, an audit behind them asks nothing."""
    rows = products("A trivial one.", "An impossible one.", "Plain.")
    model = {"path": endpoint.address, "window": 64}
    curated(tmp_path / "c", rows, [{"kind": "difficulty", "samples": 4, "zeros": False, "model": model}])
    assert endpoint.asked() == 12
    audit = {"kind": "audit", "drop": True, "share": 0.75}
    found = curated(tmp_path / "c", rows, [{"kind": "difficulty", "samples": 6, "model": model}, audit])
    assert endpoint.asked() == 18
    assert found["dropped"][1]["reason"] == "suspect" and found["dropped"][1]["detail"]["suspect"] == "999983"
    assert "| a:1 | 96 | 999983 | 6 of 6 |" in (tmp_path / "c" / "out" / "card.md").read_text()
    curated(tmp_path / "c", rows, [{"kind": "difficulty", "samples": 6, "ones": False, "model": model}, audit])
    assert endpoint.asked() == 18


def test_a_killed_asking_goes_on_and_asks_for_the_rest(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = products(*["Plain."] * 60)
    step = {"kind": "difficulty", "samples": 4, "model": {"path": endpoint.address, "window": 64, "concurrency": 1}}
    whole = curated(tmp_path / "whole", rows, [step])
    before = endpoint.asked()
    (tmp_path / "cut").mkdir()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            curated(tmp_path / "cut", rows, [step])
        finally:
            os._exit(0)
    samples = tmp_path / "cut" / "out" / "samples"
    while not any(p.stat().st_size for p in samples.glob("*.jsonl")):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    asked = endpoint.asked()
    assert asked - before < 240
    (path,) = samples.glob("*.jsonl")
    held = path.read_bytes().count(b"\n")
    with path.open("ab") as file:
        file.write(b'{"prompt": "torn')
    found = curated(tmp_path / "cut", rows, [step])
    assert endpoint.asked() - asked == 240 - held and held >= 64
    assert found["kept"] == whole["kept"] and found["dropped"] == whole["dropped"]


def test_another_model_must_agree(endpoint: Endpoint, tmp_path: Path) -> None:
    rows = products("A trivial one.", "An impossible one.", "A trivial two.")
    rows[2]["answer"] = "5"
    found = curated(tmp_path / "c", rows, [{"kind": "agreement", "model": {"path": endpoint.address, "window": 64}}])
    assert sorted(found["kept"]) == [0] and found["kept"][0]["facts"]["agreement"]["agreement"] == 1.0
    assert found["kept"][0]["pass_rate"] is None  # a teacher's agreement is no difficulty
    assert {row["reason"] for row in found["dropped"].values()} == {"never_right"} and endpoint.asked() == 3


def test_a_judge_by_any_by_most_and_by_the_mean(endpoint: Endpoint, tmp_path: Path) -> None:
    rows = [{"problem": text, "answer": "1"} for text in ("Add one and one.", "Give a proof of it.", "Subtract two from three.")]
    judge = {"kind": "judge", "votes": 8, "model": {"path": endpoint.address, "window": 64, "temperature": 0.8}}
    found = curated(tmp_path / "any", rows, [judge])
    assert sorted(found["kept"]) == [0, 2] and found["dropped"][1]["reason"] == "judged_2"
    assert set(found["kept"][0]["facts"]["judge"]["votes"]) == {1.0} and found["dropped"][1]["detail"]["votes"] == [2.0] * 8
    found = curated(tmp_path / "mean", rows, [judge | {"by": "mean", "least": 1.5}])
    assert sorted(found["kept"]) == [1] and found["dropped"][0]["detail"] == {"mean": 1.0}
    assert {json.loads(line)["temperature"] for line in endpoint.log.read_text().splitlines()} == {0.8}


def test_votes_read_answers_and_differing_ones_are_alternatives_or_rejected(endpoint: Endpoint, tmp_path: Path) -> None:
    rows = [{"problem": f"Number {i}?", "solution": f"After all, the result is {10 * i}."} for i in range(6)]
    rows.append({"problem": "Number?", "solution": "Nobody knows."})
    vote = {"kind": "vote", "from": "extract.rejected", "votes": 5, "model": {"path": endpoint.address, "window": 64}}
    found = curated(tmp_path / "c", rows, [{"kind": "extract"}, vote])
    assert sorted(found["kept"]) == [0, 1, 2, 3, 4, 5] and found["dropped"][6]["reason"] == "no_answer"
    for i, row in found["kept"].items():
        said = row["facts"]["vote"]["votes"]
        alternatives = json.loads(row["answer"]) if row["answer"].startswith("[") else [row["answer"]]
        assert set(alternatives) == set(said) <= {str(10 * i), str(10 * i + 1)}
        assert said.count(alternatives[0]) == max(map(said.count, said))
    strict = curated(tmp_path / "strict", rows, [{"kind": "extract"}, vote | {"disagree": "reject", "share": 1.0}], status=1)
    differ = {n for n, row in found["kept"].items() if row["answer"].startswith("[")}
    assert {n for n, row in strict["dropped"].items() if row["reason"] == "votes_differ"} == differ != set()


def test_a_folder_is_asked_by_the_embedded_engine(warm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pass rates of Countdown's warm start; cut into shards of another size they are the same to the bit."""
    table = {"kind": "countdown", "count": 2, "high": 6, "min_target": 2, "rows": 12}
    generated = {"name": "made", "generate": table}
    model = {"path": str(warm_folder), "window": 60, "temperature": 1.0, "settings": {"model": {"dtype": "float32"}}}
    step = {"kind": "difficulty", "samples": 4, "prompt": "bare", "reward": {"kind": "countdown"}, "model": model}
    rates = []
    for shard in (5_000, 5):
        monkeypatch.setattr(sources, "SHARD", shard)
        folder = tmp_path / str(shard)
        folder.mkdir()
        (folder / "r.toml").write_text(tomli_w.dumps({"name": "made", "source": [generated], "step": [step]}))
        assert main(["curate", str(folder / "r.toml"), "--out", str(folder / "out"), "--workers", "1"]) == 0
        rows = pq.read_table(folder / "out" / "data" / "train.parquet").to_pylist()
        rates.append([(row["id"], row["pass_rate"], json.loads(row["facts"])["difficulty"]["tokens"]) for row in rows])
    assert rates[0] == rates[1] and len(rates[0]) == 12 and 0 < sum(rate for _, rate, _ in rates[0]) < 12
    assert Countdown(count=2, high=6, min_target=2).problem("train", 3).prompt[-1]["content"] == rows[3]["question"]


def test_a_model_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, words in (("models/none", "is no folder here"), ("http://127.0.0.1:9/v1", "no OpenAI-compatible server answers")):
        step = {"kind": "difficulty", "model": {"path": path}}
        curated(tmp_path / "c", products("Plain."), [step], status=2)
        assert words in capsys.readouterr().err
