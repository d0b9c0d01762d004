"""Comparisons worked by hand, SIRI's table from its own numbers, the frontier, and a run by its validations."""

import json
from pathlib import Path

import pytest

from longthink.analysis.cost import published
from longthink.analysis.coverage import coverage
from longthink.analysis.frontier import Point, dominations, efficiency
from longthink.cli import main
from longthink.errors import TaskError
from longthink.evaluation.compare import compare, table
from longthink.evaluation.gather import gather
from longthink.evaluation.results import Answers, Evaluated, Sample
from longthink.stats import Interval, holm, paired_p


def evaluated(name, scores, tokens, **facts):
    rows = [
        [Sample(i, "text", t, "stop", s, "ok") for i, (s, t) in enumerate(zip(row, ts, strict=True))]
        for row, ts in zip(scores, tokens, strict=True)
    ]
    problems = [{"id": f"p{i}", "prompt": [], "gold": "1"} for i in range(len(rows))]
    answers = Answers("set", {"reward": {"kind": "math"}}, problems, rows)
    return Evaluated(Path(name), {"name": name, "window": 100, **facts}, {"set": answers})


BASE = evaluated("base", [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]] * 5, [[80, 80]] * 20)
BETTER = evaluated("better", [[1.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0]] * 5, [[40, 60]] * 20)
SAME = evaluated("same", [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0]] * 5, [[90, 90]] * 20)


def test_better_and_not_distinguishable():
    made = compare([BASE, BETTER, SAME])
    better, same = made.pairs
    assert better.verdict == "better" and better.difference.mean == pytest.approx(0.375)
    assert len(better.won) == 10 and better.lost == []
    assert better.tokens == Interval(-30.0, -30.0, -30.0)
    assert (
        same.verdict == "not distinguishable"
        and same.difference.mean == pytest.approx(0.0)
        and len(same.won) == len(same.lost) == 5
    )
    assert compare([BETTER, BASE]).pairs[0].verdict == "worse"
    raw = paired_p(
        [[s.score for s in row] for row in BETTER.sets["set"].samples],
        [[s.score for s in row] for row in BASE.sets["set"].samples],
    )
    assert better.p == pytest.approx(2 * raw)  # two comparisons
    assert made.efficiency["better"] == pytest.approx((0.75 / 0.375 - 1) / (50 / 80)) and made.efficiency["base"] == 0.0
    said = table(made)
    assert "not distinguishable" in said and "dominated by better" in said and "corrected for 2 comparisons" in said


def test_what_makes_it_unfair_is_said():
    other = evaluated("other", [[1.0, 1.0]] * 20, [[1, 1]] * 20, temperature=1.0)
    assert compare([BASE, other]).warnings == ["they differ in temperature: None, 1.0"]
    with pytest.raises(TaskError, match="other problems"):
        compare([BASE, evaluated("short", [[1.0]], [[1]])])


def test_problems_that_one_could_not_grade_are_left_out():
    rows = [[None, None], [1.0, 1.0], [1.0, None], [1.0, 1.0]] * 5
    partly = evaluated("partly", rows, [[1, 1]] * 20)
    made = compare([BASE, partly])
    assert len(made.points["set"][0].scores) == 15
    with pytest.raises(TaskError, match="no benchmark with a graded sample"):
        compare([BASE, evaluated("none", [[None, None]] * 20, [[1, 1]] * 20)])


def test_one_name_for_two_files_is_refused_and_names_are_told_apart(tmp_path):
    def named(folder, sha):
        rows = [[Sample(0, "7", 1, "stop", 1.0, "ok")]] * 3
        answers = Answers("set", {"sha256": sha}, [{"id": f"p{i}"} for i in range(3)], rows)
        return Evaluated(folder, {"name": folder.name, "window": 9}, {"set": answers})

    with pytest.raises(TaskError, match="checksums differ"):
        compare([named(tmp_path / "a", "1"), named(tmp_path / "b", "2")])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.6, 0.7]) == [1.0, 1.0]
    assert paired_p([[1.0]], [[0.0]]) == 1.0 and paired_p([[1], [1]], [[1], [1]]) == 1.0
    assert paired_p([[1], [1]], [[0], [0]]) == 0.5  # two signs alike are no proof
    assert paired_p([[1]] * 10, [[0]] * 10) == 2 / 2**10


def test_siri_s_table_from_its_own_numbers():
    rows = [s for s in published()["score"] if s["table"] == "SIRI, table 1"]
    assert len(rows) == 17
    first = {}
    for row in rows:
        own = {name: (v[0], float(v[1])) for name, v in row.items() if isinstance(v, list)}
        first = own if row["name"].startswith("DeepSeek-R1") else first
        assert efficiency(own, first) == pytest.approx(row["efficiency"], abs=0.01), row["name"]
    with pytest.raises(ValueError, match="accuracy above 0"):
        efficiency({"new": (0.5, 1.0)}, first)


def test_the_frontier():
    def point(name, accuracy, tokens):
        lengths = [[float(t)] for t in tokens]
        scores = [[a] for a in accuracy]
        return Point(name, Interval(sum(accuracy) / 4, 0, 1), Interval(sum(tokens) / 4, 0, 1), scores, lengths)

    low = point("low", [0.0, 0.5, 0.5, 0.0], [10, 10, 10, 10])
    high = point("high", [1.0, 1.0, 0.9, 1.0], [40, 40, 41, 40])
    worse = point("worse", [0.5, 0.5, 0.4, 0.5], [50, 51, 52, 50])
    close = point("close", [1.0, 0.0, 0.0, 0.0], [10, 10, 9, 40])
    found = dominations([low, high, worse, close])
    assert found.keys() == {"worse", "close"}
    assert found["worse"] == ("high", True) and found["close"] == ("low", False)
    assert dominations([low, low._replace(name="twin")]) == {}


def test_a_run_by_its_validations(tmp_path, capsys):
    run = tmp_path / "run"
    (run / "rollouts").mkdir(parents=True)
    for step, right in ((0, 1), (10, 3)):
        rows = []
        for group in range(4):
            verdict = {"score": float(group < right), "status": "ok", "extracted": "7", "detail": {}}
            row = {"step": step, "group": group, "sample": 0, "problem": f"p{group}", "domain": "", "prompt": [], "window": 64}
            rows.append(row | {"text": "7", "response_ids": [1] * 5, "finish_reason": "stop", "verdict": verdict})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (run / "rollouts" / f"step_{step:06d}.validation.jsonl").write_text(text)
        narrow = text.replace('"window": 64', '"window": 6')
        (run / "rollouts" / f"step_{step:06d}.validation.narrow.jsonl").write_text(narrow)
    found = gather([run])
    assert [coverage(found[1], name).rows[-1][0] for name in ("narrow", "validation")] == [6, 64]
    assert [s.vote for row in found[1].sets["validation"].samples for s in row] == [0, 0, 0, 0]
    assert [e.name for e in found] == ["step 0", "step 10"] and found[0].sets.keys() == {"validation", "narrow"}
    assert main(["compare", str(run)]) == 0
    assert "step 10" in capsys.readouterr().out
    for path in (run / "rollouts").glob("step_000010.*"):
        path.unlink()
    assert main(["compare", str(run)]) == 2
    assert "is one evaluation" in capsys.readouterr().err
    assert main(["compare", str(tmp_path)]) == 2


def test_a_page_with_links_to_the_responses(tmp_path, capsys):
    folders = []
    for name, score in (("before", 0.0), ("after", 1.0)):
        folder = tmp_path / name
        folder.mkdir()
        facts = {"name": name, "window": 64, "benchmarks": {"set": {"reward": {"kind": "math"}}}}
        (folder / "eval.json").write_text(json.dumps(facts))
        (folder / "summary.json").write_text("{}")
        problems = [
            {"benchmark": "set", "id": f"<p/{i}>", "prompt": [{"role": "user", "content": "?"}], "gold": 7} for i in range(3)
        ]
        (folder / "problems.jsonl").write_text("".join(json.dumps(p) + "\n" for p in problems))
        row = {
            "benchmark": "set",
            "sample": 0,
            "tokens": 9,
            "finish_reason": "stop",
            "status": "ok",
            "extracted": "7",
            "detail": {},
        }
        rows = [row | {"problem": i, "score": score if i else 0.0, "text": "7"} for i in range(3)]
        (folder / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        folders.append(folder)
    assert main(["compare", *map(str, folders), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "compare.html").read_text()
    assert 'href="view.html#set%3A%3Cp%2F1%3E"' in page and "&lt;p/2&gt;" in page and "<p/2>" not in page
    assert "2 problems won against before" in page and "lost against" not in page
    assert (tmp_path / "page" / "view.html").is_file()
    capsys.readouterr()
