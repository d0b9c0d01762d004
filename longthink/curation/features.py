"""What rows are compared by, computed a shard at a time and kept: keys, numbers, sequences of words, vectors."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from longthink import storage
from longthink.curation.neighbours import ORDERS, Pairs, jaccards, minhash, same_bands
from longthink.curation.rows import Shards, stored
from longthink.curation.steps.base import Input, Work
from longthink.curation.text import plain, shingles, tokens, values
from longthink.types import Ints

__all__ = ["Features", "alike", "features", "vectors"]

NAMES = ("keys", "values", "sequences", "sizes", "signatures")
SEQUENCE = 3  # tokens of a sequence that MinHash counts
LOW = 0.65  # below it bands are three orders wide: of pairs with half in common 1 in 270 meets in none
SIGNATURE_SLACK = 0.15  # of 128 orders, over three standard errors: pairs below that are not looked at closer


class Features(NamedTuple):
    """By row: a checksum of its text as it is compared, one of its values, its sequences and their MinHash signature."""

    keys: Ints  # [n]
    values: Ints  # [n]
    sequences: Ints  # one row's after another's
    ends: Ints  # [n] where each row's sequences end
    signatures: Ints  # [n, ORDERS]


def features(work: Work, given: Input) -> Features:
    """The features of all rows of an input, computed where they are not there yet."""
    folder = work.own / "features"
    storage.make_folder(folder)
    shards = given.numbers()
    left = [n for n in shards if not (folder / f"{n:05d}.npz").exists()]
    jobs = [(str(given.shards.folder), given.rejected, n, work.seed, str(folder)) for n in left]
    work.spread(_compute, jobs, len(shards))
    parts = [stored(folder / f"{n:05d}.npz", _arrays) for n in shards]
    keys, told, sequences, sizes, signatures = (_joined([p[name] for p in parts]) for name in NAMES)
    return Features(keys, told, sequences, np.cumsum(sizes), signatures)


def _arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as held:
        return {name: held[name] for name in NAMES}


def _joined(parts: Sequence[Any]) -> Any:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _compute(folder: str, rejected: bool, number: int, seed: int, out: str) -> None:
    rows = Shards(Path(folder)).shard(number, rejected)
    found = [tokens(row.question) for row in rows]
    exact = [plain(tokens(row.question, brackets=True)) or row.question for row in rows]
    sequences = [shingles(f, SEQUENCE) for f in found]
    path = Path(out) / f"{number:05d}.npz"
    draft = path.with_name(f".{path.name}")
    with draft.open("wb") as file:
        np.savez(
            file,
            keys=np.array([_checksum(text) for text in exact], np.int64),
            values=np.array([_checksum(" ".join(values(row.question))) for row in rows], np.int64),
            sequences=_joined(sequences).astype(np.uint32),
            sizes=np.array([len(s) for s in sequences], np.int64),
            signatures=np.array([minhash(s, seed) for s in sequences], np.uint32).reshape(len(rows), ORDERS),
        )
    draft.replace(path)


def _checksum(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little", signed=True)


def vectors(work: Work, given: Input, encoder: str) -> "np.ndarray[Any, np.dtype[Any]]":
    """[n, d] the questions' vectors, in half precision, on disk: only what is looked at comes into memory."""
    from longthink.curation.encoder import Encoder, encoder_folder

    folder = work.own / "vectors"
    storage.make_folder(folder)
    parts, made = [], None
    for done, number in enumerate(given.numbers()):
        work.tell(done, len(given.numbers()))
        path = folder / f"{number:05d}.npy"
        if not path.exists():
            made = made or Encoder(encoder_folder(encoder))
            draft = path.with_name(f".{path.name}")
            with draft.open("wb") as file:
                np.save(file, made.vectors([row.question for row in given.shard(number)]).astype(np.float16))
            draft.replace(path)
        parts.append(stored(path, partial(np.load, mmap_mode="r")))
    whole = folder / "all.npy"
    if parts and not whole.exists():
        draft = whole.with_name(f".{whole.name}")
        shape = (sum(map(len, parts)), parts[0].shape[1])
        joined = np.lib.format.open_memmap(draft, "w+", np.float16, shape)
        at = 0
        for part in parts:
            joined[at : at + len(part)] = part
            at += len(part)
        joined.flush()
        draft.replace(whole)
    return np.load(whole, mmap_mode="r") if parts else np.zeros((0, 1), np.float16)


def alike(found: Features, least: float, *, same_values: bool = False) -> Pairs:
    """Pairs of rows with so large a share of their sequences in common (Jaccard), by MinHash; perhaps of the same values."""
    bar = least - SIGNATURE_SLACK
    first, second = same_bands(found.signatures, 4 if least >= LOW else 3, bar, found.values if same_values else None)
    score = jaccards(found.sequences, found.ends, first, second)
    kept = score >= least
    return Pairs(first[kept], second[kept], score[kept])
