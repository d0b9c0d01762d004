"""Mix: rows of several streams in seeded counts or weights."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from longthink.curation.output import fact
from longthink.curation.rows import Rejected, Row
from longthink.curation.sources import SHARD
from longthink.curation.steps.base import Input, Step, Work, put
from longthink.rng import rng

__all__ = ["Mix", "Take"]

BINS = 10  # of pass rates, where rows are drawn evenly by difficulty


class Take(BaseModel):
    """How much of one stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(alias="from")
    rows: int = Field(0, ge=0)
    weight: float = Field(0.0, ge=0)


class Mix(Step):
    """Draws rows from several streams: all of each, so many (`rows`), or shares of `rows` by `weight`.

    A row that came from a stream named earlier is not taken again. Draws are seeded and without repetition; where a stream has
    too few, all of it is taken and the funnel shows the count. `evenly` draws the same number from each source, or from each
    tenth of pass rates, as far as they have them. Source: Open-RS 2.1, 3,000 + 3,000 + 1,000, the last from what an earlier
    step has dropped.

    Example: `[[step]]` with `kind = "mix"`, `take = [{ from = "hard", rows = 3000 }, { from = "easy.rejected", rows = 1000 }]`.
    """

    take: tuple[Take, ...] = Field(min_length=1, description="streams: `from`, and `rows` or `weight` of each; neither takes all")
    rows: int = Field(0, ge=0, description="in all, where the streams have weights")
    evenly: Literal["", "difficulty", "source"] = ""

    @model_validator(mode="after")
    def _counts_or_weights(self) -> Self:
        if self.source:
            raise ValueError("a mix takes from the streams of `take`, not from one `from`")
        weights = [t.weight > 0 for t in self.take]
        if any(weights) != (self.rows > 0) or (any(weights) and (not all(weights) or any(t.rows for t in self.take))):
            raise ValueError("take has `rows` of each stream, or a `weight` of each and `rows` of the step in all")
        return self

    def wants(self, before: str) -> list[str]:
        return [t.source for t in self.take]

    def counts(self, sizes: Sequence[int]) -> list[int]:
        """Rows to draw of each stream; by weight the largest remainders get what is left over.

        >>> mix = Mix.model_validate({"take": [{"from": "a", "weight": 1}, {"from": "b", "weight": 2}], "rows": 100})
        >>> mix.counts([1000, 1000])
        [33, 67]
        """
        if not self.rows:
            return [t.rows or size for t, size in zip(self.take, sizes, strict=True)]
        total = sum(t.weight for t in self.take)
        exact = [self.rows * t.weight / total for t in self.take]
        whole = [int(share) for share in exact]
        for at in sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))[: self.rows - sum(whole)]:
            whole[at] += 1
        return whole

    def run(self, work: Work) -> None:
        drawn = set[str]()
        chosen: list[set[int]] = []
        sizes = [0] * len(work.inputs)
        for at, given in enumerate(work.inputs):
            places = [(i, self._layer(row)) for i, row in enumerate(given.rows()) if row.id not in drawn]
            sizes[at] = len(places)
            chosen.append(_draw(places, self.counts(sizes)[at], work.seed, self.title, at))
            drawn |= {row.id for i, row in enumerate(given.rows()) if i in chosen[at]}
        decided = iter(_decided(work.inputs, chosen))
        number = 0
        while shard := list(islice(decided, SHARD)):
            if not work.out.is_whole(number):
                put(work.out, number, shard)
            number += 1
            work.tell(number, number)
        if not number:
            put(work.out, 0, [])

    def _layer(self, row: Row) -> str:
        """What rows are drawn evenly over."""
        if self.evenly == "source":
            return row.source
        rate = fact(row, "pass_rate") if self.evenly else None
        return "" if rate is None else str(min(int(float(rate) * BINS), BINS - 1))


def _draw(places: Sequence[tuple[int, str]], count: int, seed: int, *names: str | int) -> set[int]:
    """So many of the places, the same number of each layer as far as they go."""
    layers: dict[str, list[int]] = {}
    for place, layer in places:
        layers.setdefault(layer, []).append(place)
    left, found = min(count, len(places)), set[int]()
    for done, (layer, held) in enumerate(sorted(layers.items(), key=lambda item: (len(item[1]), item[0]))):
        share = min(len(held), -(-left // (len(layers) - done)))  # the smallest layers first: what they lack the others give
        picked = rng(seed, *names, layer).permutation(len(held))[:share]
        found |= {held[int(i)] for i in picked}
        left -= share
    return found


def _decided(inputs: Sequence[Input], chosen: Sequence[set[int]]) -> Iterator[Row | Rejected]:
    taken = set[str]()
    for given, mine in zip(inputs, chosen, strict=True):
        for at, row in enumerate(given.rows()):
            if at in mine:
                taken.add(row.id)
                yield row
            else:
                yield Rejected(row, "taken_already" if row.id in taken else "not_drawn")
