"""The two phases that change the weights. Every rank has a trainer, and all call its methods in step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from int_ray.compute.optimization import Meter, Optimization
from int_ray.compute.packing import LossMean, PackedBatch, loss_count, pack, plan_micro_batches, trained_count
from int_ray.compute.policy import Policy
from int_ray.compute.sharding import copy_weights, sync_gradients
from int_ray.losses.grpo import GrpoInputs, grpo_loss
from int_ray.losses.sft import sft_loss
from int_ray.losses.sums import Metrics
from int_ray.types import Logprobs, TokenIds, TrainingSample, Update, UpdateBatches

if TYPE_CHECKING:
    from int_ray.config import ModelConfig
    from int_ray.training_config import LearnerConfig, PatchConfig, ReinforceConfig

MicroBatch = list[TrainingSample]
MicroBatchLoss = Callable[[], tuple[torch.Tensor, Metrics]]


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """What a learner is built from; the same on every rank."""

    model: ModelConfig
    learner: LearnerConfig
    patch: PatchConfig
    reinforce: ReinforceConfig
    temperature: float  # of the rollouts: reinforce takes log-probs at it
    reinforce_updates: int  # optimizer updates of the whole run, over which its schedule spans
    seed: int


@dataclass(frozen=True, slots=True)
class Share:
    """A rank's part of one optimizer update."""

    micro_batches: list[MicroBatch]
    count: int  # what the whole update's loss divides by
    left_out: int  # of the count, on rank 0: what is not computed because it contributes exactly 0


class Trainer:
    """Trains a policy. `reference` is the KL reference, or None without a KL term."""

    def __init__(self, policy: Policy, reference: Policy | None, settings: LearnerSettings, mesh: DeviceMesh) -> None:
        self.policy = policy
        self.reference = reference
        self.settings = settings
        self.mesh = mesh
        self.optimization: Optimization | None = None  # of reinforce, from its first update to the next patch
        self.num_reinforced = 0  # updates, over all phases

    def patch(self, batches: UpdateBatches) -> Update:
        """Supervised fine-tuning, one optimizer update per batch (paper, section 4.2); a new RL phase follows.

        Raises ValueError, before any weight changes, for a batch without a trained token or a sample that is longer
        than `learner.micro_batch_tokens`.
        """
        shares = [self._share(batch, batch, "token") for batch in batches]
        optimization = Optimization(self.policy, self.settings.patch.optimizer, len(batches))
        meter = Meter(self.settings.learner.device)
        for share in shares:
            losses = [partial(self._patch_loss, samples, share.count) for samples in share.micro_batches]
            self._update(optimization, losses, meter)
        self.optimization = None
        if self.reference is not None and self.settings.reinforce.kl_reference == "patched":
            copy_weights(self.policy, self.reference)
        return _report("patch", meter)

    def reinforce(self, batches: UpdateBatches) -> Update:
        """GRPO, one optimizer update per batch (paper, section 4.3).

        Samples whose loss and gradient are exactly 0 count, but are not computed. Raises ValueError like `patch`, and
        when the configuration needs log-probs of the engine that are unknown.
        """
        config = self.settings.reinforce
        if config.old_logprobs == "engine" or config.importance_cap is not None:
            _require_rollout_logprobs(batches)
        shares = [self._share(batch, _effective(batch, config), config.loss_mean) for batch in batches]
        if self.optimization is None:  # a new phase: its schedule spans the updates that the run has left
            left = max(1, self.settings.reinforce_updates - self.num_reinforced)
            self.optimization = Optimization(self.policy, config.optimizer, left)
        # All taken before the first update, whose own forward pass has those that it needs.
        old_logprobs = [self._old_logprobs(share, is_first=share is shares[0]) for share in shares]
        meter = Meter(self.settings.learner.device)
        for share, old in zip(shares, old_logprobs, strict=True):
            pairs = zip(share.micro_batches, old, strict=True)
            self._update(
                self.optimization, [partial(self._reinforce_loss, *pair, share.count) for pair in pairs], meter
            )
            meter.add({"loss": torch.tensor([0.0, share.left_out], device=meter.device)})
        self.num_reinforced += meter.num_updates
        return _report("reinforce", meter)

    def logprobs(self, token_ids: TokenIds, temperature: float) -> Logprobs:
        """Log-prob of every token given those before it; 0 for the first. [T]"""
        return self.logprobs_of([token_ids], temperature)[0]

    def logprobs_of(self, sequences: Sequence[TokenIds], temperature: float) -> list[Logprobs]:
        """The same of several sequences, each of at most `learner.micro_batch_tokens`; all ranks compute all."""
        lengths = [len(token_ids) for token_ids in sequences]
        known: list[Logprobs] = [np.zeros(length, np.float32) for length in lengths]
        (plan,) = plan_micro_batches(lengths, 1, self.settings.learner.micro_batch_tokens)
        for indices in filter(None, plan):
            masks = [(np.arange(lengths[index]) > 0).astype(np.uint8) for index in indices]
            samples = [TrainingSample(sequences[index], mask) for index, mask in zip(indices, masks, strict=True)]
            trained = self.policy.logprobs(self._pack(samples, "token"), temperature).cpu().numpy()  # [N]
            ends = np.cumsum([lengths[index] - 1 for index in indices])
            for index, part in zip(indices, np.split(trained, ends[:-1]), strict=True):
                known[index][1:] = part
        return known

    def _share(self, batch: Sequence[TrainingSample], computed: Sequence[TrainingSample], mean: LossMean) -> Share:
        """This rank's part of an update. All are made, and checked, before the first one changes a weight."""
        lengths = [len(sample.token_ids) for sample in computed]
        rank, num_ranks = self.mesh.get_rank(), self.mesh.size()
        plan = plan_micro_batches(lengths, num_ranks, self.settings.learner.micro_batch_tokens)[rank]
        count = loss_count(batch, mean)
        left_out = 0 if len(computed) == len(batch) or rank > 0 else count - trained_count(computed, mean)
        return Share([[computed[index] for index in indices] for indices in plan], count, left_out)

    def _pack(self, samples: MicroBatch, mean: LossMean) -> PackedBatch:
        return pack(samples, mean).to(self.settings.learner.device)

    def _update(self, optimization: Optimization, losses: Sequence[MicroBatchLoss], meter: Meter) -> None:
        """One optimizer update over this rank's micro-batches and those of the other ranks."""
        total = torch.zeros((), device=meter.device)
        for index, micro_batch_loss in enumerate(losses, start=1):
            sync_gradients(self.policy, on=index == len(losses))
            loss, metrics = micro_batch_loss()
            (loss * self.mesh.size()).backward()  # FSDP averages over ranks; the losses are shares of a sum
            total += loss.detach()
            meter.add(metrics)
        dist.all_reduce(total)
        meter.add_update(optimization.update(float(total)))

    def _old_logprobs(self, share: Share, is_first: bool) -> list[torch.Tensor | None]:
        """The present policy's log-probs per micro-batch; None where `_reinforce_loss` has them from elsewhere."""
        config = self.settings.reinforce
        if is_first or config.old_logprobs == "engine":
            return [None] * len(share.micro_batches)
        batches = (self._pack(samples, config.loss_mean) for samples in share.micro_batches)
        return [self.policy.logprobs(batch, self.settings.temperature) for batch in batches]

    def _patch_loss(self, samples: MicroBatch, count: int) -> tuple[torch.Tensor, Metrics]:
        policy_logprobs, _ = self.policy(self._pack(samples, "token"), temperature=1.0)
        return sft_loss(policy_logprobs, count)

    def _reinforce_loss(
        self, samples: MicroBatch, computed_before: torch.Tensor | None, count: int
    ) -> tuple[torch.Tensor, Metrics]:
        config, temperature = self.settings.reinforce, self.settings.temperature
        batch = self._pack(samples, config.loss_mean)
        # The reference comes first: it needs memory only while nothing is kept for a backward pass.
        ref_logprobs = None if self.reference is None else self.reference.logprobs(batch, temperature)
        policy_logprobs, entropy = self.policy(batch, temperature)
        old_logprobs = policy_logprobs.detach() if computed_before is None else computed_before
        if config.old_logprobs == "engine":
            old_logprobs = batch.rollout_logprobs
        inputs = GrpoInputs(
            policy_logprobs=policy_logprobs,
            entropy=entropy,
            old_logprobs=old_logprobs,
            ref_logprobs=ref_logprobs,
            rollout_logprobs=batch.rollout_logprobs,
            advantages=batch.advantages,
            weights=batch.weights,
        )
        return grpo_loss(inputs, config, count)


def _effective(batch: Sequence[TrainingSample], config: ReinforceConfig) -> MicroBatch:
    """The samples that can move the weights: without KL and entropy terms, those with an advantage."""
    regularized = config.kl_coef > 0 or config.entropy_coef > 0
    return [sample for sample in batch if regularized or sample.advantage != 0]


def _require_rollout_logprobs(batches: UpdateBatches) -> None:
    for sample in (sample for batch in batches for sample in batch):
        known = sample.rollout_logprobs
        if known is None or not np.isfinite(known[sample.loss_mask.astype(bool)]).all():
            raise ValueError(
                "reinforce.old_logprobs: engine and reinforce.importance_cap need the engine's log-prob of every "
                "trained token, and some are unknown"
            )


def _report(phase: str, meter: Meter) -> Update:
    """What all ranks did together."""
    metrics = {f"{phase}/{name}": value for name, value in meter.means().items()}
    skipped = None if meter.num_updates else "loss or gradient was not finite in every update"
    return Update(meter.num_updates, metrics, skipped, tuple(meter.not_finite))
