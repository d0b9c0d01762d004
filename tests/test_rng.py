"""Randomness: streams are told apart by every part of their name, and a position's draw is its own."""

import hashlib
import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from longthink.rng import derive_seed, rng, uniforms

seeds = st.integers(0, 2**64 - 1)


@given(seeds, st.integers(0, 1000), st.lists(st.integers(0, 9), max_size=6))
def test_draws_are_the_same_however_they_are_cut(seed: int, start: int, counts: list[int]) -> None:
    whole = uniforms(seed, start, sum(counts))
    assert whole.dtype == np.float64 and len(whole) == sum(counts)
    places = itertools.accumulate(counts, initial=start)
    parts = [uniforms(seed, place, count) for place, count in zip(places, counts, strict=False)]
    np.testing.assert_array_equal(np.concatenate([np.zeros(0), *parts]), whole)
    np.testing.assert_array_equal(uniforms(seed, 0, start + sum(counts))[start:], whole)


def test_draws_by_hand() -> None:
    """They are numpy's own Philox doubles for the key, so they mean the same in any version of this file."""
    plain = np.random.Generator(np.random.Philox(key=5)).random(9)
    np.testing.assert_array_equal(uniforms(5, 0, 9), plain)
    assert [uniforms(5, position, 1)[0] for position in range(9)] == plain.tolist()


def test_draws_far_out_are_reached_at_once_and_agree() -> None:
    far = 10**15 + 3
    np.testing.assert_array_equal(uniforms(1, far, 10)[4:], uniforms(1, far + 4, 6))
    assert len(uniforms(1, far, 0)) == 0


def test_draws_are_uniform_on_zero_to_one() -> None:
    draws = uniforms(3, 0, 100_000)
    assert draws.min() >= 0 and draws.max() < 1
    # mean 1/2 with standard error 1/sqrt(12 · 100,000) = 0.0009; each tenth holds 10,000 with deviation 95
    assert abs(draws.mean() - 0.5) < 0.003
    assert abs(np.histogram(draws, 10, (0, 1))[0] - 10_000).max() < 380


def test_neighbouring_seeds_share_nothing() -> None:
    streams = [uniforms(seed, 0, 1000) for seed in range(20)]
    assert len(np.unique(np.concatenate(streams))) == 20_000


NAMES = (
    (),
    ("a",),
    ("b",),
    ("a", "b"),
    ("b", "a"),
    ("ab",),
    ("a", ""),
    ("", "a"),
    (1,),
    ("1",),
    (1, 2),
    (2, 1),
    (12,),
    ("1", 2),
    (1, "2"),
    ("1", "2"),
    (-1,),
    (0,),
    ("0",),
    (2**70,),
    ("int:1",),
)


def test_seeds_differ_by_name_type_and_order() -> None:
    found = [derive_seed(run_seed, *names) for run_seed in (0, 1, 2**40) for names in NAMES]
    assert len(set(found)) == 3 * len(NAMES)
    assert all(0 <= seed < 2**64 for seed in found)


names = st.lists(st.integers() | st.text(st.characters(min_codepoint=32), max_size=8), max_size=4)


@given(seeds, names, seeds, names)
def test_seeds_are_equal_for_equal_names_only(one: int, first: list[str | int], other: int, second: list[str | int]) -> None:
    assert (derive_seed(one, *first) == derive_seed(other, *second)) == ((one, first) == (other, second))


def test_a_seed_by_hand() -> None:
    """A recipe's runs must repeat, so how a name becomes a seed never changes."""
    text = b"7\x1fstr:sample\x1fint:3"
    assert derive_seed(7, "sample", 3) == int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def test_generators_start_afresh_and_differ_by_name() -> None:
    assert rng(1, "x").random(5).tolist() == rng(1, "x").random(5).tolist()
    assert rng(1, "x").random(5).tolist() != rng(1, "y").random(5).tolist()
    np.testing.assert_array_equal(rng(1, "x").random(8), uniforms(derive_seed(1, "x"), 0, 8))
