"""Majority votes: which answers are one answer, and what the most frequent of k samples would score."""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from longthink.rewards.base import BAD_GOLD, Reward
from longthink.rewards.pool import Grader
from longthink.rng import rng

__all__ = ["Ballot", "Curve", "classes", "majority_curve", "powers"]

TRIALS = 300  # DeepScaleR's (papers: test-time scaling)


class Ballot(NamedTuple):
    """One sample's vote: the number of its class of answers, None for no answer; what it scored; and its tokens."""

    vote: int | None
    score: float
    tokens: int


class Curve(NamedTuple):
    """Majority votes of k samples a problem: the mean and the std (ddof 1) over trials, and the mean tokens of a problem."""

    k: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokens: tuple[float, ...]


def classes(
    answers: Mapping[Hashable, Sequence[tuple[str | None, float]]], reward: Reward, pool: Grader
) -> dict[Hashable, list[int | None]]:
    """The class of each answer of each problem; `answers` are those extracted, with their scores.

    Answers that earn the full score are one class, and the others are one where their texts are the same or, if the
    verifier can take an answer for a gold, where it finds them equal. The first of a class stands for it, so that an
    equality that does not carry over (a = b = c, a ≠ c) depends on the order of samples. A class is named by the number of its
    first sample. What cannot be compared in time is another answer.
    """
    named: dict[Hashable, dict[str, int]] = {key: {} for key in answers}
    for key, given in answers.items():
        right: int | None = None
        for number, (text, score) in enumerate(given):
            if text is None or text in named[key]:
                continue
            if score >= 1.0:
                right = number if right is None else right
                named[key][text] = right
            else:
                named[key][text] = number
    if reward.answers_are_golds:
        _merge(answers, named, reward, pool)
    return {key: [None if text is None else named[key][text] for text, _ in given] for key, given in answers.items()}


def _merge(
    answers: Mapping[Hashable, Sequence[tuple[str | None, float]]],
    named: dict[Hashable, dict[str, int]],
    reward: Reward,
    pool: Grader,
) -> None:
    """Give wrong answers that are equal one name: each round compares the first that is left of every problem with the rest."""
    left = {
        key: [text for text in named[key] if all(score < 1.0 for other, score in given if other == text)]
        for key, given in answers.items()
    }
    while left := {key: texts for key, texts in left.items() if len(texts) > 1}:
        for key, (first, *rest) in left.items():
            for text in rest:
                try:
                    response = reward.example(text)
                except BAD_GOLD:  # an answer that is none, such as an empty text in a box
                    continue
                if response is not None:
                    pool.submit((key, text), response, first, reward)
        same = {found for found, verdict in pool.drain().items() if verdict.score == 1.0}
        for key, (first, *rest) in left.items():
            for text in rest:
                if (key, text) in same:
                    named[key][text] = named[key][first]
            left[key] = [text for text in rest if (key, text) not in same]


def powers(n: int) -> list[int]:
    """1, 2, 4, … and n itself."""
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})


def majority_curve(
    problems: Sequence[Sequence[Ballot]], seed: int, *, ks: Sequence[int] = (), trials: int = TRIALS, replace: bool = False
) -> Curve:
    """maj@k for every k by resampling: in each trial k of each problem's samples vote for the answer that counts.

    Samples without an answer are drawn but do not vote; a problem where nobody votes scores 0. Ties are broken at random, by
    `seed`. A class's score is that of its first member. Subsets are drawn without replacement unless `replace`; without it the
    std of k = n is that of the ties alone. `ks` default to the powers of two and the smallest n.

    Raises: ValueError when there is no problem, or k is more than a problem's samples and they are not replaced.
    Source: DeepScaleR's test-time scaling, 300 trials; papers: its 57.7 % of 30 problems is no whole number, so votes were
    resampled with replacement or ties broken at random.
    """
    if not problems or not min(map(len, problems)):
        raise ValueError("a problem has no sample, or there is none: nobody votes")
    smallest = min(map(len, problems))
    ks = tuple(ks) or tuple(powers(smallest))
    if max(ks) > smallest and not replace:
        raise ValueError(f"k is {max(ks)} and a problem has {smallest} samples; give fewer, or draw with replacement")
    means, stds, tokens = [], [], []
    for k in ks:
        scores, spent = np.zeros(trials), 0.0
        for index, ballots in enumerate(problems):
            drawn = rng(seed, "votes", k, index)
            chosen = _subsets(drawn, len(ballots), k, trials, replace)
            scores += _winners(ballots, chosen, drawn)
            spent += float(np.array([b.tokens for b in ballots])[chosen].sum(axis=1).mean())
        scores /= len(problems)
        means.append(float(scores.mean()))
        stds.append(float(scores.std(ddof=1)))
        tokens.append(spent / len(problems))
    return Curve(tuple(ks), tuple(means), tuple(stds), tuple(tokens))


def _subsets(drawn: np.random.Generator, n: int, k: int, trials: int, replace: bool) -> np.ndarray:
    """[trials, k] numbers of samples."""
    if replace:
        return drawn.integers(n, size=(trials, k))
    return np.argsort(drawn.random((trials, n)), axis=1)[:, :k]


def _winners(ballots: Sequence[Ballot], chosen: np.ndarray, drawn: np.random.Generator) -> np.ndarray:
    """[trials] the score of the most frequent answer among those chosen."""
    names = list(dict.fromkeys(b.vote for b in ballots if b.vote is not None))
    if not names:
        return np.zeros(len(chosen))
    worth = np.array([next(b.score for b in ballots if b.vote == name) for name in names])
    column = np.array([-1 if b.vote is None else names.index(b.vote) for b in ballots])[chosen]
    counts = np.stack([(column == i).sum(axis=1) for i in range(len(names))], axis=1)
    won = np.argmax(counts + drawn.random(counts.shape), axis=1)  # less than one vote decides between equals
    return np.where(counts.max(axis=1) > 0, worth[won], 0.0)
