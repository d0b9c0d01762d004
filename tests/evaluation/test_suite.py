"""Benchmarks: local files with their row counts and golds, prompts and golds made of columns, and files that cannot be used."""

import base64
import gzip
import json
import pickle
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from longthink.check import refused_golds
from longthink.errors import TaskError
from longthink.evaluation import suite as suites
from longthink.evaluation.convert import livecodebench
from longthink.evaluation.protocols import protocol_names, read_protocol
from longthink.evaluation.scores import by_domain
from longthink.evaluation.suite import benchmark_names, load_suites, read_benchmark
from longthink.rewards.choice import Choice
from longthink.rewards.code import Code

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
PLAIN = read_protocol("nvidia")
MATH = {"kind": "math"}
LOCAL = {
    **{"aime24": 30, "aime25": 30, "amc": 83, "amc23": 40, "math500": 500, "minerva": 272, "olympiadbench": 675},
    **{"omni_num": 500, "liveaops_num": 519, "gsm8k": 1319, "humaneval": 164, "mbpp": 399, "code_contests": 165},
    **{"codeforces": 408, "ifeval": 541, "countdown": 256},
}


@pytest.mark.skipif(not DATA.is_dir(), reason="no local copy of the benchmarks")
def test_all_local_benchmarks_have_their_rows():
    found = load_suites(["all-local"], DATA, PLAIN, MATH)
    assert {s.name: s.rows for s in found} == LOCAL
    assert not any("expected_rows" in s.facts() for s in found)
    golds = {s.name: [s.problem(i).gold for i in range(s.rows)] for s in found}
    assert any(isinstance(gold, list) and len(gold) > 1 for gold in golds["minerva"])
    assert any(isinstance(gold, float) for gold in golds["amc"])
    labels = {s.name: s.labels(s.problem(0)) for s in found}
    assert labels["omni_num"] == {"difficulty": "4.5", "category": "Number Theory"}
    assert set(labels["math500"]) == {"difficulty", "category"} and labels["aime25"] == {}


@pytest.mark.skipif(not DATA.is_dir(), reason="no local copy of the benchmarks")
def test_local_golds_are_accepted():
    found = {s.name: s for s in load_suites(["all-local"], DATA, PLAIN, MATH)}
    problems = [
        replace(s.problem(i), domain=name) for name, s in found.items() for i in range(0, s.rows, 1 if s.rows < 300 else 5)
    ]
    tasks, rewards = {name: s.task for name, s in found.items()}, {name: s.reward for name, s in found.items()}
    assert len({p.domain for p in problems}) == 16 and refused_golds(tasks, rewards, problems, workers=2) == []


def test_every_benchmark_is_pinned_and_every_protocol_reads():
    for name in benchmark_names():
        made = read_benchmark(suites.FOLDER / f"{name}.toml")
        assert made.rows and made.licence
        assert made.source or made.generate or made.task.get("kind") == "countdown"
        for source in made.source:
            revision = source.revision or source.url.split("/")[5]
            assert len(revision) == 40 and set(revision) <= set("0123456789abcdef")
    assert {"deepscaler", "open_rs", "still3", "siri", "nvidia", "ours"} <= set(protocol_names())
    assert [read_protocol(p).samples for p in ("deepscaler", "open_rs", "still3", "siri", "nvidia")] == [16, 1, 5, 64, 16]
    assert read_protocol("ours").until == 0.02 and read_protocol("siri").window == 16384


def benchmark(folder, text, rows):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.toml").write_text('title = "Mine"\ndomain = "stem"\nlicence = "ours"\nfiles = ["rows"]\n' + text)
    return load_suites([str(folder / "mine.toml")], folder, PLAIN, MATH)[0]


def test_a_prompt_and_a_gold_of_several_columns(tmp_path):
    text = '[task]\ntemplate = "Use {numbers} to make {meta.goal}; \\\\boxed{x} {nothing}"\n'
    text += 'gold_fields = { numbers = "numbers", target = "meta.goal" }\n[reward]\nkind = "countdown"\n'
    found = benchmark(tmp_path, text, [{"numbers": "1,2", "meta": {"goal": "3"}}])
    problem = found.problem(0)
    assert problem.prompt[0]["content"] == r"Use 1,2 to make 3; \boxed{x} {nothing}"
    assert problem.gold == {"numbers": "1,2", "target": "3"}
    assert found.reward.grade("<answer>1 + 2</answer>", problem.gold).score == 1.0


def test_choices_are_shown_in_an_order_of_their_own(tmp_path):
    text = '[task]\nprompt_column = "Q"\nchoices = ["Right", "Wrong 1", "Wrong 2"]\n[reward]\nkind = "choice"\n'
    rows = [{"Q": f"Question {i}?", "Right": "yes", "Wrong 1": "no", "Wrong 2": "maybe"} for i in range(40)]
    found = benchmark(tmp_path, text, rows)
    golds = [found.problem(i).gold for i in range(40)]
    assert set(golds) == {"A", "B", "C"} and golds == [found.problem(i).gold for i in range(40)]
    for i in range(40):
        content = found.problem(i).prompt[0]["content"]
        assert f"{golds[i]}) yes" in content and content.startswith(f"Question {i}?\n\nA) ")
    assert Choice().grade(f"The answer is {golds[0]}.", golds[0]).score == 1.0


@pytest.mark.parametrize(
    ("text", "rows", "said"),
    [
        ('[task]\ntemplate = "no column"\n[reward]\nkind = "math"\n', [{"a": 1}], "names no column; got columns a"),
        ('[task]\ntemplate = "{a}"\nprompt_column = "a"\n[reward]\nkind = "math"\n', [{"a": 1}], "expected one of them"),
        ('[reward]\nkind = "math"\n', [{"problem": "1?"}], "row 0 has no gold column"),
        ('[reward]\nkind = "math"\n', [{"problem": "1?", "answer": "1"}, {"problem": "2?"}], "row 1 has no gold column"),
        ('[reward]\nkind = "maths"\n', [{"problem": "1?", "answer": "1"}], "expected one of"),
        ('[reward]\nkind = "math"\n', [], "empty"),
        ('[rewards]\nkind = "math"\n', [{"problem": "1?", "answer": "1"}], "not a benchmark: reward: Field required"),
        ('source = [{ hub = "a/b", file = "c" }]\n[reward]\nkind = "math"\n', [], "a pinned `revision`"),
        ("[reward\n", [], "cannot be read"),
    ],
)
def test_unusable_benchmarks_say_what_is_wrong(tmp_path, text, rows, said):
    with pytest.raises(Exception, match="(?s)" + said.replace("`", ".")) as caught:
        benchmark(tmp_path, text, rows)
    assert type(caught.value).__module__ == "longthink.errors"


def test_broken_files_and_unknown_names(tmp_path):
    whole = gzip.compress(b'{"problem": "1?", "answer": "1"}\n')
    for name, data in (("torn.jsonl.gz", whole[:-9]), ("text.jsonl", b"{\n"), ("other.jsonl", b"\xff\xfe\x00"), ("x.xlsx", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TaskError):
            load_suites([str(tmp_path / name)], tmp_path, PLAIN, MATH)
    with pytest.raises(TaskError, match="did you mean aime2"):
        load_suites(["aime23"], tmp_path, PLAIN, MATH)
    with pytest.raises(TaskError, match="holds no benchmark"):
        load_suites(["all-local"], tmp_path / "nothing", PLAIN, MATH)
    (tmp_path / "whole.jsonl.gz").write_bytes(whole)
    path = str(tmp_path / "whole.jsonl.gz")
    assert load_suites([path], tmp_path, PLAIN, MATH)[0].rows == 1
    with pytest.raises(TaskError, match="named twice"):
        load_suites([path, path], tmp_path, PLAIN, MATH)
    with pytest.raises(TaskError, match="no such file"):
        read_protocol("deepscale")


def test_rows_that_cannot_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = 'source = [{ url = "https://127.0.0.1:9/rows.jsonl" }, { url = "http://example.org/x" }]\n[reward]\nkind = "math"\n'
    (tmp_path / "far.toml").write_text('title = "Far"\ndomain = "math"\nlicence = "ours"\nfiles = ["far_rows"]\n' + text)
    with pytest.raises(TaskError, match=r"(?s)could not be fetched.*Put far_rows.json\(l\) there"):
        load_suites([str(tmp_path / "far.toml")], tmp_path, PLAIN, MATH)
    assert not list((tmp_path / "cache").rglob("*rows*"))  # nothing half fetched


def test_rows_in_a_csv_file(tmp_path):
    (tmp_path / "rows.csv").write_text('Question,Right,Wrong\n"Two,\nlines?",yes,no\n')
    text = 'title = "C"\ndomain = "stem"\nfiles = ["rows"]\n[task]\nprompt_column = "Question"\nchoices = ["Right", "Wrong"]\n'
    (tmp_path / "c.toml").write_text(f'{text}[reward]\nkind = "choice"\n')
    (found,) = load_suites([str(tmp_path / "c.toml")], tmp_path, PLAIN, MATH)
    assert found.rows == 1 and found.problem(0).prompt[0]["content"].startswith("Two,\nlines?\n\nA) ")


def test_the_quickstart_s_own_problems():
    (found,) = load_suites(["countdown_tiny"], Path("nowhere"), PLAIN, MATH)
    assert found.rows == 256 and found.problem(0).gold["target"]
    assert found.sha256 == load_suites(["countdown_tiny"], Path("nowhere"), PLAIN, MATH)[0].sha256


# -- LiveCodeBench ----------------------------------------------------------------------------------------------------


def packed(value):
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def row(private, func=None):
    public = json.dumps([{"input": "[1, 2]\n3" if func else "1\n", "output": "6" if func else "2\n", "testtype": "x"}])
    facts = {"question_content": "Add.", "starter_code": "class Solution: ..." if func else "", "difficulty": "easy"}
    facts |= {"platform": "leetcode" if func else "atcoder", "metadata": json.dumps({"func_name": func} if func else {})}
    return json.dumps(facts | {"public_test_cases": public, "private_test_cases": private}).encode()


def test_livecodebench_rows(tmp_path):
    stdin = json.dumps([{"input": "2\n", "output": "3\n"}])
    calls = json.dumps([{"input": "[4]\n1", "output": "5"}])
    livecodebench(b"\n".join([row(stdin), row(packed(calls), "total")]), tmp_path / "out.jsonl")
    first, second = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert first["gold"] == [{"input": "1\n", "output": "2\n"}, {"input": "2\n", "output": "3\n"}]
    assert "class Solution" in second["prompt"] and second["difficulty"] == "easy"
    program = "class Solution:\n    def total(self, xs, y):\n        return sum(xs) + y"
    assert Code(sandbox="none").grade(f"```python\n{program}\n```", second["gold"]).score == 1.0
    assert Code(sandbox="none").grade("```python\nprint(int(input()) + 1)\n```", first["gold"]).score == 1.0


class Run:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("private", [packed(Run()), packed(["a list"]), "not base64", packed("no json"), "[1, 2]"])
def test_hostile_rows_are_refused(tmp_path, private):
    with pytest.raises(TaskError, match="LiveCodeBench, row 0"):
        livecodebench(row(private), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_domain_s_mean_counts_no_problem_twice():
    made = read_benchmark(suites.FOLDER / "amc23.toml")
    assert made.within == "amc" and read_benchmark(suites.FOLDER / "amc.toml").within == ""
    sets = {n: {"accuracy": a, "low": a - 0.1, "high": a + 0.2, "tokens": {"mean": 10.0}} for n, a in (("a", 0.2), ("b", 0.4))}
    found = by_domain(sets, {"a": "math", "b": "math"})["math"]
    assert found["accuracy"] == pytest.approx(0.3) and found["benchmarks"] == ["a", "b"]
    assert found["low"] == pytest.approx(0.3 - 0.1 / 2**0.5) and found["high"] == pytest.approx(0.3 + 0.2 / 2**0.5)
