"""The in-process learner: fp32 master weights, AdamW, exact denominators, micro-batches that change nothing.

Several learners may share the work: each counts the same denominators over the whole batch and computes its share of the rows.
Each holds the whole weights and `reduce` adds the gradients up, or all is cut over a `mesh` (sharded.py).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from longthink import storage
from longthink.attention import Layout
from longthink.errors import LearnerError
from longthink.folder import fill, read_weights, write_weights
from longthink.learners.adamw import AdamW
from longthink.learners.adapter import attach, merged, read_adapter, switched_off, whole, write_adapter
from longthink.learners.head import logprobs_and_entropy
from longthink.learners.packing import Plan, microbatches
from longthink.losses import MAX_LOG_RATIO, correction, kl_estimate, sequence_ratio, surrogate, token_weights
from longthink.metrics import Sums
from longthink.model import Decoder
from longthink.schedules import kl_coefficient, learning_rate
from longthink.tables import LearnerSettings, LoraSettings, LossSettings
from longthink.types import Batch, Floats, Ints

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["LocalLearner"]

# The CPU's bf16 kernels are compiled for each shape they meet, which costs more than a small product itself.
# Attention blocks as wide as a multiple of WIDTH, in micro-batches of a multiple of TOTAL tokens, meet few shapes.
WIDTH, TOTAL = 16, 128


@dataclass
class _MicroBatch:
    """The tensors of one micro-batch: its tokens as they lie in the layout, and flat arrays over its n loss tokens."""

    tokens: Tensor
    layout: Layout
    predictor: Tensor  # [n] index into the tokens of the one before, whose hidden state predicts this one
    labels: Tensor  # [n]
    flat: Ints  # [n] index into the batch's flat arrays


class LocalLearner:
    """Weights, reference and optimizer of one process, and the arithmetic of an update."""

    def __init__(
        self,
        decoder: Decoder,
        settings: LearnerSettings,
        *,
        dtype: torch.dtype,
        device: str = "cpu",
        rank: int = 0,
        world: int = 1,
        reduce: Callable[[list[Tensor]], None] | None = None,
        mesh: "DeviceMesh | None" = None,
        reference_on_host: bool = False,
        lora: LoraSettings | None = None,
        seed: int = 0,
        base: str = "",
    ) -> None:
        self.device, self.settings = torch.device(device), settings
        self.rank, self.world, self.reduce, self.mesh = rank, world, reduce, mesh
        self.lora, self.base = lora, base
        if lora is not None:
            attach(decoder, lora, seed)
        self.decoder = self._placed(decoder.to(torch.float64 if dtype == torch.float64 else torch.float32))
        self.decoder.compute_dtype = dtype
        self.decoder.checkpoint_layers = settings.checkpoint_layers
        self.reference: Decoder | None = None
        self._rest = torch.device("cpu") if reference_on_host else self.device  # where it is while nobody needs it
        self.updates = 0
        self.optimizer = AdamW(self._trained())

    def _placed(self, decoder: Decoder) -> Decoder:
        """The decoder on its device, cut over the mesh if there is one."""
        if self.mesh is not None:
            from longthink.learners.sharded import shard

            return shard(decoder, self.mesh, self.device)
        return decoder.to(self.device)

    def _trained(self) -> list[torch.nn.Parameter]:
        """The parameters that updates move: all, or those of low-rank updates."""
        return [p for p in self.decoder.parameters() if p.requires_grad]

    def reset_optimizer(self) -> None:
        """Forget the moments and the position in the learning-rate schedule."""
        self.optimizer, self.updates = AdamW(self._trained()), 0

    def freeze_reference(self) -> None:
        """Copy the policy into the reference; with low-rank updates it is the base model, in its place."""
        if self.lora is not None:
            self.reference = self.decoder
            return
        hollow = Decoder.hollow(self.decoder.config, self.device if self.mesh is None else "meta")  # to_empty costs a second once
        reference = self._placed(hollow.to(next(self.decoder.parameters()).dtype))
        reference.requires_grad_(False)
        for target, source in zip(reference.parameters(), self.decoder.parameters(), strict=True):
            target.copy_(source.detach())
        reference.compute_dtype = self.decoder.compute_dtype
        self.reference = reference.to(self._rest)

    def kl_weight(self, loss: LossSettings) -> float:
        """The KL's coefficient at the next update."""
        return kl_coefficient(self.updates, loss.kl, loss.kl_schedule, loss.kl_horizon)

    # -- log-probs ----------------------------------------------------------------------------------------------

    def logprobs(self, batch: Batch, loss: LossSettings, temperature: float, settings: LearnerSettings | None = None) -> Batch:
        """The batch with old and reference log-probs, computed only where the loss needs them.

        `old_logprobs` are the sampler's own, or the policy's as this learner computes them. Reference log-probs exist
        when the KL is on. What is computed is so for this rank's share of the rows, and 0 elsewhere.
        """
        self.settings, old = settings or self.settings, batch.sampler_logprobs
        if loss.old_logprobs == "learner":
            old = self.token_logprobs(self.decoder, batch, temperature)
        batch = batch.with_(old_logprobs=old)
        if not loss.kl:
            return batch
        if self.reference is None:
            raise LearnerError("the KL needs a reference policy and none was frozen; this is a bug in the caller")
        if self.lora is not None:
            with switched_off(self.decoder):
                return batch.with_(reference_logprobs=self.token_logprobs(self.decoder, batch, temperature))
        logprobs = self.token_logprobs(self.reference.to(self.device), batch, temperature)
        self.reference.to(self._rest)
        return batch.with_(reference_logprobs=logprobs)

    @torch.no_grad()
    def token_logprobs(self, decoder: Decoder, batch: Batch, temperature: float) -> Floats:
        """[S] log-prob of every loss token under `decoder`, of this rank's share of the rows; 0 elsewhere."""
        found = np.zeros(len(batch.tokens), np.float32)
        for plan in self._passes(batch, np.arange(len(batch))):
            micro = self._micro(batch, plan)
            logprobs, _ = self._score(decoder, micro, temperature)
            found[micro.flat] = logprobs.float().cpu().numpy()
        if self.mesh is not None:
            from longthink.learners.sharded import let_go

            let_go(decoder)
        return found

    def _passes(self, batch: Batch, rows: Ints) -> list[Plan]:
        """The micro-batches of this rank's share of some rows: every world-th of them.

        Where weights are gathered for each pass all ranks must take as many: those with fewer take empty ones too.
        """
        plans = [self._share(batch, rows, rank) for rank in (range(self.world) if self.mesh is not None else [self.rank])]
        mine = plans[self.rank] if self.mesh is not None else plans[0]
        return mine + [[]] * (max(map(len, plans)) - len(mine))

    def _share(self, batch: Batch, rows: Ints, rank: int) -> list[Plan]:
        own = rows[rank :: self.world]
        return [[own[block] for block in plan] for plan in microbatches(batch.lengths[own], self.settings.microbatch_tokens)]

    def _micro(self, batch: Batch, plan: Plan) -> _MicroBatch:
        if not plan:  # one token that nothing predicts
            none = torch.zeros(0, dtype=torch.long, device=self.device)
            layout = Layout.of([np.array([1])], width=WIDTH, total=TOTAL, device=self.device)
            return _MicroBatch(torch.zeros_like(layout.positions), layout, none, none, np.zeros(0, np.int64))
        layout = Layout.of([batch.lengths[rows] for rows in plan], width=WIDTH, total=TOTAL, device=self.device)
        index = np.concatenate([np.arange(batch.offsets[row], batch.offsets[row + 1]) for rows in plan for row in rows])
        first = np.isin(index, batch.offsets)  # nothing precedes a first token, so nothing predicts it
        where = np.flatnonzero(batch.loss_mask[index] & ~first)
        flat = index[where]
        tokens = np.pad(batch.tokens[index], (0, len(layout.positions) - len(index)))
        return _MicroBatch(
            tokens=torch.from_numpy(tokens).to(self.device),
            layout=layout,
            predictor=torch.from_numpy(where - 1).to(self.device),
            labels=torch.from_numpy(batch.tokens[flat]).to(self.device),
            flat=flat,
        )

    def _score(self, decoder: Decoder, micro: _MicroBatch, temperature: float) -> tuple[Tensor, Tensor]:
        hidden = decoder(micro.tokens, micro.layout)[micro.predictor]
        return logprobs_and_entropy(hidden, decoder.head_weight, micro.labels, temperature, self.settings.head_chunk)

    # -- updates ------------------------------------------------------------------------------------------------

    def update(self, batch: Batch, loss: LossSettings, temperature: float, settings: LearnerSettings | None = None) -> Sums:
        """Take the updates of one rollout batch, from now on by `settings`, and return their metrics as sums and counts.

        Mini-batches are runs of prompts in order, as even as can be where selection left fewer prompts; every denominator
        is counted over the whole mini-batch before its first backward pass. Raises: LearnerError when the loss or the
        gradient is not finite, with the weights as they were before that update.
        """
        self.settings, sums = settings or self.settings, Sums()
        parts = -(-batch.num_groups // (self.settings.minibatch_prompts or batch.num_groups))
        for _ in range(self.settings.epochs):
            for groups in np.array_split(np.arange(batch.num_groups), parts):
                rows = np.flatnonzero(np.isin(batch.group, groups))
                self._step(batch.select(rows), loss, temperature, sums)
        return sums

    def _step(self, batch: Batch, loss: LossSettings, temperature: float, sums: Sums) -> None:
        loss_lengths = np.bincount(batch.row[batch.loss_mask], minlength=len(batch))
        num_tokens = int(loss_lengths.sum())
        weights = torch.zeros(len(batch.tokens), dtype=torch.float64)
        weights[torch.from_numpy(batch.loss_mask)] = token_weights(
            torch.from_numpy(batch.row[batch.loss_mask]),
            torch.from_numpy(loss_lengths),
            num_tokens,
            int((loss_lengths > 0).sum()),
            loss.aggregation,
            loss.normalizer,
        )
        rows = np.flatnonzero(loss_lengths)
        if loss.kind == "grpo" and not loss.kl and not loss.entropy and not loss.entropy_target:
            assert batch.advantages is not None
            rows = np.unique(batch.row[batch.loss_mask & (batch.advantages != 0)])
        rows = rows[np.argsort(-batch.lengths[rows], kind="stable")]
        self.optimizer.forget_gradients()
        before = sums.copy()
        for plan in self._passes(batch, rows):
            micro = self._micro(batch, plan)
            if len(micro.labels) or self.mesh is not None:
                self._backward(batch, micro, weights[torch.from_numpy(micro.flat)], loss, temperature, sums)
        parameters = self._trained()
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        if self.reduce is not None:
            self.reduce([p.grad for p in parameters if p.grad is not None])
        norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, self.settings.grad_clip)))
        if not math.isfinite(norm) and self.settings.non_finite == "skip":
            sums.become(before)  # what was measured of it is not finite either
            if self.rank == 0:
                sums.add("learner/non_finite/sum", 1, None)
            return
        if not math.isfinite(norm):
            raise LearnerError(
                f"update {self.updates}: the loss or its gradient is not finite (norm {norm}); the weights are as before this "
                "update. Look at mismatch/logprob_gap and learner/grad_norm of the last steps; lower learner.lr, use "
                "model.dtype = 'float32', or go on without such updates by learner.non_finite = 'skip'"
            )
        rate = learning_rate(self.updates, self.settings)
        self.optimizer.step(rate, self.settings.betas, self.settings.weight_decay)
        self.updates += 1
        sums.add("learner/grad_norm/mean", norm, 1)
        sums.add("learner/lr/mean", rate, 1)
        if self.rank == 0:
            sums.add("learner/updates/sum", 1, None)
            sums.add("learner/non_finite/sum", 0, None)

    def _backward(
        self, batch: Batch, micro: _MicroBatch, weights: Tensor, loss: LossSettings, temperature: float, sums: Sums
    ) -> None:
        """Add one micro-batch's gradient; its loss is a sum already divided by the mini-batch's counts."""
        logprobs, entropy = self._score(self.decoder, micro, temperature)
        if not len(micro.labels):
            torch.autograd.backward(logprobs.sum() + entropy.sum())  # zeros, for the ranks that wait for this one's
            return
        weights = weights.to(self.device, logprobs.dtype)
        count = len(micro.labels)
        whose = torch.from_numpy(batch.row[micro.flat]).to(self.device)

        def values(array: np.ndarray | None) -> Tensor:
            assert array is not None
            return torch.from_numpy(array[micro.flat]).to(self.device, logprobs.dtype)

        if loss.kind == "nll":
            total = -(logprobs * weights).sum()
        else:
            old, sampler = values(batch.old_logprobs), values(batch.sampler_logprobs)
            log_ratio = sequence_ratio(logprobs - old, whose, loss.ratio)
            clips = {"clip_low": loss.clip_low, "clip_high": loss.clip_high, "dual_clip": loss.dual_clip}
            per_token, clipped = surrogate(log_ratio, values(batch.advantages), **clips)
            if loss.old_logprobs == "learner":
                drift = sequence_ratio(old - sampler, whose, loss.correction_level).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
                factor = correction(drift, loss.correction, loss.correction_low, loss.correction_high)
                per_token = per_token * factor
                sums.add("mismatch/corrected_share/mean", ((factor != drift.exp()) & (loss.correction != "none")).sum(), count)
                sums.add("mismatch/ratio/mean", drift.exp().sum(), count)
                sums.add("mismatch/kl_k3/mean", kl_estimate(sampler - old).sum(), count)
            total = (per_token * weights).sum()
            sums.add("loss/clip_fraction/mean", clipped.sum(), count)
            sums.add("loss/policy/sum", total.detach(), None)
            sums.add("learner/kl_k1_old/mean", (old - logprobs.detach()).sum(), count)
            gap = (sampler - (old if loss.old_logprobs == "learner" else logprobs.detach())).abs()
            sums.add("mismatch/logprob_gap/mean", gap.sum(), count)
            sums.add("mismatch/logprob_gap/max", gap.max(), None, largest=True)
        if loss.kl:
            log_ratio = sequence_ratio(logprobs - values(batch.reference_logprobs), whose, loss.kl_level)
            kl = kl_estimate(log_ratio, loss.kl_estimator)
            if loss.kl_in == "loss":
                total = total + self.kl_weight(loss) * (kl * weights).sum()
            sums.add("loss/kl/mean", kl.detach().sum(), count)
        if loss.entropy:
            total = total - loss.entropy * (entropy * weights).sum()
        sums.add("policy/entropy/mean", entropy.detach().sum(), count)
        sums.add("policy/sampled_nll/mean", -logprobs.detach().sum(), count)
        torch.autograd.backward(total)

    # -- state --------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write weights (as a Hugging Face file), reference and optimizer into `folder`; all ranks of a mesh call it."""
        first = self.rank == 0
        weights = {name: one.cpu() if first else one[:0] for name, one in merged(self.decoder)}
        if first:
            write_weights(folder, weights)
        if self.lora is not None:
            write_adapter(folder, self.decoder, self.lora, self.base, write=first)
        if self.mesh is not None:
            from longthink.learners.sharded import save_state

            save_state(folder, self._named(reference=self.reference is not None, optimizer=bool(self.optimizer.state)))
            return
        if self.reference is not None and self.lora is None:
            storage.write_bytes(folder / "reference.tensors", save(_contiguous(self.reference.state_dict())))
        tensors: dict[str, Tensor] = {"updates": torch.tensor(self.updates)}
        for index, state in enumerate(self.optimizer.state):
            tensors.update({f"{index}.{key}": value for key, value in state.items()})
        storage.write_bytes(folder / "optimizer.tensors", save(_contiguous(tensors)))

    def load(self, folder: Path, *, optimizer: bool = True) -> None:
        """Read what `save` wrote; without `optimizer` the weights alone."""
        if self.lora is not None:
            read_adapter(folder, self.decoder)
            self.freeze_reference()
        else:
            read_weights(folder, self.decoder)
        if not optimizer:
            return
        self.reset_optimizer()
        if (folder / ".metadata").exists():  # of a sharded one
            self._load_sharded(folder)
            return
        if (folder / "reference.tensors").exists():
            self.freeze_reference()
            assert self.reference is not None
            stored = load_file(folder / "reference.tensors")
            for name, p in self.reference.named_parameters():
                fill(p, stored[name])
        tensors = load_file(folder / "optimizer.tensors")
        self.updates = int(tensors.pop("updates"))
        if tensors:
            state = self.optimizer.begin()
            for name, value in tensors.items():
                index, key = name.split(".")
                fill(state[int(index)][key], value)

    def _named(self, *, reference: bool, optimizer: bool) -> dict[str, Tensor]:
        """What a sharded checkpoint holds beside the weights, by name."""
        found: dict[str, Tensor] = {"updates": torch.tensor(self.updates)}
        if reference and self.lora is None:
            assert self.reference is not None
            found |= {f"reference.{name}": p for name, p in self.reference.named_parameters()}
        names = [name for name, p in self.decoder.named_parameters() if p.requires_grad]
        for name, state in zip(names, self.optimizer.begin(), strict=True) if optimizer else ():
            found |= {f"optimizer.{name}.{key}": value for key, value in state.items()}
        return found

    def _load_sharded(self, folder: Path) -> None:
        """From any number of ranks, sharded or not, to this one's."""
        from longthink.learners.sharded import load_state, stored_names

        names = stored_names(folder)
        reference = any(name.startswith("reference.") for name in names)
        if reference:
            self.freeze_reference()
        state = self._named(reference=reference, optimizer=any(name.startswith("optimizer.") for name in names))
        load_state(folder, state)
        self.updates = int(state["updates"])


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
