"""The file task: every format and shape read back, every mistake named, orders that are permutations."""

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from longthink.errors import TaskError
from longthink.reading import read_rows
from longthink.tasks.file import File

SUFFIX = "Let's think step by step and output the final answer within \\boxed{}."
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not beside the repository")

TWO = [{"problem": "What is 1 + 1?", "answer": "2"}, {"problem": "What is 2 + 3?", "answer": "5"}]


def write(path: Path, rows: Sequence[Any]) -> Path:
    """Write rows in the format the name asks for."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return path
    lines = ".jsonl" in path.name
    data = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows, indent=1)
    path.write_bytes(gzip.compress(data.encode()) if path.suffix == ".gz" else data.encode())
    return path


def read(path: Path, **fields: Any) -> list[tuple[str, Any]]:
    """(last message, gold) of all rows in file order."""
    task = File(test=str(path), **fields)
    size = task.size("test")
    assert size is not None
    problems = [task.problem("test", index) for index in range(size)]
    return [(p.prompt[-1]["content"], p.gold) for p in problems]


def refusal(path: Path | str, **fields: Any) -> str:
    """The message the file is refused with."""
    with pytest.raises(TaskError) as caught:
        File(test=str(path), **fields).problem("test", 0)
    return str(caught.value)


# Formats and shapes


@pytest.mark.parametrize("name", ["d.json", "d.jsonl", "d.json.gz", "d.jsonl.gz", "d.parquet"])
def test_each_format_reads_the_same(tmp_path: Path, name: str) -> None:
    assert read(write(tmp_path / name, TWO)) == [("What is 1 + 1?", "2"), ("What is 2 + 3?", "5")]


def test_problem_carries_id_messages_gold_and_row(tmp_path: Path) -> None:
    task = File(test=str(write(tmp_path / "aime_v1.5.jsonl.gz", TWO)))
    problem = task.problem("test", 1)
    assert problem.id == "aime_v1.5:1"
    assert problem.prompt == ({"role": "user", "content": "What is 2 + 3?"},)
    assert problem.gold == "5"
    assert problem.meta == {"row": 1}
    assert task.problem("test", 1) == problem


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"problem": "Q", "answer": "2"}, "2"),
        ({"question": "Q", "answer": "9 + 9 = <<9+9=18>>18\n#### 18"}, "18"),
        ({"problem": "Q", "solution": "She makes 18.\n#### 1,018 \n", "answer": None}, "1,018"),
        ({"prompt": "Q", "solution": "so \\boxed{\\frac{1}{2}}."}, "so \\boxed{\\frac{1}{2}}."),
        ({"prompt": "Q", "answer": "2", "solution": "long"}, "2"),
        ({"prompt": [{"role": "user", "content": "Q"}], "answer": "2"}, "2"),
        (
            {
                "data_source": "d",
                "prompt": [{"content": "Q", "role": "user"}],
                "ability": "math",
                "reward_model": {"ground_truth": "2", "style": "rule"},
            },
            "2",
        ),
        ({"prompt": [{"content": "Q", "role": "user"}], "reward_spec": {"method": "rule", "ground_truth": "2"}}, "2"),
        ({"question": "Q", "solution": ["prose"], "final_answer": ["2"]}, ["2"]),
        ({"problem": "Q", "expected_answer": "2"}, "2"),
        ({"prompt": "Q", "ground_truth": "2"}, "2"),
        ({"prompt": "Q", "reward_model": {"ground_truth": {"numbers": [1, 2], "target": 3}}}, {"numbers": [1, 2], "target": 3}),
    ],
)
def test_each_shape(tmp_path: Path, suffix: str, row: dict[str, Any], gold: Any) -> None:
    assert read(write(tmp_path / f"d.{suffix}", [row])) == [("Q", gold)]


@pytest.mark.parametrize(
    ("given", "gold"),
    [
        (" 7\n", "7"),
        (142.0, 142.0),
        (3, 3),
        (0, 0),
        (["9.6\n", " 9.60 "], ["9.6", "9.60"]),
        (["9.6", ""], ["9.6"]),
        ([1, 2.5], [1, 2.5]),
        ('["1/2", "0.5"]', ["1/2", "0.5"]),
        ("[12,28]", "[12,28]"),
        ("[0,\\pi]", "[0,\\pi]"),
        ('["a", 1]', '["a", 1]'),
        ("[5.8,6)", "[5.8,6)"),
        ("#### 3", "3"),
        ("#### Step one\nthe sum is \\boxed{4}", "#### Step one\nthe sum is \\boxed{4}"),
    ],
)
def test_gold_is_stripped_and_unwrapped(tmp_path: Path, given: Any, gold: Any) -> None:
    ((_, found),) = read(write(tmp_path / "d.json", [{"problem": "Q", "answer": given}]))
    assert found == gold and type(found) is type(gold)


def test_parquet_list_column_is_a_list(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "answer": ["1", "2"]}, {"prompt": "R", "answer": ["3"]}]
    assert [gold for _, gold in read(write(tmp_path / "d.parquet", rows))] == [["1", "2"], ["3"]]


def test_columns_may_be_named(tmp_path: Path) -> None:
    row = {"problem": "Q", "answer": "2", "extra": {"text": "R", "deep": {"gold": "5"}}, "a.b": "6"}
    path = write(tmp_path / "d.jsonl", [row])
    assert read(path, prompt_column="extra.text", gold_column="extra.deep.gold") == [("R", "5")]
    assert read(path, gold_column="a.b") == [("Q", "6")]


def test_the_column_is_the_one_that_holds_values(tmp_path: Path) -> None:
    rows = [{"prompt": "", "problem": "Q", "answer": None, "solution": "2"}, {"prompt": "", "problem": "R", "solution": "5"}]
    assert read(write(tmp_path / "d.jsonl", rows)) == [("Q", "2"), ("R", "5")]


def test_json_lines_under_a_json_name(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", TWO).rename(tmp_path / "d.json")
    assert [gold for _, gold in read(path)] == ["2", "5"]


def test_blank_lines_byte_order_mark_and_unicode_separators(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('\n{"problem": "a\u2028b", "answer": "2"}\r\n\n{"problem": "é", "answer": "5"}', encoding="utf-8-sig")
    assert read(path) == [("a\u2028b", "2"), ("é", "5")]


def test_messages_keep_role_and_content_only(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "S", "name": "x"}, {"role": "user", "content": "Q"}]
    problem = File(test=str(write(tmp_path / "d.json", [{"prompt": messages, "answer": "2"}]))).problem("test", 0)
    assert problem.prompt == ({"role": "system", "content": "S"}, {"role": "user", "content": "Q"})


# Prompt suffix and system message


def test_suffix_is_put_once(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "answer": "2"}, {"prompt": f"Q {SUFFIX}\n", "answer": "2"}]
    texts = [text for text, _ in read(write(tmp_path / "d.json", rows), prompt_suffix=SUFFIX)]
    assert texts == [f"Q {SUFFIX}", f"Q {SUFFIX}\n"]


def test_suffix_goes_to_the_last_user_message(tmp_path: Path) -> None:
    turns = [{"role": r, "content": c} for r, c in (("user", "A"), ("assistant", "B"), ("user", "C"), ("tool", "D"))]
    path = write(tmp_path / "d.json", [{"prompt": turns, "answer": "2"}])
    prompt = File(test=str(path), prompt_suffix="now").problem("test", 0).prompt
    assert [m["content"] for m in prompt] == ["A", "B", "C now", "D"]
    assert [m["content"] for m in File(test=str(path)).problem("test", 0).prompt] == ["A", "B", "C", "D"]


def test_system_message_is_put_first_and_replaces(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "old"}, {"role": "user", "content": "Q"}]
    path = write(tmp_path / "d.json", [{"prompt": "Q", "answer": "2"}, {"prompt": chat, "answer": "2"}])
    task = File(test=str(path), system="Be brief.")
    for index in (0, 1):
        assert task.problem("test", index).prompt == (
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Q"},
        )


# Order


@pytest.fixture
def fifty(tmp_path: Path) -> str:
    return str(write(tmp_path / "fifty.jsonl", [{"problem": f"Q{i}", "answer": i} for i in range(50)]))


def epoch_of(task: File, epoch: int, size: int = 50) -> list[int]:
    return [task.problem("train", epoch * size + place).meta["row"] for place in range(size)]


def test_each_epoch_is_another_permutation(fifty: str) -> None:
    task = File(train=fifty)
    epochs = [epoch_of(task, epoch) for epoch in range(4)]
    assert all(sorted(order) == list(range(50)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 4
    assert epochs[0] != list(range(50))


def test_order_depends_on_the_seed_alone(fifty: str, tmp_path: Path) -> None:
    moved = str(write(tmp_path / "elsewhere.json", [{"problem": f"Q{i}", "answer": i} for i in range(50)]))
    assert (
        epoch_of(File(train=fifty, seed=3), 2) == epoch_of(File(train=fifty, seed=3), 2) == epoch_of(File(train=moved, seed=3), 2)
    )
    assert epoch_of(File(train=fifty, seed=3), 2) != epoch_of(File(train=fifty, seed=4), 2)


def test_any_index_can_be_asked_for_first(fifty: str) -> None:
    forwards = [File(train=fifty).problem("train", index) for index in range(120)]
    backwards = [File(train=fifty).problem("train", index) for index in reversed(range(120))]
    assert forwards == backwards[::-1]


def test_without_shuffle_train_keeps_file_order(fifty: str) -> None:
    assert epoch_of(File(train=fifty, shuffle=False), 1) == list(range(50))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_other_splits_keep_file_order_and_wrap(fifty: str, split: str) -> None:
    task = File(**{split: fifty})
    assert [task.problem(split, index).gold for index in range(52)] == [*range(50), 0, 1]


def test_limit_takes_the_first_rows(fifty: str) -> None:
    task = File(train=fifty, test=fifty, limit=8)
    assert task.size("train") == task.size("test") == 8
    assert sorted(epoch_of(task, 1, size=8)) == list(range(8))
    assert File(test=fifty, limit=99).size("test") == 50


def test_a_bad_row_beyond_the_limit_does_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [*TWO, {"problem": "Q", "answer": ""}])
    assert File(test=str(path), limit=2).size("test") == 2
    assert "row 2" in refusal(path, limit=3)


def test_a_file_is_read_once_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "d.json", TWO)
    os.utime(path, ns=(1, 1))
    task, reads = File(test=str(path)), []
    monkeypatch.setattr("longthink.tasks.file.read_rows", lambda path: reads.append(path) or read_rows(path))
    golds = [task.problem("test", index).gold for index in (0, 1, 0)]
    assert golds == ["2", "5", "2"] and len(reads) == 1
    write(path, TWO[1:])
    os.utime(path, ns=(2, 2))
    assert task.problem("test", 0).gold == "5" and len(reads) == 2


# What is refused


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_without_a_path_names_the_field(split: str) -> None:
    with pytest.raises(TaskError, match=rf"^task\.{split} is not set, so there are no {split} problems"):
        File().problem(split, 0)
    with pytest.raises(TaskError, match=rf"task\.{split} is not set"):
        File().size(split)


def test_an_unknown_split() -> None:
    with pytest.raises(TaskError, match="no split 'dev'; expected one of train, validation, test"):
        File().size("dev")


def test_a_missing_file(tmp_path: Path) -> None:
    message = refusal(tmp_path / "none.json")
    assert message.startswith(f"{tmp_path / 'none.json'}: No such file") and message.endswith("fix task.test")


@pytest.mark.parametrize("name", ["d", "d.parquet.gz", "json"])
def test_an_unknown_suffix(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert refusal(tmp_path / name).endswith(
        f"{name}: unknown file type; expected .json, .jsonl, .csv, .json.gz, .jsonl.gz or .parquet"
    )


@pytest.mark.parametrize(("name", "text"), [("d.json", "[]"), ("d.json", " "), ("d.jsonl", "\n\n")])
def test_an_empty_data_set(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert "the data set is empty; expected at least one row" in refusal(tmp_path / name)


def test_an_empty_parquet_file(tmp_path: Path) -> None:
    assert "the data set is empty" in refusal(write(tmp_path / "d.parquet", []))


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("d.jsonl", '{"problem": "Q", "answer": "2"}\n\n{"problem": oops}\n', 3),
        ("d.json", '[\n{"problem": "Q",\n "answer": }]', 3),
        ("d.json", '{"problem": "Q"\n}{', 1),
        ("d.json", "problem,answer\nQ,2", 1),
    ],
)
def test_text_that_is_not_json_names_the_line(tmp_path: Path, name: str, text: str, line: int) -> None:
    (tmp_path / name).write_text(text)
    assert refusal(tmp_path / name).startswith(f"{tmp_path / name}: not JSON at line {line}: ")


@pytest.mark.parametrize(
    ("name", "data"),
    [("d.json.gz", b"plain"), ("d.jsonl.gz", gzip.compress(b"x" * 99, mtime=0)[:-9]), ("d.json", b'["\xff"]')],
)
def test_bytes_that_cannot_be_read(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert refusal(tmp_path / name).startswith(f"{tmp_path / name}: cannot be read (")


def test_bytes_that_are_not_parquet(tmp_path: Path) -> None:
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and no more")
    assert "not a readable parquet file" in refusal(tmp_path / "d.parquet")


def test_a_folder_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "d.json").mkdir()
    assert "cannot be read" in refusal(tmp_path / "d.json")


def test_a_row_that_is_no_object(tmp_path: Path) -> None:
    assert "row 1 is ['Q', '2']; expected an object with named columns" in refusal(
        write(tmp_path / "d.json", [TWO[0], ["Q", "2"]])
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"text": "Q", "answer": "2"}],
            "row 0 has no prompt column; got columns text, answer; expected prompt or problem or question",
        ),
        (
            [TWO[0], {"question": "Q", "answer": "2"}],
            "row 1 has no prompt column; got columns question, answer; expected problem",
        ),
        (
            [{"problem": "Q", "label": "2"}],
            "row 0 has no gold column; got columns problem, label; expected reward_model.ground_truth",
        ),
        ([TWO[0], {"problem": "Q", "label": "2"}], "row 1 has no gold column; got columns problem, label; expected answer"),
        ([{"problem": "Q", "reward_model": {"style": "rule"}}], "row 0 has no gold column; got columns problem, reward_model"),
    ],
)
def test_a_row_without_a_column(tmp_path: Path, rows: list[Any], words: str) -> None:
    message = refusal(write(tmp_path / "d.json", rows))
    assert words in message
    assert f"task.{'prompt' if 'no prompt' in words else 'gold'}_column names another" in message


def test_a_named_column_that_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "d.json", TWO)
    assert "row 0 has no gold column; got columns problem, answer; expected label (" in refusal(path, gold_column="label")
    assert "row 0 has no prompt column; got columns problem, answer; expected problem.text (" in refusal(
        path, prompt_column="problem.text"
    )


@pytest.mark.parametrize("gold", [None, "", "  \n", [], [""], [None], float("nan"), {}, "[]"])
def test_an_empty_gold(tmp_path: Path, gold: Any) -> None:
    for rows in ([{"problem": "Q", "answer": gold}], [TWO[0], {"problem": "Q", "answer": gold}]):
        message = refusal(write(tmp_path / "d.json", rows))
        assert f"row {len(rows) - 1}: the gold is empty" in message and "task.gold_column" in message


def test_rows_with_empty_golds_may_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [TWO[0], {"problem": "Q", "answer": " "}, TWO[1]])
    task = File(train=str(path), test=str(path), empty_golds="drop")
    assert task.size("test") == 2
    assert [task.problem("test", index).id for index in range(3)] == ["d:0", "d:2", "d:0"]
    assert sorted(task.problem("train", index).meta["row"] for index in range(2)) == [0, 2]
    message = refusal(write(tmp_path / "e.json", [{"problem": "Q", "answer": ""}]), empty_golds="drop")
    assert "the golds of all 1 rows are empty" in message


def test_a_gold_of_another_kind(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "d.parquet", [{"problem": "Q", "answer": b"2"}]))
    assert "row 0: the gold is b'2'; expected text, a number or a list of alternatives" in message


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("  ", "row 0: the prompt is '  '; expected text or a list of chat messages"),
        (3, "row 0: the prompt is 3; expected text"),
        ([], "row 0: the prompt is []; expected text"),
        (["Q"], "row 0: the prompt holds 'Q'; expected messages with `role` and `content` as text"),
        ([{"role": "user"}], "row 0: the prompt holds {'role': 'user'}; expected messages"),
        ([{"role": "user", "content": [{"type": "image"}]}], "expected messages with `role` and `content` as text"),
        ([{"role": "system", "content": "S"}], "row 0: the prompt's roles are system; expected a user message"),
        ([{"role": "assistant", "content": "A"}], "the prompt's roles are the assistant alone; expected a user message"),
        (
            [{"role": "user", "content": "Q"}, *[{"role": "assistant", "content": "A"}] * 2],
            "the prompt's roles are user, assistant",
        ),
    ],
)
def test_a_prompt_that_is_none(tmp_path: Path, prompt: Any, words: str) -> None:
    assert words in refusal(write(tmp_path / "d.json", [{"prompt": prompt, "answer": "2"}]))


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match="Extra inputs"):
        File.model_validate({"tarin": "x.json"})


# The shared data files, as their projects publish them


MATH_EVAL = {
    "deepscaler_test_aime.json": (30, "204"),
    "deepscaler_test_amc.json": (83, 142.0),
    "deepscaler_test_math.json": (500, "\\left( 3, \\frac{\\pi}{2} \\right)"),
    "deepscaler_test_minerva.json": (272, ["9.6"]),
    "deepscaler_test_olympiad_bench.json.gz": (675, ["2"]),
    "oneshot_aime25.jsonl": (30, "70"),
    "oneshot_amc23.jsonl": (40, 27.0),
    "oneshot_minerva_math.jsonl": (272, None),
    "oneshot_olympiadbench.jsonl.gz": (675, ["2"]),
    "prime_aimo-validation-amc.jsonl": (83, 142.0),
    "rllm_test_gsm8k.json.gz": (1319, "18"),
    "still_AIME24.jsonl": (30, "\\boxed{204}"),
    "still_MATH_OAI.jsonl.gz": (500, "\\left( 3, \\frac{\\pi}{2} \\right)"),
    "still_liveaopsbench-2024-8-2024-12-num.jsonl.gz": (519, "6"),
    "still_omni_math_num_500.jsonl.gz": (500, "64"),
}


@needs_data
def test_every_math_evaluation_file_is_listed_here() -> None:
    assert {p.name for p in (DATA / "math_eval").iterdir()} == set(MATH_EVAL)


@needs_data
@pytest.mark.parametrize("name", MATH_EVAL)
def test_math_evaluation_files(name: str) -> None:
    size, first = MATH_EVAL[name]
    rows = read(DATA / "math_eval" / name, prompt_suffix=SUFFIX)
    assert len(rows) == size
    assert all(text.endswith(SUFFIX) for text, _ in rows)
    if first is None:  # a worked solution: the answer is what it boxes
        assert all("\\boxed" in gold for _, gold in rows)
    else:
        assert rows[0][1] == first


@needs_data
def test_deepscaler_subset_as_parquet() -> None:
    path = DATA / "math_train" / "oneshot_dsr_sub.parquet"
    assert "row 265: the gold is empty" in refusal(path)
    task = File(train=str(path), prompt_suffix=SUFFIX, empty_golds="drop")
    assert task.size("train") == 1209 - 1
    problems = [task.problem("train", index) for index in range(1208)]
    assert len({p.id for p in problems}) == 1208
    assert all(p.prompt[-1]["content"].count(SUFFIX) == 1 for p in problems)
    assert next(p.gold for p in problems if p.id == "oneshot_dsr_sub:0") == "\\frac{3}{7}"


@needs_data
def test_a_real_file_with_one_empty_answer_is_refused_by_row() -> None:
    path = DATA / "math_train" / "deepscaler_train_sample2000.json.gz"
    assert "row 1510: the gold is empty" in refusal(path)
    assert File(test=str(path), empty_golds="drop").size("test") == 1999
    assert File(test=str(path), limit=1510).size("test") == 1510


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "response": "A"},
        {"problem": "Q", "completion": "A"},
        {"prompt": [{"role": "user", "content": "Q"}], "completion": [{"role": "assistant", "content": "A"}]},
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
    ],
)
def test_responses_to_fine_tune_on_in_every_usual_form(tmp_path: Path, row: dict[str, Any]) -> None:
    task = File(train=str(write(tmp_path / "d.jsonl", [row])), empty_golds="keep")
    problem = task.problem("train", 0)
    assert [m["content"] for m in problem.prompt] == ["Q"] and task.trace(problem, 0) == "A" and problem.gold is None


def test_parts_of_a_response_say_what_is_learnt(tmp_path: Path) -> None:
    parts = [{"text": "so "}, {"text": "given", "learn": False}, {"text": " then", "learn": True}]
    task = File(
        train=str(write(tmp_path / "d.jsonl", [{"prompt": "Q", "cot": parts}])), empty_golds="keep", response_column="cot"
    )
    found = task.trace(task.problem("train", 0), 0)
    assert [(p.text, p.source) for p in found] == [("so ", "policy"), ("given", "prefix"), (" then", "policy")]  # type: ignore[union-attr]


def test_a_file_without_responses_says_so_when_one_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"prompt": "Q", "answer": "1", "output": ["not", 1]}])
    task = File(train=str(path))
    with pytest.raises(TaskError, match=r"row 0: the response is \['not', 1\]; expected text"):
        task.trace(task.problem("train", 0), 0)
    assert "no row has a response in a column 'cot'; fix task.response_column" in refusal(path, response_column="cot")
    assert "row 0: the response is ['not', 1]; expected text, or a list of parts" in refusal(path, response_column="output")
