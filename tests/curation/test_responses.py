"""Responses to fine-tune on: distilled from a server and a folder, injected, synthesised; chosen, verified, and learnt from."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tomli_w
from asking import Endpoint, curated, products

from longthink.cli import main
from longthink.curation.asking import Asking, Reply
from longthink.curation.responses import said_by_tool
from longthink.curation.rows import Rejected, Row
from longthink.curation.steps import inject
from longthink.curation.steps.distill import Distill
from longthink.curation.steps.inject import TURNS, cut
from longthink.tasks.file import File
from longthink.types import Verdict

ROW = Row("a:0", "What is 6 times 7?", "42", "", "a", 0, "")
ASKING = Asking(path="http://x/v1")
RIGHT, WRONG = Verdict(1.0, "ok"), Verdict(0.0, "ok")


def responses(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    return list(pq.read_table(folder / "out" / "data" / f"responses.{split}.parquet").to_pylist())


def test_which_responses_stay_by_hand() -> None:
    """Wrong and cut ones go, then those out of length, then what is much like one before it; the rest in the order asked for."""
    long = " ".join(f"word{i}" for i in range(40))
    texts = [f"{long} 42", "so 42", f"{long} 42!", "cut", "no", "it is 6 * 7 which is 42"]
    replies = [Reply(text, len(text.split()), text == "cut") for text in texts]
    verdicts = [WRONG if text == "no" else RIGHT for text in texts]

    def kept(**fields: Any) -> list[int] | str:
        found = Distill(model=ASKING, **fields)._one(ROW, replies, verdicts, "m")
        return found.reason if isinstance(found, Rejected) else [r["sample"] for r in found.facts["distill"]["responses"]]

    assert kept() == [0] and kept(keep=9) == [0, 1, 5]
    assert kept(keep=9, similar=1.0) == [0, 1, 2, 5]
    assert kept(keep=9, order="short") == [1, 5, 0] and kept(keep=2, order="long") == [0, 5]
    assert kept(keep=9, least_tokens=3, most_tokens=10) == [5]
    assert kept(keep=9, right=False) == [0, 1, 4, 5]
    assert kept(code="some") == "no_code" and kept(least_tokens=50) == "too_short"
    found = Distill(model=ASKING, keep=9)._one(ROW, replies, verdicts, "m")
    assert isinstance(found, Row) and found.facts["distill"]["refused"] == {"cut": 1, "wrong": 1}
    assert Distill(model=ASKING)._one(ROW, [], [], "m") == Rejected(ROW, "no_reply", {"asked": 0, "left": 0, "refused": {}})


def test_a_teacher_is_asked_verified_and_chosen_from_and_nothing_is_asked_twice(
    endpoint: Endpoint,
    tmp_path: Path,
) -> None:
    rows = products("A trivial one.", "An impossible one.", "Plain.", "fail-once", "Plain again.")
    step = {"kind": "distill", "samples": 4, "prompt": "deepscaler", "model": {"path": endpoint.address, "window": 64}}
    found = curated(tmp_path / "c", rows, [step])
    assert found["dropped"][1]["reason"] == "wrong" and found["dropped"][1]["detail"]["refused"] == {"wrong": 4}
    told = responses(tmp_path / "c")
    assert len(told) == len(found["kept"]) and {r["id"].rsplit(":", 1)[0] for r in told} == {
        r["id"] for r in found["kept"].values()
    }
    for r in told:
        assert r["response"] == f"So \\boxed{{{r['answer']}}}" and r["tokens"] == 2 and r["step"] == "distill"
        assert r["model"] == endpoint.address and "Let's think" not in r["prompt"][0]["content"]
    assert "responses" not in found["kept"][0]["facts"]["distill"]
    card, figures = (tmp_path / "c" / "out" / "card.md").read_text(), tmp_path / "c" / "out" / "figures"
    assert (
        f"{len(found['kept'])} rows of train, with {len(told)} responses to fine-tune on" in card
        and "figures/responses.png" in card
    )
    assert (figures / "responses.csv").read_text().splitlines()[0] == "characters from,to,rows"
    asked = endpoint.asked()
    assert asked == 5 * 4 + 1
    curated(tmp_path / "c", rows, [step | {"keep": 2, "similar": 1.0, "order": "short"}])
    assert endpoint.asked() == asked


def test_code_that_shows_what_it_did_not_say_is_found_out(endpoint: Endpoint, tmp_path: Path) -> None:
    rows = products(*[f"{i} with code." for i in range(6)])
    rows = [{"problem": row["problem"].split(".", 1)[1] + " Solve it with code.", "answer": row["answer"]} for row in rows]
    step = {"kind": "distill", "samples": 8, "keep": 8, "code": "some", "model": {"path": endpoint.address, "window": 64}}
    curated(tmp_path / "c", rows, [step])
    before = responses(tmp_path / "c")
    curated(tmp_path / "c", rows, [step | {"rerun": True}])
    after = responses(tmp_path / "c")
    invented = [r for r in before if said_by_tool(r["response"], "still")[0][1] != r["answer"]]
    assert invented and {r["id"] for r in after} == {r["id"] for r in before} - {r["id"] for r in invented}
    assert all("```Output" in r["response"] for r in after)


def test_responses_that_rows_bring_along_are_verified_and_measured(tmp_path: Path) -> None:
    told = [("7", "so \\boxed{7}"), ("7", "so \\boxed{8}"), ("7", "so it is, after long thought, \\boxed{7}"), ("7", "")]
    rows = [{"problem": f"Number {i}?", "answer": a, "solution": s} for i, (a, s) in enumerate(told)]
    found = curated(tmp_path / "c", rows, [{"kind": "given", "most_tokens": 3, "model": "someone"}])
    assert {n: row["reason"] for n, row in found["dropped"].items()} == {1: "wrong", 2: "too_long", 3: "no_reply"}
    (kept,) = responses(tmp_path / "c")
    assert (kept["response"], kept["model"], kept["id"], kept["tokens"]) == ("so \\boxed{7}", "someone", "a:0:0", 2)


def test_a_thought_is_cut_before_a_turn_behind_its_first_third_and_the_last_output() -> None:
    parts = ["a. ", "Wait, b. ", "But c. ", "Hmm, d. ", "Moreover e. ", "Wait f. "]
    for seed in range(20):
        begun = cut("".join(parts) + "</think> Wait 7", "still", np.random.default_rng(seed))
        assert begun in {"".join(parts[:n]) for n in range(2, 6)}
        called = "Wait, so\n```python\n1\n```\n\n```Output\n1\n```\n\n"
        again = cut(called + "".join(parts), "still", np.random.default_rng(seed))
        assert again is not None and again.startswith(called) and again.removeprefix(called) == begun
    assert cut("a. Wait, b. But c.", "still", np.random.default_rng(0)) is None and len(TURNS) == 6


def test_a_folder_that_calls_the_tool_is_distilled_and_learnt_from(tool_folder: Path, tmp_path: Path) -> None:
    """Its code is run while it is asked; what it is given is masked where the responses are learnt."""
    rows = [{"problem": f"2 3 -> {t}", "answer": {"numbers": [2, 3], "target": t}} for t in (5, 6)]
    settings = {"tool": {"format": "tags", "call_s": 0.5}, "model": {"dtype": "float32"}, "cluster": {"learners": 1}}
    model = {"path": str(tool_folder), "window": 60, "temperature": 1.0, "settings": settings}
    reward = {"kind": "countdown", "think": "template"}
    step = {"kind": "distill", "samples": 64, "keep": 64, "similar": 1.0, "code": "some", "format": "tags", "rerun": True}
    found = curated(tmp_path / "c", rows, [step | {"model": model, "reward": reward}])
    told = responses(tmp_path / "c")
    assert len(told) >= 4 and len(found["kept"]) == 2
    outputs = Counter(call for r in told for call in said_by_tool(r["response"], "tags"))
    assert outputs[" 6*7 ", "42"] and not outputs[" 6*7 ", ""]
    recipe = {
        **{"name": "again", "model": {"path": str(tool_folder), "dtype": "float32"}, "cluster": {"learners": 1, "threads": 1}},
        "task": {"kind": "file", "train": str(tmp_path / "c" / "out" / "data" / "responses.train.jsonl"), "limit": 8},
        **{"tool": {"format": "tags"}, "rollout": {"prompts": 4, "window": 60}, "budget": {"max_epochs": 1}, "workers": 1},
    }
    (tmp_path / "sft.toml").write_text(tomli_w.dumps(recipe))
    assert main(["sft", str(tmp_path / "sft.toml"), "--out", str(tmp_path / "run")]) == 0
    rollouts = [json.loads(line) for line in (tmp_path / "run" / "rollouts" / "step_000001.jsonl").read_text().splitlines()]
    assert len(rollouts) == 4 and {r["text"] for r in rollouts} <= {r["response"] for r in told}


def test_a_phrase_is_injected_and_the_response_goes_on_from_its_code(
    tool_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"problem": f"2 3 -> {t}", "answer": {"numbers": [2, 3], "target": t}} for t in (5, 6)]
    settings = {"tool": {"format": "tags", "call_s": 0.5}, "model": {"dtype": "float32"}, "cluster": {"learners": 1}}
    model = {"path": str(tool_folder), "window": 60, "temperature": 1.0, "settings": settings}
    step = {"kind": "inject", "samples": 8, "keep": 8, "format": "tags", "right": False, "similar": 1.0, "bridges": ["42"]}
    step |= {"model": model, "reward": {"kind": "countdown", "think": "template"}}
    monkeypatch.setattr(inject, "cut", lambda text, format, draw: "")  # this model knows no words of turning
    found = curated(tmp_path / "c", rows, [step])
    assert found["kept"]
    texts = [r["response"] for r in responses(tmp_path / "c")]
    assert texts and all("<output>" in text for text in texts)
    assert any(text.lstrip().startswith("42 <code>") for text in texts)


def test_inject_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = products("Plain.")
    curated(tmp_path / "a", rows, [{"kind": "inject", "model": {"path": "m"}}], status=2)
    assert "model.settings needs an interpreter that runs: expected tool = { format = 'still' }" in capsys.readouterr().err
    curated(tmp_path / "b", rows, [{"kind": "inject", "model": {"path": "http://x/v1", "settings": {"tool": {}}}}], status=2)
    assert "settings are for the folder of a model; a server has its own" in capsys.readouterr().err


def test_synthesis_writes_thoughts_with_verification_reflection_and_correction(tmp_path: Path) -> None:
    source = {"name": "s", "generate": {"kind": "countdown", "rows": 60, "slips": 0.3, "overthink": 0.9}, "traces": 2}
    table = {"name": "s", "source": [source], "step": [{"kind": "split", "rows": 10}]}
    (tmp_path / "r.toml").write_text(tomli_w.dumps(table))
    assert main(["curate", str(tmp_path / "r.toml"), "--out", str(tmp_path / "out")]) == 0
    told = responses(tmp_path)
    assert len(told) == 100 and len(responses(tmp_path, "validation")) == 20
    texts = " ".join(r["response"] for r in told)
    assert " ? " in texts and " yes wait " in texts  # verification, and a second look
    slip = [words for words in texts.split(" wait ")[1:] if words.split(" = ")[0].count(" ") == 2]
    assert len(slip) > 20  # a step that is written again
    task = File(train=str(tmp_path / "out" / "data" / "responses.train.parquet"))
    problem = task.problem("train", 0)
    assert task.trace(problem, 0) in {r["response"] for r in told} and json.loads(problem.gold)["target"]
