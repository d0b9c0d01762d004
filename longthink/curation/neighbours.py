"""Rows that are alike among very many: by MinHash over sequences of words, or by vectors; memory bounded by the pairs found.

Source: Broder 1997 for MinHash, and bands of it (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4).
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from longthink.rng import rng
from longthink.types import Ints

__all__ = ["ORDERS", "Pairs", "close_vectors", "jaccards", "minhash", "same_bands"]

Floats = np.ndarray[Any, np.dtype[Any]]
ORDERS = 128  # of a signature; in bands of four, texts with 70 % in common meet in some band, but for one pair in 6,000
AGREE = 65_536  # pairs whose signatures are compared at a time
PAIRS = 8_192  # pairs whose sequences are
MERSENNE = (1 << 31) - 1
MEET = 64  # in a bucket each row is paired with so many rows beside it, no more
EXACT = 20_000  # vectors up to which every pair is looked at
BLOCK = 2_048  # vectors compared at a time
CELLS = 12  # nearest cells a vector is looked for in
SAMPLE = 40_000  # vectors that the cells are found with


class Pairs(NamedTuple):
    """Numbers of rows, the first below the second, and how alike they are."""

    first: Ints
    second: Ints
    score: Floats


def minhash(found: Ints, seed: int) -> Ints:
    """The least of each of `ORDERS` random orders over a text's sequences, given as their 32-bit checksums."""
    if not len(found):
        return np.full(ORDERS, MERSENNE, np.int64)
    a, b = _orders(seed)
    least: Ints = ((a[:, None] * (found[None, :] % MERSENNE) + b[:, None]) % MERSENNE).min(axis=1)
    return least


@lru_cache(maxsize=1)
def _orders(seed: int) -> tuple[Ints, Ints]:
    drawn = rng(seed, "minhash").integers(1, MERSENNE, (2, ORDERS))
    return drawn[0], drawn[1]


def same_bands(signatures: Ints, wide: int, least: float, groups: Ints | None = None) -> tuple[Ints, Ints]:
    """Pairs of rows that have a band of `wide` orders of their signatures [n, ORDERS] in common, each pair once.

    Only those whose signatures agree in a share of at least `least`, and that are of one group where there are groups.
    """
    count, met = len(signatures), np.zeros(0, np.int64)
    for start in range(0, ORDERS - wide + 1, wide):
        key = np.zeros(count, np.uint64)
        for column in range(start, start + wide):
            key = (key ^ signatures[:, column].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        order = np.argsort(key, kind="stable")
        key, found = key[order], [np.zeros(0, np.int64)]
        for distance in range(1, min(MEET, count - 1) + 1):
            at = np.flatnonzero(key[distance:] == key[:-distance])
            if not len(at):
                break
            low, high = order[at], order[at + distance]  # ascending within a bucket: the order is stable
            if groups is not None:
                same = groups[low] == groups[high]
                low, high = low[same], high[same]
            if len(met):  # met in a band before
                codes = low * count + high
                new = met[np.minimum(np.searchsorted(met, codes), len(met) - 1)] != codes
                low, high = low[new], high[new]
            found.append((low * count + high)[_agree(signatures, low, high) >= least])
        met = np.union1d(met, np.concatenate(found))
    return met // max(count, 1), met % max(count, 1)


def _agree(signatures: Ints, low: Ints, high: Ints) -> Floats:
    """The share of orders in which the signatures of pairs of rows agree."""
    parts = [np.zeros(0)]
    for start in range(0, len(low), AGREE):
        at = slice(start, start + AGREE)
        parts.append((signatures[low[at]] == signatures[high[at]]).mean(axis=1))
    return np.concatenate(parts)


def jaccards(sequences: Ints, ends: Ints, low: Ints, high: Ints) -> Floats:
    """The share of sequences two rows have in common, of those either has, for pairs of rows.

    `sequences` holds each row's after another's, without repeats within a row; `ends` says where each row's end.

    >>> jaccards(np.array([1, 2, 3, 2, 3, 4]), np.array([3, 6]), np.array([0]), np.array([1]))
    array([0.5])
    """
    begins, parts = np.concatenate([np.zeros(1, np.int64), ends])[:-1], [np.zeros(0)]
    for start in range(0, len(low), PAIRS):
        a, b = low[start : start + PAIRS], high[start : start + PAIRS]
        rows = np.stack([a, b], 1).ravel()
        sizes = ends[rows] - begins[rows]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        pair = np.repeat(np.arange(len(rows)) // 2, sizes)
        keys = np.sort((pair << 32) | sequences[np.repeat(begins[rows], sizes) + within].astype(np.int64))
        both = np.bincount(keys[1:][keys[1:] == keys[:-1]] >> 32, minlength=len(a))
        parts.append(both / np.maximum(sizes.reshape(-1, 2).sum(axis=1) - both, 1))
    return np.concatenate(parts)


def close_vectors(vectors: Floats, least: float, seed: int, groups: Ints | None = None) -> Pairs:
    """Pairs of vectors [n, d], each of length 1, with a cosine of at least so much; of one group where there are groups.

    Up to 20,000 vectors every pair is looked at. Beyond, each vector is compared with those of the cells it is nearest to, of
    about the root of n (an inverted file): a pair may be missed, the rarer the higher the cosine.
    """
    count = len(vectors)
    if count <= EXACT:
        cells = [(np.arange(count), np.arange(count))] if count else []
    else:
        near = _nearest(vectors, _centres(vectors, seed), CELLS)
        cells = [(np.flatnonzero(near[:, 0] == c), np.flatnonzero((near == c).any(axis=1))) for c in np.unique(near[:, 0])]
    keys, scores = [np.zeros(0, np.int64)], [np.zeros(0)]
    for members, askers in cells:
        held = np.asarray(vectors[members], np.float32)
        for start in range(0, len(askers), BLOCK):
            asking = askers[start : start + BLOCK]
            cosines = np.asarray(vectors[asking], np.float32) @ held.T
            at, to = np.nonzero(cosines >= least)
            low, high = np.minimum(asking[at], members[to]), np.maximum(asking[at], members[to])
            two = low != high if groups is None else (low != high) & (groups[low] == groups[high])
            if count <= EXACT:
                two &= asking[at] == low  # each pair is met twice
            keys.append((low * count + high)[two])
            scores.append(cosines[at, to][two])
    pairs, which = np.unique(np.concatenate(keys), return_index=True)
    return Pairs(pairs // max(count, 1), pairs % max(count, 1), np.concatenate(scores)[which].astype(np.float64))


def _centres(vectors: Floats, seed: int) -> Floats:
    """Centres of cells, by five rounds of k-means over a sample."""
    count = len(vectors)
    draw = rng(seed, "cells")
    sample = np.asarray(vectors[np.sort(draw.choice(count, min(count, SAMPLE), replace=False))], np.float32)
    centres = sample[np.sort(draw.choice(len(sample), int(count**0.5), replace=False))]
    for _ in range(5):
        nearest = _nearest(sample, centres, 1)[:, 0]
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, sample)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.maximum(norms, 1e-12), centres)
    return centres


def _nearest(vectors: Floats, centres: Floats, most: int) -> Ints:
    """[n, most] the cells each vector is nearest to, the nearest first."""
    found = np.zeros((len(vectors), most), np.int64)
    for start in range(0, len(vectors), BLOCK):
        cosines = np.asarray(vectors[start : start + BLOCK], np.float32) @ centres.T
        top = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
        order = np.argsort(-np.take_along_axis(cosines, top, axis=1), axis=1, kind="stable")
        found[start : start + BLOCK] = np.take_along_axis(top, order, axis=1)
    return found
