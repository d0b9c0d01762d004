"""What is alike: by hand, against all pairs, and the rows that stay."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tomli_w

from longthink.cli import main
from longthink.curation import neighbours, sources
from longthink.curation.encoder import Encoder, encoder_folder
from longthink.curation.neighbours import ORDERS, close_vectors, jaccards, minhash, same_bands
from longthink.curation.overlap import Found, Overlap
from longthink.curation.text import plain, shingles, tokens, values
from longthink.errors import ModelError


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (r"Find $\dfrac{1}{2}\times x$.", r"find \( \frac{1}{2} \cdot x \)"),
        (r"$a_1 \le 10{,}000$", "a1 ≤ 10,000"),
        (r"\textbf{Let} $\left( x+1 \right)^{2}$", "let (x + 1)^2"),
        ("The angle is 30° – half of it?", r"The angle is $30^\circ$ - half of it"),
        ("(abc)^2 = 4.50", "(a b c)^{2} = 4.5"),
    ],
)
def test_typography_is_not_compared(a: str, b: str) -> None:
    assert plain(tokens(a)) == plain(tokens(b))


@pytest.mark.parametrize(("a", "b"), [("x + 1", "x - 1"), ("1 2", "12"), ("a < b", "a > b"), ("2^3", "23"), ("Find x", "Find y")])
def test_signs_and_numbers_are(a: str, b: str) -> None:
    assert plain(tokens(a)) != plain(tokens(b))


def test_values_tell_problems_of_one_template_apart() -> None:
    assert values("Two of 3 cats") == ["2", "3"] == values("3 cats, of which two")
    assert values("letters of RADII") != values("letters of PROOF") and values("triangle ABC") == values("triangle XYZ") == []


def test_minhash_agrees_as_often_as_sets_have_in_common() -> None:
    """The share of equal minima is an unbiased estimate of Jaccard's; 128 orders have a standard error of 0.044 at a half."""
    draw = np.random.default_rng(0)
    for common in (0, 30, 60, 90):
        both, rest = draw.integers(0, 2**32, common), draw.integers(0, 2**32, (2, 90 - common))
        a, b = np.unique(np.concatenate([both, rest[0]])), np.unique(np.concatenate([both, rest[1]]))
        [share] = jaccards(np.concatenate([a, b]), np.array([len(a), len(a) + len(b)]), np.array([0]), np.array([1]))
        assert share == pytest.approx(common / (180 - common), abs=0.02)
        agree = np.mean([minhash(a, seed) == minhash(b, seed) for seed in range(8)])
        assert agree == pytest.approx(share, abs=0.05)


def test_bands_find_every_pair_that_is_alike_and_each_once() -> None:
    draw = np.random.default_rng(1)
    sets = [draw.integers(0, 2**32, 60) for _ in range(300)]
    sets += [np.concatenate([s[:50], draw.integers(0, 2**32, 10)]) for s in sets[:100]]  # 50 of 70 in common
    signatures = np.array([minhash(np.unique(s), 0) for s in sets])
    assert signatures.shape == (400, ORDERS)
    first, second = same_bands(signatures, 4, 0.0)
    met = set(zip(first.tolist(), second.tolist(), strict=True))
    assert len(met) == len(first) and (first < second).all()
    assert sum((i, 300 + i) in met for i in range(100)) >= 99 and len(met) < 150
    alike, other = same_bands(signatures, 4, 0.5)
    assert {*zip(alike.tolist(), other.tolist(), strict=True)} == {p for p in met if p[1] == p[0] + 300}
    same = same_bands(np.tile(signatures[:1], (5, 1)), 4, 1.0)
    assert sorted(zip(same[0].tolist(), same[1].tolist(), strict=True)) == [(i, j) for i in range(5) for j in range(i + 1, 5)]
    same = same_bands(np.tile(signatures[:1], (5, 1)), 4, 1.0, np.array([7, 8, 7, 8, 7]))
    assert sorted(zip(same[0].tolist(), same[1].tolist(), strict=True)) == [(0, 2), (0, 4), (1, 3), (2, 4)]
    assert [len(part) for part in same_bands(signatures[:0], 3, 0.5)] == [0, 0]


def test_half_in_common_meets_in_bands_of_three() -> None:
    draw = np.random.default_rng(3)
    sets = [draw.integers(0, 2**32, 90) for _ in range(200)]
    sets += [np.concatenate([s[:60], draw.integers(0, 2**32, 30)]) for s in sets]  # 60 of 120 in common
    first, second = same_bands(np.array([minhash(np.unique(s), 0) for s in sets]), 3, 0.35)
    assert sum(b == a + 200 for a, b in zip(first.tolist(), second.tolist(), strict=True)) >= 195


def test_a_template_with_many_numbers_takes_no_longer_a_row() -> None:
    """Pairs that are looked at, not seconds: every row meets at most 64 others in a band, and each pair once."""
    signatures = np.tile(minhash(np.arange(50), 0)[None], (1000, 1))
    first, _ = same_bands(signatures, 4, 1.0)
    assert len(first) == sum(min(64, 999 - i) for i in range(1000))


def test_brackets_and_primes_make_another_question_and_typography_does_not() -> None:
    def exact(text: str) -> str:
        return plain(tokens(text, brackets=True))

    apart = [("(2+3)*4", "2+(3*4)"), ("2^{n+1}", "2^n+1"), ("f'(2)", "f(2)"), ("√16+√9", "16+9"), ("A∪B", "A∩B")]
    for a, b in [*apart, (r"\frac{1}{2x}", r"\frac{1}{2}x"), ("[0,5)", "(0,5]")]:
        assert exact(a) != exact(b), (a, b)
    same = [(r"$(abc)^2=\text{so many cm}$", r"(a b c)^{2} = so many cm"), (r"\(x \leq 3\)", "$x \\le 3$"), ("don’t", "don't")]
    for a, b in [*same, (r"\left(x\right)", "(x)")]:
        assert exact(a) == exact(b), (a, b)


def test_texts_made_to_be_slow_to_compare_are_not() -> None:
    code = (
        "from longthink.curation.text import tokens\nfrom longthink.reading import clean_gold\n"
        "for piece in ('^ ', '^' + ' ' * 9999, '^{ ', '{ a', '\\\\text{', '#### a' + ' ' * 9999 + chr(10), '{,}', '1,'):\n"
        "    text = (piece * 100_000)[:100_000] + 'b'\n    tokens(text), tokens(text, brackets=True), clean_gold(text)\n"
    )
    limit = (60, 60)  # CPU seconds; a pattern that is not linear takes minutes over one
    subprocess.run([sys.executable, "-c", code], check=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, limit))


def test_vectors_in_cells_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(2)
    made = draw.standard_normal((3000, 32)).astype(np.float32)
    made[1::10] = made[::10] + 0.3 * draw.standard_normal((300, 32)).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    exact = close_vectors(made, 0.9, 0)
    assert len(exact.first) > 200 and all(s == pytest.approx(made[i] @ made[j]) for i, j, s in zip(*exact, strict=True))
    monkeypatch.setattr(neighbours, "EXACT", 100)
    searched = close_vectors(made, 0.9, 0)
    assert set(zip(searched.first, searched.second, strict=True)) <= set(zip(exact.first, exact.second, strict=True))
    assert len(searched.first) >= 0.98 * len(exact.first)
    assert len(close_vectors(made[:0], 0.9, 0).first) == 0


def test_the_same_first_then_the_most_alike() -> None:
    text = "A train leaves the station at noon and travels at forty miles an hour for three hours. How far?"
    there = Overlap({"a": text, "b": text.replace("noon", "night"), "c": "Find all primes below 100 that end in 7."})
    assert there.find(text.upper()) == Found("a", 1.0)
    found = there.find(text.replace("How far?", "How far does it go?"))
    assert found is not None and found.id == "a" and 0.5 <= found.share < 1.0
    assert there.find("Who is afraid of the big bad wolf and of three little pigs?") is None and there.find("???") is None


ROWS_ = [
    "A baker makes 12 loaves of rye bread and sells each of them for 3 coins at the market. How many coins does he get?",
    "a baker makes 12 loaves of rye bread and sells each of them for 3 coins at the market.  How many coins does he get",
    "A baker makes 12 loaves of rye bread and sells each of them for 3 coins at the market. How many coins does he earn?",
    "A baker makes 15 loaves of rye bread and sells each of them for 3 coins at the market. How many coins does he get?",
    "In how many ways can the letters of the word PROOF be arranged in a row?",
    "In how many ways can the letters of the word RADII be arranged in a row?",
]


def dropped(folder: Path, rows: list[dict[str, Any]], step: dict[str, Any]) -> dict[int, tuple[str, dict[str, Any]]]:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = {"name": "alike", "source": [{"name": "a", "path": str(folder / "a.jsonl")}], "step": [step]}
    (folder / "r.toml").write_text(tomli_w.dumps(table))
    assert main(["curate", str(folder / "r.toml"), "--out", str(folder / "out"), "--workers", "1"]) == 0
    found = pq.read_table(folder / "out" / "data" / "rejects.parquet").to_pylist()
    return {row["row"]: (row["reason"], json.loads(row["detail"])) for row in found}


def test_the_better_labelled_row_stays_and_templates_are_no_duplicates(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"problem": text, "answer": "36"} for text in ROWS_]
    rows[0]["answer"] = None
    rows[2]["solution"] = "12 times 3."
    found = dropped(tmp_path, rows, {"kind": "duplicates"})
    assert {at: (reason, detail["of"]) for at, (reason, detail) in found.items()} == {0: ("same", "a:1"), 1: ("alike", "a:2")}
    assert found[1][1]["same_answer"] is True and 0.7 <= found[1][1]["score"] < 1.0
    assert sorted(dropped(tmp_path, rows, {"kind": "duplicates", "values": "any", "least": 0.6})) == [0, 1, 3, 5]
    assert sorted(dropped(tmp_path, rows, {"kind": "duplicates", "by": "exact"})) == [0]


def test_no_row_goes_by_a_chain(tmp_path: Path) -> None:
    """b is like a and c is like b, but c is not like a: b goes beside a, and c stays."""
    words = [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(60)]
    texts = [" ".join(words[i : i + 40]) for i in (0, 5, 10)]
    found = dropped(tmp_path, [{"problem": t, "answer": "1"} for t in texts], {"kind": "duplicates", "least": 0.7})
    assert {at: detail["of"] for at, (_, detail) in found.items()} == {1: "a:0"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of one layer over words, as a sentence encoder's folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", *sorted({w for text in ROWS_ for w in text.replace(".", " .").replace("?", " ?").split()})]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)
    BertModel(config).save_pretrained(folder)
    kinds = [
        {"idx": i, "name": str(i), "path": f"{i}_{k}" if i else "", "type": f"sentence_transformers.models.{k}"}
        for i, k in enumerate(("Transformer", "Pooling", "Normalize"))
    ]
    (folder / "modules.json").write_text(json.dumps(kinds))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48}))
    return folder


def test_vectors_are_the_mean_of_the_tokens_whatever_stands_beside_them(tiny: Path) -> None:
    import torch

    made = Encoder(tiny)
    together = made.vectors(ROWS_)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, rtol=1e-5)
    for text, vector in zip(ROWS_, together, strict=True):
        with torch.inference_mode():
            states = made.model(**made.tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean = states.mean(0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)
    np.testing.assert_allclose(made.vectors([ROWS_[0] * 9]), made.vectors([ROWS_[0] * 20]), atol=1e-5)  # cut at 48 tokens


def test_duplicates_and_leaks_by_embedding(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SHARD", 4)
    rows = [{"problem": text, "answer": "36"} for text in ROWS_]
    near = {"by": "embedding", "encoder": str(tiny), "least": 0.97}
    found = dropped(tmp_path, rows, {"kind": "duplicates", **near})
    assert {at: detail["of"] for at, (_, detail) in found.items()} == {1: "a:0", 2: "a:0"}
    (tmp_path / "bench.jsonl").write_text(json.dumps({"problem": ROWS_[3].replace("rye", "white"), "answer": "45"}) + "\n")
    leak = {"kind": "decontaminate", "against": [str(tmp_path / "bench.jsonl")], "near": 1.0}
    assert dropped(tmp_path, rows, leak) == {}
    found = dropped(tmp_path, rows, leak | near)
    assert (
        found[3][0] == "close" and found[3][1]["benchmark"] == "bench" and 0.97 <= found[3][1]["score"] <= 1.0 and 4 not in found
    )


def test_a_folder_that_is_no_encoder(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no folder here and could not be fetched"):
        encoder_folder(str(tmp_path / "none"))
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "x.models.CNN", "path": ""}]))
    with pytest.raises(ModelError, match="its modules are CNN; expected Transformer, Pooling"):
        Encoder(tmp_path)


def test_no_group_of_rows_that_are_alike_is_on_both_sides(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    rows = []
    for group in range(30):
        words = [f"w{chr(97 + int(c) // 26)}{chr(97 + int(c) % 26)}" for c in draw.integers(0, 676, 20)]
        rows += [{"problem": " ".join([*words, f"number {k}"]), "answer": str(group)} for k in range(1 + group % 4)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = {
        "name": "split",
        "source": [{"name": "a", "path": str(tmp_path / "a.jsonl")}],
        "step": [{"kind": "split", "rows": 20}],
    }
    (tmp_path / "r.toml").write_text(tomli_w.dumps(table))
    assert main(["curate", str(tmp_path / "r.toml"), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    sides = {
        split: [r["answer"] for r in pq.read_table(tmp_path / "out" / "data" / f"{split}.parquet").to_pylist()]
        for split in ("train", "validation")
    }
    assert len(sides["train"]) + len(sides["validation"]) == len(rows) and 15 <= len(sides["validation"]) <= 20
    assert not set(sides["train"]) & set(sides["validation"])


def test_sequences_of_a_text_are_each_once() -> None:
    assert len(shingles(tokens("a b a b a b"), 3)) == 2 and len(shingles([], 3)) == 0 and len(shingles(["a"], 3)) == 1
