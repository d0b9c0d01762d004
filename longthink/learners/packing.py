"""Cut a batch into micro-batches of nearly unpadded blocks; no sequence is split."""

import numpy as np

from longthink.types import Ints

__all__ = ["Plan", "microbatches", "padded_size"]

MAX_PADDING = 0.2  # of a row; a smaller share means more, smaller attention blocks: 0.1 and 0.3 were slower on two cores

Plan = list[Ints]


def microbatches(lengths: Ints, budget: int) -> list[Plan]:
    """The micro-batches, each a list of blocks, each block the row numbers that are padded to one width.

    Rows are sorted by length, longest first, so a block's first row is its width. A micro-batch holds at
    most `budget` padded tokens, unless one row alone exceeds it. Every row appears once; ties keep their order.

    >>> [[b.tolist() for b in m] for m in microbatches(np.array([5, 2, 3, 5]), 16)]
    [[[0, 3], [2, 1]]]
    >>> [[b.tolist() for b in m] for m in microbatches(np.array([5, 2, 3, 5]), 8)]
    [[[0]], [[3], [2]], [[1]]]
    """
    plans: list[list[list[int]]] = []
    width = used = 0
    for row in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[row])
        fits = length >= (1.0 - MAX_PADDING) * width or width - length <= 1
        cost = width if fits else length
        if not plans or used + cost > budget:
            plans.append([[row]])
            width, used = length, length
        elif fits:
            plans[-1][-1].append(row)
            used += width
        else:
            plans[-1].append([row])
            width, used = length, used + length
    return [[np.array(block) for block in plan] for plan in plans]


def padded_size(plan: Plan, lengths: Ints) -> int:
    """Tokens a micro-batch really computes, padding included."""
    return sum(len(block) * int(lengths[block[0]]) for block in plan)
