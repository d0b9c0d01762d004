"""Cut a batch into micro-batches, and their rows into blocks of similar length for attention; no sequence is split."""

import numpy as np

from longthink.types import Ints

__all__ = ["Plan", "microbatches"]

MAX_PADDING = 0.2  # of a row in its attention block; a smaller share means more, smaller blocks
MIN_STEP = 16  # rows that differ by less share a block whatever their share

Plan = list[Ints]


def microbatches(lengths: Ints, budget: int) -> list[Plan]:
    """The micro-batches, each a list of blocks, each block the numbers of rows of similar length.

    Rows are sorted by length, longest first. A micro-batch holds at most `budget` tokens, unless one row alone
    exceeds it; padding in attention is not counted. Every row appears once; ties keep their order.

    >>> [[b.tolist() for b in m] for m in microbatches(np.array([50, 20, 30, 50]), 150)]
    [[[0, 3], [2, 1]]]
    >>> [[b.tolist() for b in m] for m in microbatches(np.array([50, 20, 30, 50]), 80)]
    [[[0]], [[3], [2]], [[1]]]
    """
    plans: list[list[list[int]]] = []
    width = used = 0
    for row in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[row])
        if not plans or used + length > budget:
            plans.append([[row]])
            width, used = length, length
            continue
        if length >= (1.0 - MAX_PADDING) * width or width - length < MIN_STEP:
            plans[-1][-1].append(row)
        else:
            plans[-1].append([row])
            width = length
        used += length
    return [[np.array(block) for block in plan] for plan in plans]
