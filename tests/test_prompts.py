"""The papers' prompts as they reach a model."""

import json
from pathlib import Path

import pytest
from support import random_qwen2
from tokenizers import Regex, Tokenizer, models
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

from longthink.errors import RecipeError, TaskError
from longthink.folder import ModelFolder
from longthink.part import load_part
from longthink.prompts import PROMPTS, dress
from longthink.tasks.base import Task
from longthink.types import Problem

QUESTION = [{"role": "user", "content": "What is {1} + 1?"}]


def content(name, messages=QUESTION):
    return [(m["role"], m["content"]) for m in dress(name, messages)]


def test_suffixes_by_the_letter():
    assert content("bare") == [("user", "What is {1} + 1?")]
    (last,) = content("deepscaler")
    assert last[1] == "What is {1} + 1? Let's think step by step and output the final answer within \\boxed{}."
    assert content("still_suffix")[0][1].endswith("1?\nPlease reason step by step, and put your final answer within \\boxed{}.")
    assert content("code")[0][1].endswith("Present the code in \n```python\nYour code\n```\nat the end.")


@pytest.mark.parametrize("name", [n for n in PROMPTS if PROMPTS[n].suffix])
def test_a_suffix_is_put_once(name):
    once = dress(name, QUESTION)
    assert dress(name, once) == once


def test_open_rs_keeps_its_doubled_braces_and_takes_the_place_of_a_system_message():
    found = content("open_rs", [{"role": "system", "content": "old"}, *QUESTION])
    assert [role for role, _ in found] == ["system", "user"]
    assert "\\boxed{{}} ." in found[0][1] and found[0][1].endswith("NOT use other languages.")


@pytest.mark.parametrize("name", ["still_short", "still_long"])
def test_still_3_zero_prompts_are_texts_that_open_the_thinking(name):
    ((role, text),) = content(name)
    assert role == "text" and text.endswith("User: What is {1} + 1?\n\nAssistant:\n<think>")
    assert "<answer> \\boxed{1} </answer>" in text
    with pytest.raises(TaskError, match="around one question"):
        dress(name, [*QUESTION, {"role": "assistant", "content": "2"}, *QUESTION])


def test_a_text_reaches_the_model_without_a_chat_template(tmp_path: Path):
    folder = ModelFolder(str(random_qwen2(tmp_path / "model", ["What is 1 + 1? <think>"], seed=0)))
    ids = folder.tokenizer.prompt_ids(Problem("p", ({"role": "text", "content": "So? <think>"},), None))
    text = folder.tokenizer.decode(ids)
    assert text.endswith("So? <think>") and "User" not in text


@pytest.mark.parametrize("named", ["LlamaTokenizerFast", "Qwen2Tokenizer", "PreTrainedTokenizerFast"])
def test_a_tokenizer_file_is_used_as_it_stands_whatever_class_the_folder_names(tmp_path: Path, named: str):
    """DeepSeek's folders name a Llama class over a byte-level file that splits digits by threes: the file is what was trained."""
    folder = random_qwen2(tmp_path / "model", ["the sum"], seed=0)
    inner = Tokenizer(models.BPE())
    digits = Split(Regex(r"\p{N}{1,3}"), "isolated")
    inner.pre_tokenizer = Sequence([digits, ByteLevel(add_prefix_space=False, use_regex=False)])
    inner.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(vocab_size=270, initial_alphabet=ByteLevel.alphabet(), special_tokens=["<eos>"])
    inner.train_from_iterator(["12345 = 12345 + 0", "the sum of 12345"] * 9, trainer)
    inner.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": named, "eos_token": "<eos>", "chat_template": "{{ messages[0]['content'] }}", "legacy": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = ModelFolder(folder).tokenizer
    for text in ("the sum of 12345", "12345 = 12345 + 0\n\n  x", "Ünïcödé 中文"):
        assert tokenizer.encode(text).tolist() == inner.encode(text).ids
        assert tokenizer.inner.decode(inner.encode(text).ids) == text


def file_task(folder: Path, **fields):
    path = folder / "d.json"
    path.write_text(json.dumps([{"problem": "1 + 1?", "answer": "2"}]))
    return load_part(Task, {"kind": "file", "test": str(path), **fields})


def test_a_task_takes_a_prompt_by_name(tmp_path: Path):
    assert file_task(tmp_path, prompt="still_short").problem("test", 0).prompt[0]["role"] == "text"
    (message,) = file_task(tmp_path, prompt="deepscaler", prompt_suffix="Be brief.").problem("test", 0).prompt
    assert message["content"].endswith("within \\boxed{}. Be brief.")


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"prompt": "deepscalr"}, "did you mean deepscaler"), ({"prompt": "still_long", "system": "x"}, "is a whole text")],
)
def test_prompts_that_cannot_be_are_refused(tmp_path: Path, fields, words):
    with pytest.raises(RecipeError, match=words):
        file_task(tmp_path, **fields)


def test_a_conversation_far_down_the_file_is_found_at_the_first_use(tmp_path: Path):
    task = file_task(tmp_path, prompt="still_short")
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    rows = [{"problem": "1 + 1?", "answer": "2"}] * 5 + [{"problem": turns, "answer": "2"}]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    with pytest.raises(TaskError, match="row 5 is a conversation"):
        task.problem("test", 0)
