"""The embedded sampler: continuous batching over a slot cache, on a CPU or one GPU.

A row is one request. Rows that end leave at once; waiting requests take their slots; when nothing waits the
batch is compacted. Contexts shared by requests (a group's prompt) are computed once. A row's draws come from
its own seed, so a token depends on the request and the weights, not on what else is in the batch.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from longthink.attention import Layout, attend_rows
from longthink.engines.cache import BLOCK, SlotCache
from longthink.errors import EngineError
from longthink.kernels import rms_norm
from longthink.model import Decoder, FusedLayer, run_layers
from longthink.rng import uniforms
from longthink.rope import rope_table
from longthink.tools.formats import Watch
from longthink.types import Ints, Request, Rollout, RolloutId, Segment

__all__ = ["EmbeddedEngine", "draw_tokens"]

COMPACT_BELOW = 0.95  # share of rows alive under which a drained batch is copied together; measured best of .6 to .95
ROWS = 16  # batches are kept at multiples of this: the CPU's bf16 kernels are compiled for each shape they meet
ADMIT_AT = 1 / 16  # share of free slots at which waiting requests are let in: a prefill costs as much as a step
PREFILL_TOKENS = 8192


class EmbeddedEngine:
    """The in-process engine. `dtype` is that of matmuls and of the cache; logits are fp32."""

    def __init__(
        self,
        *,
        dtype: torch.dtype,
        stop_ids: frozenset[int],
        device: str = "cpu",
        max_rows: int = 256,
        cache_gb: float = 8.0,
        watch: Watch | None = None,
    ) -> None:
        self.dtype, self.device, self._watch = dtype, torch.device(device), watch
        self.max_rows, self.cache_bytes = max_rows, int(cache_gb * 2**30)
        self.stop_ids = stop_ids
        self._stops = torch.tensor(sorted(stop_ids), device=self.device)
        self._marks = torch.zeros(0, dtype=torch.long, device=self.device)  # tokens that a call may end with
        self.version = -1
        self._waiting: dict[RolloutId, Request] = {}
        self._rows: list[Request | None] = []
        self._done: dict[RolloutId, Rollout] = {}  # ended together, not yet given out
        self._cache: SlotCache | None = None
        self._ropes: tuple[Tensor, Tensor] | None = None
        self._restricted = False
        self._most = max_rows  # rows the cache has room for

    # -- the stream ---------------------------------------------------------------------------------------------

    def load(self, decoder: Decoder, version: int) -> None:
        if any(self._rows):
            raise EngineError("weights cannot change under running rollouts: abort them and submit their segments again")
        self._rows, self._cache, self._ropes = [], None, None  # aborted rows leave slots, another config other shapes
        self.config = decoder.config
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        with torch.no_grad():
            self._layers = [FusedLayer(layer, self.dtype, self.device) for layer in decoder.layers]
            self._embedding = decoder.model.embed_tokens.weight.detach().to(self.device, wide, copy=True)
            tied = decoder.lm_head is None
            self._head = self._embedding if tied else decoder.head_weight.detach().to(self.device, wide, copy=True)
            self._norm = decoder.model.norm.weight.detach().to(self.device, wide, copy=True)
        self.version = version

    def submit(self, request: Request) -> None:
        running = any(r is not None and r.id == request.id for r in self._rows)
        if running or request.id in self._waiting or request.id in self._done:
            raise EngineError(f"rollout {tuple(request.id)} was submitted twice")
        if request.num_generated >= request.max_tokens:
            raise EngineError(
                f"rollout {tuple(request.id)} has {request.num_generated} of {request.max_tokens} tokens: nothing left"
            )
        self._waiting[request.id] = request
        self._most = self.max_rows  # until the next admission has seen how long it may become

    @torch.inference_mode()
    def finished(self) -> Iterator[Rollout]:
        while self._waiting or any(self._rows) or self._done:
            self._pass()
            while self._done:
                yield self._done.pop(next(iter(self._done)))
            self._compact()

    @torch.inference_mode()
    def advance(self) -> list[Rollout]:
        self._pass()
        ended, self._done = list(self._done.values()), {}
        self._compact()
        return ended

    def _pass(self) -> None:
        """A token for each row, waiting requests let in first, unless what ended before was not given out yet."""
        if self._done:
            return
        free = self._most - sum(r is not None for r in self._rows)
        if self._waiting and free >= min(max(1, int(self._most * ADMIT_AT)), len(self._waiting)):
            self._admit()
        self._done = {rollout.id: rollout for rollout in self._step()}

    @torch.inference_mode()
    def abort(self, id: RolloutId) -> Rollout:
        if id in self._waiting:
            request = self._waiting.pop(id)
            return self.ended(request, "aborted", request.segments)
        if id in self._done:
            return self._done.pop(id)
        for slot, row in enumerate(self._rows):
            if row is not None and row.id == id:
                rollout = self._close(slot, row, "aborted")
                self._free([slot])
                return rollout
        raise EngineError(f"rollout {tuple(id)} is not running")

    def abort_all(self) -> list[Rollout]:
        return [self.abort(id) for id in (*self._waiting, *self._done, *(row.id for row in self._rows if row))]

    # -- slots --------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Give free slots to the waiting requests of lowest id, computing each distinct context once."""
        order = sorted(self._waiting)
        longest = max(len(self._waiting[i].prompt_ids) + self._waiting[i].max_tokens for i in order)
        longest = max([longest, *(len(r.prompt_ids) + r.max_tokens for r in self._rows if r)])
        per_row = longest * SlotCache.bytes_per_token(self.config, self.dtype)
        affordable = min(self.max_rows, self.cache_bytes // per_row)
        if affordable < 1:
            raise EngineError(
                f"one rollout of {longest} tokens needs {per_row / 2**30:.1f} GiB of cache, engine.cache_gb allows "
                f"{self.cache_bytes / 2**30:.1f}"
            )
        if longest > self.config.max_positions:
            raise EngineError(f"a rollout may reach {longest} tokens, the model has {self.config.max_positions} positions")
        self._most = affordable
        alive = sum(r is not None for r in self._rows)
        if alive >= affordable:
            return
        if len(self._rows) > affordable or (self._cache is not None and self._cache.capacity > longest + BLOCK):
            self._pack()
        free = [s for s, row in enumerate(self._rows) if row is None]
        free += range(len(self._rows), affordable)
        slots = free[: min(len(order), affordable - alive)]
        chosen = [self._waiting.pop(i) for i in order[: len(slots)]]
        self._restricted |= any(r.sampling.top_p < 1 or r.sampling.top_k > 0 for r in chosen)
        if self._watch is not None and not len(self._marks) and (format := next((r.calls for r in chosen if r.calls), None)):
            self._marks = torch.from_numpy(self._watch.triggers(format)).to(self.device)
        self._grow(max(slots) + 1, longest)
        contexts: dict[bytes, list[int]] = {}
        for slot, request in zip(slots, chosen, strict=True):
            context = np.concatenate([request.prompt_ids, *(s.token_ids for s in request.segments)])
            contexts.setdefault(context.tobytes(), []).append(slot)
            self._open(slot, request, context)
        self._prefill([(np.frombuffer(key, np.int64), where) for key, where in contexts.items()])

    def _grow(self, rows: int, longest: int) -> None:
        """Make room for `rows` slots; per-slot tensors and the cache grow together."""
        device, width = self.device, longest + 1
        if self._cache is None:
            wide = torch.float64 if self.dtype == torch.float64 else torch.float32
            self._cache = SlotCache(self.config, self.dtype, device)
            self._last = torch.zeros(0, dtype=torch.long, device=device)
            self._length = torch.zeros(0, dtype=torch.long, device=device)
            self._moves = torch.zeros(0, dtype=torch.long, device=device)  # 1 where a row runs
            self._end = torch.zeros(0, dtype=torch.long, device=device)
            self._start = torch.zeros(0, dtype=torch.long, device=device)
            self._temperature = torch.ones(0, device=device, dtype=wide)
            self._draws = torch.zeros(0, width, dtype=wide, device=device)
            self._tokens = torch.zeros(0, width, dtype=torch.long, device=device)
            self._logprobs = torch.zeros(0, width, dtype=wide, device=device)
        if self._ropes is None or len(self._ropes[0]) < width:
            self._ropes = rope_table(self.config, max(width, 256), self._embedding.dtype, device)
        grow = max(rows - len(self._rows), 0)
        wider = max(width - self._draws.shape[1], 0)
        if grow or wider:
            for name in ("_last", "_length", "_moves", "_end", "_start", "_temperature"):
                setattr(self, name, F.pad(getattr(self, name), (0, grow)))
            for name in ("_draws", "_tokens", "_logprobs"):
                setattr(self, name, F.pad(getattr(self, name), (0, wider, 0, grow)))
            self._rows += [None] * grow
        self._cache.longest = longest
        self._cache.reserve(len(self._rows), 0)

    def _open(self, slot: int, request: Request, context: Ints) -> None:
        begun, s = request.num_generated, request.sampling
        self._rows[slot] = request
        self._last[slot] = int(context[-1])
        self._length[slot] = len(context) - 1
        self._moves[slot] = 1
        self._start[slot] = len(context)
        self._end[slot] = len(request.prompt_ids) + request.max_tokens
        self._temperature[slot] = s.temperature
        if s.temperature > 0:
            draws = uniforms(request.seed, begun, request.max_tokens - begun)
            self._draws[slot, : len(draws)] = torch.from_numpy(draws)

    def _prefill(self, contexts: list[tuple[Ints, list[int]]]) -> None:
        """Fill the cache with all but the last token of each context; decoding starts with that one."""
        assert self._cache is not None
        contexts = sorted(((c[:-1], slots) for c, slots in contexts if len(c) > 1), key=lambda c: (len(c[0]), c[1]))
        while contexts:
            rows = max(1, min(len(contexts), PREFILL_TOKENS // len(contexts[-1][0])))
            part, contexts = contexts[-rows:], contexts[:-rows]
            width = len(part[-1][0])
            layout = Layout.of([[len(context) for context, _ in part]], device=self.device)
            tokens = torch.from_numpy(np.concatenate([context for context, _ in part])).to(self.device)
            source = torch.tensor([r for r, (_, slots) in enumerate(part) for _ in slots], device=self.device)
            target = torch.tensor([s for _, slots in part for s in slots], device=self.device)
            self._cache.reserve(len(self._rows), width)
            self._fill(layout, tokens, source, target)

    def _fill(self, layout: Layout, tokens: Tensor, source: Tensor, target: Tensor) -> None:
        """Run the rows of a layout of one block and keep keys and values of row `source[i]` in slot `target[i]`."""
        assert self._cache is not None and self._ropes is not None
        cache, causal, block = self._cache, attend_rows(layout), layout.blocks[0]

        def attend(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.store(index, target, *(p[layout.tokens].view(*block, *p.shape[1:])[source] for p in (k, v)))
            return causal(index, q, k, v)

        rope = (self._ropes[0][layout.positions], self._ropes[1][layout.positions])
        run_layers(self._layers, self._embedding[tokens], rope, attend, config=self.config, dtype=self.dtype)

    def _compact(self) -> None:
        """Drop empty slots once nothing waits and enough of them are empty."""
        alive = sum(row is not None for row in self._rows)
        rows = -(-alive // ROWS) * ROWS
        if not self._waiting and alive <= COMPACT_BELOW * len(self._rows) and rows < len(self._rows):
            self._pack(rows)

    def _pack(self, rows: int = 0) -> None:
        """Move the running rows together, with idle ones behind them up to `rows`."""
        slots = [s for s, row in enumerate(self._rows) if row is not None]
        idle = [s for s, row in enumerate(self._rows) if row is None]
        slots += idle[: max(0, rows - len(slots))]
        keep = torch.tensor(slots, dtype=torch.long, device=self.device)
        for name in ("_last", "_length", "_moves", "_end", "_start", "_temperature", "_draws", "_tokens", "_logprobs"):
            setattr(self, name, getattr(self, name)[keep])
        self._rows = [self._rows[s] for s in slots]
        if self._cache is not None:
            self._cache.keep(keep, int(self._length.max()) + 1 if slots else 0)
        if not slots:
            self._cache = None

    # -- one token for every row --------------------------------------------------------------------------------

    def _step(self) -> list[Rollout]:
        cache, rows = self._cache, len(self._rows)
        assert cache is not None and self._ropes is not None
        positions = self._length
        longest = int(positions.max()) + 1
        cache.reserve(rows, longest)
        rope = (self._ropes[0][positions], self._ropes[1][positions])
        attend = cache.attend(positions)
        x = run_layers(self._layers, self._embedding[self._last], rope, attend, config=self.config, dtype=self.dtype)
        logits = F.linear(rms_norm(x, self._norm, self.config.rms_eps, x.dtype), self._head)
        if not bool(torch.isfinite(logits.sum())):
            raise EngineError("the model's logits are not finite: the weights are broken or overflowed in this dtype")
        every = torch.arange(rows, device=self.device)
        index = (positions + 1 - self._start).clamp_(min=0)
        tokens, logprobs = draw_tokens(logits, self._temperature, self._draws[every, index], self._restrictions())
        self._tokens[every, index] = tokens
        self._logprobs[every, index] = logprobs
        self._last = tokens
        self._length = positions + self._moves
        stopped = torch.isin(tokens, self._stops)
        ends = dict.fromkeys(self._calling(tokens), "call")
        ends |= dict.fromkeys((self._length + 1 >= self._end).nonzero().flatten().tolist(), "length")
        ends |= dict.fromkeys(stopped.nonzero().flatten().tolist(), "stop")
        running = [(slot, reason, row) for slot, reason in ends.items() if (row := self._rows[slot]) is not None]
        done = [self._close(slot, row, reason) for slot, reason, row in running]
        self._free([slot for slot, _, _ in running])
        return sorted(done, key=lambda r: r.id)

    def _calling(self, tokens: Tensor) -> list[int]:
        """The slots whose rollouts have just called a tool."""
        if not len(self._marks):
            return []
        found = []
        for slot in torch.isin(tokens, self._marks).nonzero().flatten().tolist():
            row = self._rows[slot]
            if row is None or row.calls is None:
                continue
            drawn = self._tokens[slot, : int(self._length[slot]) + 1 - int(self._start[slot])].cpu().numpy()
            assert self._watch is not None  # there are no marks without
            if self._watch.called(np.concatenate([*(s.token_ids for s in row.segments), drawn]), row.calls):
                found.append(slot)
        return found

    def _restrictions(self) -> list[tuple[int, float, int]]:
        """(slot, top_p, top_k) of the rows that do not sample the whole distribution."""
        if not self._restricted:
            return []
        live = [(s, row.sampling) for s, row in enumerate(self._rows) if row is not None]
        return [(s, p.top_p, p.top_k) for s, p in live if p.top_p < 1 or p.top_k > 0]

    def _free(self, slots: list[int]) -> None:
        """Empty these slots; they idle at position 0, where they cost and change nothing."""
        for slot in slots:
            self._rows[slot] = None
        if slots:
            self._length[slots] = self._moves[slots] = self._start[slots] = 0
            self._end[slots] = 1 << 60

    def _close(self, slot: int, request: Request, reason: str) -> Rollout:
        count = int(self._length[slot]) + 1 - int(self._start[slot])
        segments = request.segments
        if count > 0:
            ids = self._tokens[slot, :count].cpu().numpy().copy()
            logprobs = self._logprobs[slot, :count].to(torch.float32).cpu().numpy().copy()
            segments = (*segments, Segment("policy", ids, logprobs, self.version))
        return self.ended(request, reason, segments)

    @staticmethod
    def ended(request: Request, reason: str, segments: tuple[Segment, ...]) -> Rollout:
        """The rollout of a request that has ended."""
        return Rollout(
            id=request.id,
            problem=request.problem,
            prompt_ids=request.prompt_ids,
            segments=segments,
            finish_reason=reason,  # type: ignore[arg-type]
            sampling=request.sampling,
            window=request.max_tokens,
        )


def draw_tokens(
    logits: Tensor, temperature: Tensor, draws: Tensor, restrictions: list[tuple[int, float, int]]
) -> tuple[Tensor, Tensor]:
    """One token a row by inverting the cumulative distribution at `draws`, and its log-prob.

    Shapes: logits [R, V], temperature and draws [R] -> tokens [R], logprobs [R]. Temperature 0 takes the
    most likely token and reports its log-prob at temperature 1. Log-probs are of the whole
    temperature-scaled distribution even where top-p or top-k restrict the draw.
    """
    greedy = temperature == 0
    logprobs = torch.log_softmax(logits / torch.where(greedy, 1.0, temperature).unsqueeze(1), dim=-1)
    probs = logprobs.exp()
    if restrictions:
        slots, top_p, top_k = (torch.tensor(column, device=logits.device) for column in zip(*restrictions, strict=True))
        probs[slots] = _restrict(probs[slots], top_p.unsqueeze(1), top_k.unsqueeze(1))
    cumulative = probs.cumsum(dim=-1)
    target = draws * cumulative[:, -1]
    tokens = torch.searchsorted(cumulative, target.unsqueeze(1), right=True).squeeze(1)
    # a draw at the very end may round past the last token with mass: step back to it
    tokens = torch.minimum(tokens, (cumulative < cumulative[:, -1:]).sum(dim=-1))
    if bool(greedy.any()):
        tokens = torch.where(greedy, logits.argmax(dim=-1), tokens)
    return tokens, logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1)


def _restrict(probs: Tensor, top_p: Tensor, top_k: Tensor) -> Tensor:
    """The probs [r, V] with zeros outside the nucleus: the fewest tokens reaching `top_p` [r, 1], at most `top_k` (0: any)."""
    ranked, order = probs.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(probs.shape[-1], device=probs.device)
    cut = (ranked.cumsum(dim=-1) - ranked >= top_p) | ((top_k > 0) & (rank >= top_k))
    cut[:, 0] = False
    return torch.zeros_like(probs).scatter_(1, order, ranked.masked_fill_(cut, 0.0))
