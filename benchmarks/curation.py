"""What curation's rules find, what its searches miss, and how both grow.

    make curation PART=rules      precision and recall of the content rules on labelled questions -> docs/curation.md
    make curation PART=leaks      planted leaks and duplicates by kind -> docs/curation.md
    make curation PART=scale      10,000 to 1,000,000 rows: seconds and memory of MinHash and of vectors
    make curation PART=speed      rows a second of all-MiniLM-L6-v2, of the content rules, and of curate_local as a whole

Texts that are not ours are read from the folder DATA (default ../shared/data); what is not there is left out and said.
"""

import gzip
import hashlib
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import time
from collections import Counter, defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from longthink import storage
from longthink.curation.content import FAMILIES, kinds
from longthink.curation.overlap import Overlap
from longthink.machine import cpu_name
from longthink.stats import wilson

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("DATA", ROOT.parent / "shared" / "data"))
LABELS = ROOT / "tests" / "curation" / "labels"
RESULTS = ROOT / "benchmarks" / "results" / "curation.json"
SUFFIX = "Let's think step by step and output the final answer within \\boxed{}."


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@lru_cache(maxsize=64)
def rows_of(name: str) -> list[str] | None:
    """The questions of a data file, or None where it is not there."""
    path = DATA / name
    if not path.exists():
        return None
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return [row["prompt"][0]["content"].removesuffix(f" {SUFFIX}") for row in pq.read_table(path).to_pylist()]
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    found = (
        json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if line.strip()]
    )
    column = "question" if "liveaops" in name else "problem"
    return [row[column] for row in found]


def text_of(row: dict[str, Any]) -> str | None:
    """A labelled row's text; None where its file is not there. The label belongs to the text, not to its place."""
    if "question" in row:
        return str(row["question"])
    found = rows_of(row["file"])
    if found is None:
        return None
    text = found[row["row"]]
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == row["hash"], row
    return text


def keep(part: str, facts: Any) -> None:
    """Write one part of the results."""
    there = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    machine = {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()}
    storage.replace_file(RESULTS, json.dumps(there | {part: {"machine": machine, **facts}}, indent=1).encode())


def into_docs(mark: str, table: str) -> None:
    path = ROOT / "docs" / "curation.md"
    text = path.read_text()
    begin, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->\n"
    assert begin in text and end in text, mark
    storage.replace_file(path, (text.partition(begin)[0] + begin + table + end + text.partition(end)[2]).encode())


def share(right: int, of: int) -> str:
    """A share with its interval (95 %, Wilson)."""
    if not of:
        return "-"
    mean = right / of
    low, high = wilson(mean, mean * (1 - mean) / of, of, 1_000_000, 0.95)[1:]
    return f"{100 * mean:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def judged(files: list[str]) -> tuple[dict[str, Counter[str]], int]:
    """By family: what the rule found of labelled questions, and how many questions were not at hand."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    missing = 0
    for row in (row for name in files for row in lines(LABELS / name)):
        text = text_of(row)
        if text is None:
            missing += 1
            continue
        told = dict(kinds(text))
        for family in row.get("only", FAMILIES):
            found[family]["hit" if family in told else "miss", family in row["labels"]] += 1
    return found, missing


def rules() -> int:
    table = "| family | rows of it | precision | recall | rules mended by them: precision | recall |\n|---|---|---|---|---|---|\n"
    (fresh, _), (seen, missing) = judged(["heldout.jsonl"]), judged(["written.jsonl", "shared.jsonl"])
    facts: dict[str, Any] = {}
    for family in FAMILIES:
        cells = []
        for counts in (fresh[family], seen[family]):
            right, wrong, lost = counts["hit", True], counts["hit", False], counts["miss", True]
            cells += [share(right, right + wrong), share(right, right + lost)]
            facts.setdefault(family, []).append({"right": right, "wrong": wrong, "lost": lost, "rows": sum(counts.values())})
        table += f"| {family} | {facts[family][0]['right'] + facts[family][0]['lost']} | {' | '.join(cells)} |\n"
    keep("rules", {"families": facts, "not_at_hand": missing})
    into_docs("rules", table)
    print(table)
    return 0


TOKEN = re.compile(r"\s+|\w+|[^\w\s]")


def edited(text: str, edits: list[list[Any]]) -> str:
    found = TOKEN.findall(text)
    for start, stop, new in reversed(edits):
        found[start:stop] = [new]
    return "".join(found)


def retyped(text: str, draw: random.Random) -> str:
    """The same text in other typography: notations, blanks, quotes and capitals as other sources have them."""
    swaps = [
        ("\\frac", "\\dfrac"),
        ("\\leq", "\\le "),
        ("\\geq", "\\ge "),
        ("$", " $"),
        (" - ", " – "),
        ("'", "’"),
        ("\\cdot", "\\times"),
    ]
    for old, new in draw.sample(swaps, 4):
        text = text.replace(old, new)
    return draw.choice([text, text.upper() if "\\" not in text else text, text.replace(". ", ".\n\n"), f"  {text} "])


def planted() -> list[tuple[str, str, str]]:
    """Kind, text and the original of every planted leak whose original is at hand."""
    found = []
    for number, row in enumerate(lines(LABELS / "leaks.jsonl")):
        original = text_of(row)
        if original is None:
            continue
        found.append(("exact, retyped", retyped(original, random.Random(number)), original))
        found.append((f"reworded, {row['strength']}", edited(original, row["reworded"]), original))
        found.append(("renumbered", edited(original, row["renumbered"]), original))
    return found


def leaks() -> int:
    from longthink.curation.encoder import Encoder, encoder_folder
    from longthink.curation.steps.decontaminate import CLOSE
    from longthink.curation.text import values

    there = planted()
    if not there:
        print(f"no benchmark is at hand in {DATA}")
        return 1
    originals = list(dict.fromkeys(original for *_, original in there))
    clean = [row["question"] for row in lines(LABELS / "written.jsonl")]
    overlap, encoder = Overlap(dict(enumerate(map(str, originals)))), Encoder(encoder_folder("all-MiniLM-L6-v2"))
    held = encoder.vectors(originals)
    texts = [text for _, text, _ in there]
    found: dict[str, Counter[str]] = defaultdict(Counter)
    close = encoder.vectors([*texts, *clean]) @ held.T
    for (kind, text, original), cosines in zip(there, close, strict=False):
        words = overlap.find(text) is not None
        vector = bool(cosines.max() >= CLOSE)
        same = values(text) == values(original)
        duplicate = cosines[originals.index(original)] >= 0.9 and same
        found[kind].update(rows=1, words=words, either=words or vector, duplicate=bool(duplicate))
    false_words = sum(overlap.find(text) is not None for text in clean)
    false_either = sum(
        overlap.find(t) is not None or bool(c.max() >= CLOSE) for t, c in zip(clean, close[len(texts) :], strict=True)
    )
    table = "| planted | texts | found by words | precision | by words or embedding | precision | a duplicate by embedding |\n"
    table += "|---|---|---|---|---|---|---|\n"
    for kind, counts in sorted(found.items()):
        cells = []
        for key, wrong in (("words", false_words), ("either", false_either)):
            cells += [share(counts[key], counts["rows"]), share(counts[key], counts[key] + wrong)]
        cells.append(share(counts["duplicate"], counts["rows"]))
        table += f"| {kind} | {counts['rows']} | {' | '.join(cells)} |\n"
    table += f"| nothing ({len(clean):,} questions of ours) | {len(clean)} | {false_words} | | {false_either} | | |\n"
    best = close.max(axis=1)
    table += "\n" + by_cosine(encoder, [kind for kind, *_ in there], best[: len(texts)], best[len(texts) :])
    facts = {kind: dict(counts) for kind, counts in found.items()}
    keep("leaks", {"kinds": facts, "false": {"words": false_words, "either": false_either, "of": len(clean)}})
    into_docs("leaks", table)
    print(table)
    return 0


TRAINING = "math_train/deepscaler_train_sample2000.json.gz"


def by_cosine(encoder: Any, kinds_: list[str], planted_: Any, clean: Any) -> str:
    """What each threshold finds, and how many rows of a real training set it drops against every benchmark at hand."""
    from longthink.curation.steps.decontaminate import benchmark_texts

    texts = benchmark_texts(("all-local",), DATA)
    rows = rows_of(TRAINING) or []
    overlap = Overlap(texts)
    rows = [row for row in rows if overlap.find(row) is None]
    close = (encoder.vectors(rows) @ encoder.vectors(list(texts.values())).T).max(axis=1)
    names = sorted(set(kinds_))
    table = f"| cosine | {' | '.join(names)} | questions of ours | {len(rows):,} training rows that words kept |\n"
    table += "|---" * (len(names) + 3) + "|\n"
    for least in (0.95, 0.9, 0.85, 0.8, 0.75):
        cells = []
        for name in names:
            of = [c >= least for kind, c in zip(kinds_, planted_, strict=True) if kind == name]
            cells.append(share(sum(of), len(of)))
        table += f"| {least} | {' | '.join(cells)} | {(clean >= least).sum()} | {(close >= least).sum()} |\n"
    return table


NOUNS = [
    f"{a}{b}"
    for a in ("red", "blue", "old", "new", "tall", "wide", "cold", "warm", "soft", "hard")
    for b in ("box", "cup", "hat", "map", "pen", "jar", "toy", "key", "fan", "rug")
]
FRAMES = (
    "{n} has {a} {x} and gives {b} of them to a friend. How many {x} are left when {c} more {y} come?",
    "A shop sells {x} for {a} coins and {y} for {b} coins. {n} buys {c} of each. What is the total cost in coins?",
    "In how many ways can {a} {x} and {b} {y} be put in a row such that no {c} {x} stand side by side?",
    "Let S be the sum of all {x} numbers from {a} to {b}. Find the remainder of S when it is divided by {c} {y}.",
)


def synthetic(count: int, seed: int) -> list[str]:
    """Questions of which every twentieth is another once more, with a word put in."""
    draw, found = random.Random(seed), list[str]()
    for number in range(count):
        if number % 20 == 19:
            words = found[draw.randrange(len(found))].split(" ")
            words.insert(draw.randrange(len(words)), "indeed")
            found.append(" ".join(words))
        else:
            x, y, n = draw.sample(NOUNS, 3)
            a, b, c = (draw.randint(2, 99_999) for _ in range(3))
            found.append(draw.choice(FRAMES).format(n=n.title(), x=x, y=y, a=a, b=b, c=c))
    return found


def scale() -> int:
    """Each size in a process of its own, whose peak memory is its own."""
    found = []
    for size in (10_000, 100_000, 1_000_000):
        for what in ("minhash", "vectors"):
            out = subprocess.run(
                [sys.executable, __file__, "one", what, str(size)], check=True, capture_output=True, text=True
            ).stdout
            found.append(json.loads(out.splitlines()[-1]))
            print(found[-1], flush=True)
            keep("scale", {"runs": found})
    table = "| search | rows | found of those planted | others | seconds | peak memory |\n|---|---|---|---|---|---|\n"
    for run in found:
        cells = [
            run["what"],
            f"{run['rows']:,}",
            share(run["found"], run["planted"]),
            f"{run['others']:,}",
            f"{run['seconds']:.0f}",
            f"{run['peak_gb']:.1f} GB",
        ]
        table += f"| {' | '.join(cells)} |\n"
    into_docs("scale", table)
    return 0


def one(what: str, size: int) -> int:
    """The `duplicates` step (minhash), or the search of vectors, over so many synthetic rows."""
    import tempfile

    folder = Path(tempfile.mkdtemp(dir=os.environ.get("SCRATCH")))
    began, planted_ = time.monotonic(), size // 20
    if what == "minhash":
        from longthink.cli import main
        from longthink.curation.rows import Shards

        texts = synthetic(size, 0)
        with (folder / "rows.jsonl").open("w") as file:
            file.writelines(json.dumps({"problem": text, "answer": "1"}) + "\n" for text in texts)
        del texts
        (folder / "r.toml").write_text(
            f'name = "scale"\n[[source]]\nname = "a"\npath = "{folder}/rows.jsonl"\n[[step]]\nkind = "duplicates"\nleast = 0.6\n'
        )
        began = time.monotonic()
        main(["curate", str(folder / "r.toml"), "--out", str(folder / "out")])
        shards = Shards(folder / "out" / "steps" / "duplicates")
        dropped = [r.row.question for n in shards.numbers() for r in shards.rejected(n)]
        found, others = sum("indeed" in text for text in dropped), sum("indeed" not in text for text in dropped)
    else:
        from longthink.curation.neighbours import close_vectors

        made = np.lib.format.open_memmap(folder / "v.npy", "w+", np.float16, (size, 384))
        draw = np.random.default_rng(0)
        for start in range(0, size, 10_000):
            block = draw.standard_normal((min(10_000, size - start), 384)).astype(np.float32)
            block[19::20] = block[18::20][: len(block[19::20])] + 0.35 * draw.standard_normal(block[19::20].shape).astype(
                np.float32
            )
            made[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
        made.flush()
        began = time.monotonic()
        pairs = close_vectors(np.load(folder / "v.npy", mmap_mode="r"), 0.9, 0)
        found = int(((pairs.second - pairs.first == 1) & (pairs.second % 20 == 19)).sum())
        others = len(pairs.first) - found
    seconds = time.monotonic() - began
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1e6
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    facts = {
        "what": what,
        "rows": size,
        "found": found,
        "others": others,
        "planted": planted_,
        "seconds": seconds,
        "peak_gb": peak,
    }
    print(json.dumps(facts))
    return 0


def speed() -> int:
    """The real encoder and the content rules over 5,000 questions, and a whole curation in a process of its own."""
    import tempfile

    from longthink.curation.encoder import MINILM, Encoder, encoder_folder

    texts = synthetic(5_000, 1)
    names = (
        "math_train/deepscaler_train_sample2000.json.gz",
        "math_eval/rllm_test_gsm8k.json.gz",
        "math_train/oneshot_dsr_sub.parquet",
    )
    real = [text for name in names for text in rows_of(name) or ()]
    texts = (real + texts)[:5_000]
    made = Encoder(encoder_folder(MINILM))
    made.vectors(texts[:64])
    began = time.monotonic()
    made.vectors(texts)
    encoded = time.monotonic()
    for text in texts:
        list(kinds(text))
    facts: dict[str, Any] = {"rows": len(texts), "real": min(len(real), 5_000)}
    facts |= {
        "encoder_rows_a_second": len(texts) / (encoded - began),
        "rules_rows_a_second": len(texts) / (time.monotonic() - encoded),
    }
    table = (
        f"all-MiniLM-L6-v2 encodes {facts['encoder_rows_a_second']:.0f} questions a second on {os.cpu_count()} cores, and the "
    )
    table += f"content rules look at {facts['rules_rows_a_second']:.0f} a second on one"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "longthink.cli", "curate", "recipes/curation/curate_local.toml", "--out", folder]
        began = time.monotonic()
        if (DATA / TRAINING).exists() and ROOT.parent / "shared" / "data" == DATA:
            subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
            taken = sum(n["in"] for n in json.loads((Path(folder) / "funnel.json").read_text())["steps"] if n["kind"] == "source")
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
            facts |= {"local_rows": taken, "local_seconds": time.monotonic() - began, "local_peak_gb": peak}
            table += f"; `curate_local` takes its {taken:,} rows in {facts['local_seconds']:.0f} seconds and {peak:.1f} GB"
    keep("speed", facts)
    into_docs("speed", table + f" ({facts['real']:,} of the {len(texts):,} questions are real ones; {cpu_name()}).\n")
    print(table)
    return 0


if __name__ == "__main__":
    jobs = {"rules": rules, "leaks": leaks, "scale": scale, "speed": speed}
    if sys.argv[1:2] == ["one"]:
        sys.exit(one(sys.argv[2], int(sys.argv[3])))
    if sys.argv[1:] == [] or sys.argv[1] not in jobs:
        sys.exit(f"usage: python benchmarks/curation.py {'|'.join(jobs)}")
    sys.exit(jobs[sys.argv[1]]())
