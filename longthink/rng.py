"""Randomness: every stream is named, none is shared, neighbours never overlap."""

import hashlib

import numpy as np

__all__ = ["derive_seed", "rng", "uniforms"]


def derive_seed(run_seed: int, *names: str | int) -> int:
    """A 64-bit seed hashed from the run seed and the stream's name.

    >>> derive_seed(0, "sample", 3, 1) == derive_seed(0, "sample", 3, 1) != derive_seed(1, "sample", 3, 1)
    True
    """
    text = "\x1f".join([str(run_seed), *(f"{type(n).__name__}:{n}" for n in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def rng(run_seed: int, *names: str | int) -> np.random.Generator:
    """A fresh generator for the named stream."""
    return np.random.Generator(np.random.Philox(key=derive_seed(run_seed, *names)))


def uniforms(seed: int, start: int, count: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Draws start … start+count-1 of the stream `seed`, each in [0, 1).

    A position's draw depends on the seed and the position alone, so a continued rollout meets the draws
    it would have met uninterrupted. Philox gives four draws a counter tick, hence the rounding.
    """
    bits = np.random.Philox(key=seed)
    bits.advance(start // 4)
    drawn = np.random.Generator(bits).random(start % 4 + count)
    return drawn[start % 4 :]
