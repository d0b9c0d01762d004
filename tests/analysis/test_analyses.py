"""Every analysis on samples small enough to work by hand."""

import csv
import json
from pathlib import Path

import pytest

from longthink.analysis.behaviour import behaviour, habits
from longthink.analysis.contamination import contamination, matches
from longthink.analysis.cost import cost
from longthink.analysis.coverage import coverage
from longthink.analysis.curves import AXES, curves
from longthink.analysis.exhibit import Exhibit, write_exhibits
from longthink.analysis.format import format_split
from longthink.analysis.landscape import bars, costs, frontier, sizes
from longthink.analysis.lengths import lengths, overthinking, pieces
from longthink.analysis.scaling import scaling
from longthink.cli import main
from longthink.errors import RecipeError, TaskError
from longthink.evaluation.compare import compare
from longthink.evaluation.results import Answers, Evaluated, Sample
from longthink.evaluation.scores import summary


def sample(number, score, tokens, text="so 7", **more):
    return Sample(number, text, tokens, more.pop("finish_reason", "stop"), score, more.pop("status", "ok"), **more)


def evaluated(name, rows, window=100, golds=None, **labels):
    problems = [
        {"id": f"p{i}", "prompt": [{"role": "user", "content": f"{i}?"}], "gold": (golds or ["7"] * len(rows))[i]}
        | {"labels": {label: values[i] for label, values in labels.items()}}
        for i in range(len(rows))
    ]
    answers = Answers("set", {"reward": {"kind": "math"}}, problems, rows)
    return Evaluated(Path(name), {"name": name, "window": window, "parameters": 1.5e9}, {"set": answers})


ROWS = [
    [sample(0, 1.0, 10, vote=0), sample(1, 0.0, 30, vote=1), sample(2, 0.0, 100, finish_reason="length", status="truncated")],
    [sample(0, 1.0, 20, vote=0), sample(1, 1.0, 40, vote=0), sample(2, None, 5, status="verifier_error")],
]
ONE = evaluated("one", ROWS, difficulty=["easy", "hard"])


def test_a_summary_by_hand():
    found = summary(ONE.sets["set"], seed=0)
    assert found["accuracy"] == pytest.approx((1 / 3 + 1) / 2)
    assert (found["problems"], found["samples"], found["n"], found["ungraded"]) == (2, 6, [2, 3], 1)
    assert found["tokens"] == {
        "mean": pytest.approx((140 / 3 + 30) / 2),
        "correct": pytest.approx(70 / 3),
        "incorrect": 65.0,
        "total": 200.0,
    }
    assert found["truncated"] == pytest.approx(1 / 6) and found["completed"] == pytest.approx(2 / 3)
    assert found["pass_at_k"] == [pytest.approx(2 / 3), pytest.approx((2 / 3 + 1) / 2)]
    assert found["statuses"] == {"ok": 4, "truncated": 1, "verifier_error": 1}
    assert found["by_difficulty"]["hard"]["accuracy"] == 1.0 and found["by_difficulty"]["easy"]["problems"] == 1.0
    assert "best_at_k" not in found
    with pytest.raises(TaskError, match="not one sample"):
        summary(evaluated("none", [[sample(0, None, 1, status="crash")]]).sets["set"], seed=0)


def test_partial_scores_have_a_best_of_k():
    found = summary(evaluated("parts", [[sample(0, 0.5, 1), sample(1, 0.0, 1)]]).sets["set"], seed=0)
    assert found["best_at_k"] == [0.25, 0.5] and found["pass_at_k"] == [0.0, 0.0] and found["accuracy"] == 0.25


def test_coverage_is_what_a_shorter_window_would_have_given():
    made = coverage(ONE, "set", [10, 20, 40])
    assert [row[0] for row in made.rows] == [10, 20, 40, 100]
    assert [row[1] for row in made.rows] == pytest.approx([100 * x for x in (1 / 6, (1 / 3 + 1 / 2) / 2, 2 / 3, 2 / 3)])
    assert [row[4] for row in made.rows] == [50.0, 100.0, 100.0, 100.0]
    assert made.rows[-1][5] == pytest.approx(100 / 6) and "16.7% of the samples met the limit" in made.said
    assert made.rows[-1][1] == pytest.approx(100 * summary(ONE.sets["set"], 0)["accuracy"])


def test_scaling_has_a_row_for_every_k_and_model():
    samples, tokens = scaling([ONE, evaluated("two", [row[:2] for row in ROWS])], "set")
    assert [row[:2] for row in samples.rows] == [("one", 1), ("one", 2), ("two", 1), ("two", 2)]
    assert samples.rows == tokens.rows and samples.labels[0] != tokens.labels[0]


def test_habits_by_hand():
    texts = [sample(0, 1.0, 100, "Wait, no. But wait: waiting is nothing."), sample(1, 0.0, 300, "Hold on. Therefore 7.")]
    found = habits(texts, {"reflection": ["wait", "hold on"], "end": ["therefore"]})
    assert found["reflection"] == {"per_1000_tokens": 7.5, "per_response": 1.5, "share": 1.0}
    assert found["end"] == {"per_1000_tokens": 2.5, "per_response": 0.5, "share": 0.5}
    words, endings = behaviour([evaluated("w", [texts])], "set", {"reflection": ["wait"]})
    assert [row[:4] for row in words.rows] == [("w", "correct", "reflection", 20.0), ("w", "incorrect", "reflection", 0.0)]
    assert endings.rows[0][5] == 100.0 and endings.rows[0][6] == "latin 100.0 %"


def test_lengths_of_right_and_wrong():
    made = lengths(ONE, "set")
    assert [row[:3] for row in made.rows] == [("correct", 3, pytest.approx(70 / 3)), ("incorrect", 2, 65.0)]


def test_tokens_to_the_first_right_answer():
    thinking = "<think>Try 3 + 4, that is \\boxed{7}. Check it again, is it \\boxed{7}, or \\boxed{8}. </think> \\boxed{7}"
    lost = "<think>It is \\boxed{7}, no \\boxed{8}. </think> \\boxed{8}"
    rows = [[sample(0, 1.0, 100, thinking)], [sample(0, 0.0, 50, lost)]]
    (row,) = overthinking([evaluated("o", rows)], "set").rows
    at = (thinking.index("}.") + 2) / len(thinking)
    assert row[1] == pytest.approx(100 * at, abs=1.5) and row[1] + row[3] == pytest.approx(100)
    assert row[5:] == (1, 100.0)
    assert pieces("</think> 7") == [] and len(pieces("a, " * 5000 + "</think>")) <= 101
    unknown = evaluated("u", rows, golds=[None, None])
    assert overthinking([unknown], "set").rows == [("u", *(None,) * 6)]


def test_format_and_task_are_told_apart():
    before = evaluated("before", [[sample(0, 0.0, 1, lenient=1.0, status="no_answer")], [sample(0, 0.0, 1)]])
    after = evaluated("after", [[sample(0, 1.0, 1)], [sample(0, 1.0, 1)]])
    first, second = format_split([before, after], "set").rows
    assert first[1:3] == (0.0, 50.0) and second[1:3] == (100.0, 100.0)
    assert second[3].startswith("+100.0") and second[4].startswith("+50.0") and second[5].startswith("+50.0")


def test_contamination_exact_and_near():
    text = "A train leaves the station at noon and travels at forty miles an hour for three hours. How far?"
    other = text.replace("forty", "fifty")
    training = {"t0": "What is 2 + 2?", "t1": other.replace("three", "five"), "t2": f"  {text.upper()} "}
    benchmark = {"a": text, "b": text.replace("How far?", "How far does it go?"), "c": "Find all primes below 100 that end in 7."}
    found = matches(training, benchmark)
    assert [(m.problem, m.training) for m in found] == [("a", "t2"), ("b", "t2")]
    assert found[0].share == 1.0 and 0.5 <= found[1].share < 1.0
    assert matches({}, benchmark) == []
    assert contamination(training, {"set": benchmark}).said == "set: 1 of 3 problems are in the training data, 1 nearly"


DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason="no local copy of the data")
def test_the_known_overlap_is_found(capsys):
    train = str(DATA / "math_train" / "oneshot_dsr_sub.parquet")
    arguments = ["--train", train, "--on", "olympiadbench", "aime24", "--data", str(DATA)]
    assert main(["analyze", "contamination", *arguments]) == 0
    said = capsys.readouterr().out
    assert "olympiadbench: 1 of 675 problems are in the training data" in said and "aime24: 0 of 30" in said


def run_folder(folder):
    folder.mkdir(parents=True)
    rows = [{"step": 0, "validation/accuracy": 0.2}]
    facts = {"group/count": 4, "length/mean": 25.0, "time/step_s": 2.0, "stage": 0, "reward/mean": 0.5, "tokens/generated": 400}
    rows += [{"step": s, "tokens/step": 400, **facts} for s in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.toml").write_text("[cluster]\nlearners = 2\n")
    return folder


def test_what_a_run_cost(tmp_path):
    run = run_folder(tmp_path / "run")
    made = cost([run], price=3600.0)
    assert made.rows[0][2:] == (8, 32, 800.0, 4.0, pytest.approx(8 / 3600), pytest.approx(8.0))
    assert cost([run], step=1, beside=False).rows[0][2:5] == (4, 16, 400.0)
    deepscaler = [row for row in made.rows if row[0] == "DeepScaleR-1.5B"]
    assert [row[6] for row in deepscaler] == [3800, 1920] and all(row[1].startswith("published") for row in deepscaler)
    with pytest.raises(TaskError, match="no step"):
        cost([run], step=0)


def test_curves_of_a_run(tmp_path):
    found = {made.name: made for made in curves([run_folder(tmp_path / "run")])}
    assert found["curve_reward_mean"].rows == [("run", 1, 0.5, 0.5), ("run", 2, 0.5, 0.5)]


def many_runs(folder, settings=("a<b", "plain"), seeds=2):
    for setting in settings:
        for seed in range(seeds):
            run = run_folder(folder / setting / f"seed_{seed}")
            rows = [
                {"step": s, "tokens/generated": 100 * s, "validation/accuracy": 0.25 + 0.05 * s + 0.1 * seed} for s in range(3)
            ]
            (run / "metrics.jsonl").write_text(
                "".join(json.dumps(row | ({"time/step_s": 2.0} if row["step"] else {})) + "\n" for row in rows)
            )
    return sorted(folder.glob("*/seed_*"))


def test_seeds_are_one_line_with_their_mean_and_interval(tmp_path):
    table, accuracy = curves(many_runs(tmp_path), "tokens")
    half = 100 * 12.7062 * 0.1 / 2  # t with one degree of freedom, times the standard error of two values 0.1 apart
    assert table.title == "4 runs of 2 settings" and [row[:2] for row in table.rows] == [("a<b", 2), ("plain", 2)]
    assert table.rows[0][2:5] == pytest.approx((40.0, 40.0 - half, 40.0 + half), rel=1e-5)
    assert [row[:3] for row in accuracy.rows[3:5]] == [("a<b/seed_1", 0.0, 35.0), ("a<b/seed_1", 100.0, pytest.approx(40.0))]
    page = write_exhibits(tmp_path / "out", "runs", [], [table, accuracy]).read_text()
    assert "a&lt;b" in page and "a<b" not in page and (tmp_path / "out" / "curve_validation_accuracy.png").is_file()


@pytest.mark.parametrize(("by", "ends"), [("steps", (0, 2)), ("seconds", (0.0, 4.0)), ("gpu_hours", (0.0, 8 / 3600))])
def test_runs_are_drawn_against_what_is_asked_for(tmp_path, by, ends):
    _, accuracy = curves(many_runs(tmp_path, ("one",), 1), by)
    assert accuracy.labels[0] == AXES[by] == accuracy.columns[1]
    assert (accuracy.rows[0][1], accuracy.rows[-1][1]) == pytest.approx(ends)


def test_runs_that_cannot_be_told_apart(tmp_path):
    with pytest.raises(RecipeError, match="cannot be told apart"):
        curves(many_runs(tmp_path / "many", [f"s{i}" for i in range(16)], 1))
    many_runs(tmp_path / "x", ("main",), 1), many_runs(tmp_path / "y", ("main",), 1)
    table, *_ = curves(sorted(tmp_path.glob("?/main/seed_0")))
    assert [row[0] for row in table.rows] == ["x/main", "y/main"]


def test_parts_of_a_reward_and_sets_of_a_validation_have_curves(tmp_path):
    run = run_folder(tmp_path / "run")
    row = {"step": 1, "reward/part/accuracy/mean": 0.5, "validation/easy/accuracy": 0.75, "validation/accuracy": 0.5}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    found = {made.title: made.rows[0][2] for made in curves([run])[1:]}
    assert found == {"Validation accuracy": 50.0, "Validation accuracy: easy": 75.0, "Part of the reward: accuracy": 0.5}


def test_published_points_are_labelled(tmp_path):
    better = evaluated("better", [[sample(0, 1.0, 5)], [sample(0, 1.0, 5)]])
    made = compare([ONE, better])
    for exhibit in (frontier(made, "set", beside=True), bars(made, [ONE, better])):
        assert exhibit.rows and exhibit.draw is not None
    assert "dominated by better" in frontier(made, "set").rows[0][7]
    assert sizes(made, [ONE, better], "set") is None
    named = Evaluated(ONE.folder, ONE.facts, {"aime24": ONE.sets["set"]})
    same = compare([named, named])
    rows = frontier(same, "aime24", beside=True).rows
    assert sum(str(row[7]).startswith("published: SIRI") for row in rows) == 17
    by_size = sizes(same, [named, named], "aime24")
    assert costs(same, [named, named], "aime24", 2.0) is None
    run_folder(tmp_path / "run")
    trained = Evaluated(ONE.folder, {**ONE.facts, "model": f"{tmp_path}/run/checkpoints/step_000002"}, named.sets)
    by_cost = costs(compare([trained, trained]), [trained, trained], "aime24", 1800.0)
    assert by_cost is not None and by_cost.rows[0] == ("one", pytest.approx(4.0), pytest.approx(200 / 3), "this evaluation")
    assert sum(row[0] == "DeepScaleR-1.5B" for row in by_cost.rows) == 2
    assert by_size is not None and by_size.rows[0] == ("one", 1.5, pytest.approx(200 / 3), "this evaluation")


def test_exhibits_are_written_as_files(tmp_path):
    hostile = Exhibit(
        "a_b",
        "<b>title</b>",
        "",
        ("x", "y"),
        [("<script>", 1.5), ("n", None)],
        "said <i>",
        ("x", "y"),
        lambda axes: axes.plot([1, 2]),
    )
    page = write_exhibits(tmp_path / "out", "title", ["fact"], [hostile, Exhibit("plain", "Plain", "", ("x",), [(1,)])])
    assert [row for row in csv.reader((tmp_path / "out" / "a_b.csv").read_text().splitlines())] == [
        ["x", "y"],
        ["<script>", "1.5"],
        ["n", ""],
    ]
    assert (tmp_path / "out" / "a_b.png").read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert (
        "<script>" not in text
        and "<b>title" not in text
        and "&lt;script&gt;" in text
        and not (tmp_path / "out" / "plain.png").exists()
    )


def test_arguments_that_make_no_sense(tmp_path, capsys):
    for arguments in (["coverage"], ["contamination"], ["cost", str(tmp_path)], ["coverage", str(tmp_path)]):
        assert main(["analyze", *arguments]) == 2
    (tmp_path / "words.toml").write_text("reflection = 3\n")
    run = str(run_folder(tmp_path / "run"))
    assert main(["analyze", "behaviour", run, "--words", str(tmp_path / "words.toml")]) == 2
    capsys.readouterr()
