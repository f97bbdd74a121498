"""One FSDP2 rank of the learner. Its public methods are collective: all ranks call them, in step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from actors import learner_state
from actors.fsdp import copy_weights, join_ranks, load_sharded, sync_gradients
from actors.optimization import Meter, Optimization
from actors.weight_senders import WeightSender
from int_ray.batching import TrainingBatch, collate, loss_count, plan_micro_batches
from int_ray.config import ModelConfig
from int_ray.losses.grpo import GrpoInputs, grpo_loss
from int_ray.losses.logprobs import token_logprobs
from int_ray.losses.sft import sft_loss
from int_ray.losses.sums import Metrics
from int_ray.training_config import LearnerConfig, PatchConfig, ReinforceConfig
from int_ray.types import Logprobs, TokenIds, TrainingSample, Update, UpdateBatches

MicroBatch = list[TrainingSample]
Share = tuple[
    list[MicroBatch], int
]  # a rank's micro-batches of one update, and what the whole update's loss divides by
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


class LearnerRank:
    """Its shard of the policy, of the KL reference and of the optimizer."""

    def __init__(self, settings: LearnerSettings, rank: int, init_method: str) -> None:
        self.settings = settings
        self.rank = rank
        self.is_main = rank == 0
        self.device = settings.learner.device
        self.mesh = join_ranks(settings.learner, rank, init_method)
        torch.manual_seed(settings.seed)
        disable_progress_bar()
        self.tokenizer = AutoTokenizer.from_pretrained(settings.model.path, revision=settings.model.revision)
        self.pad_id = int(self.tokenizer.pad_token_id or 0)  # never looked at, so that any token serves
        self.model = self._load_model(settings.model.path)
        self.reference = self._load_model(settings.model.path) if settings.reinforce.kl_coef > 0 else None
        self.reference_is_base = True
        self.optimization: Optimization | None = None  # of reinforce, from its first update to the next patch
        self.num_reinforced = 0  # updates, over all phases
        self.sender: WeightSender | None = None

    def patch(self, batches: UpdateBatches) -> Update:
        """Supervised fine-tuning, one optimizer update per batch (paper, section 4.2); a new RL phase follows."""
        optimization = Optimization(self.model, self.settings.patch.optimizer, len(batches))
        meter = Meter(self.device)
        for micro_batches, count in self._shares(batches, "token"):
            losses = [partial(self._patch_loss, samples, count) for samples in micro_batches]
            self._update(optimization, losses, meter)
        self.optimization = None
        if self.reference is not None and self.settings.reinforce.kl_reference == "patched":
            copy_weights(self.model, self.reference)
            self.reference_is_base = False
        return _report("patch", meter)

    def reinforce(self, batches: UpdateBatches) -> Update:
        """GRPO, one optimizer update per batch (paper, section 4.3)."""
        shares = self._shares(batches, self.settings.reinforce.loss_mean)
        if self.optimization is None:  # a new phase: its schedule spans the updates that the run has left
            left = max(1, self.settings.reinforce_updates - self.num_reinforced)
            self.optimization = Optimization(self.model, self.settings.reinforce.optimizer, left)
        # Taken before the first update, while the policy is the one that sampled.
        old_logprobs = [self._old_logprobs(micro_batches, len(shares)) for micro_batches, _ in shares]
        meter = Meter(self.device)
        for (micro_batches, count), old in zip(shares, old_logprobs, strict=True):
            losses = [partial(self._reinforce_loss, *pair, count) for pair in zip(micro_batches, old, strict=True)]
            self._update(self.optimization, losses, meter)
        self.num_reinforced += meter.num_updates
        return _report("reinforce", meter)

    def logprobs(self, token_ids: TokenIds, temperature: float) -> Logprobs:
        """Log-prob of every token given those before it; 0 for the first. [T]"""
        batch = torch.from_numpy(token_ids.astype(np.int64))[None].to(self.device)  # [1, T]
        return _logprobs(self.model, batch, temperature)[0].cpu().numpy()

    def open_weight_sender(self, sender: WeightSender) -> None:
        """Set how `send_weights` brings the weights to the engines."""
        self.sender = sender

    def send_weights(self) -> object:
        """Send the current weights; returns what the sender returns."""
        if self.sender is None:
            raise RuntimeError("no weight sender: call open_weight_sender first")
        return self.sender.send(self.model, self.is_main)

    def save(self, folder: Path) -> None:
        """Write everything `load` needs into an existing empty folder (see actors/learner_state.py)."""
        if self.is_main:
            (folder / "learner").mkdir()
            self.tokenizer.save_pretrained(folder)
        learner_state.save_model(self.model, folder, self.is_main)
        if self.reference is not None and not self.reference_is_base:
            learner_state.save_model(self.reference, learner_state.reference_folder(folder), self.is_main)
        if self.optimization is not None:
            learner_state.save_moments(self.optimization.adamw, self.model, folder, self.is_main)
        if self.is_main:
            phase = None if self.optimization is None else self.optimization.state()
            learner_state.save_state({"num_reinforced": self.num_reinforced, "phase": phase}, folder)

    def load(self, folder: Path) -> None:
        """Continue exactly from what `save` wrote; the number of ranks may differ."""
        state = learner_state.load_state(folder)
        self.num_reinforced = state["num_reinforced"]
        self.model = self._load_model(str(folder))
        if self.reference is not None:
            reference = learner_state.reference_folder(folder)
            self.reference_is_base = not reference.exists()
            self.reference = self._load_model(self.settings.model.path if self.reference_is_base else str(reference))
        self.optimization = None
        if (phase := state["phase"]) is not None:
            self.optimization = Optimization(self.model, self.settings.reinforce.optimizer, phase["num_updates"])
            learner_state.load_moments(self.optimization.adamw, self.model, folder)
            self.optimization.restore(phase)

    def _load_model(self, path: str) -> PreTrainedModel:
        return load_sharded(path, self.settings.model, self.mesh)

    def _shares(self, batches: UpdateBatches, mean: Literal["token", "sequence"]) -> list[Share]:
        """This rank's part of every update. All are checked here, before the first one changes a weight."""
        return [(self._micro_batches(batch), loss_count(batch, mean)) for batch in batches]

    def _micro_batches(self, samples: Sequence[TrainingSample]) -> list[MicroBatch]:
        lengths = [len(sample.token_ids) for sample in samples]
        plan = plan_micro_batches(lengths, self.mesh.size(), self.settings.learner.micro_batch_tokens)
        return [[samples[index] for index in indices] for indices in plan[self.rank]]

    def _collate(self, samples: MicroBatch) -> TrainingBatch:
        return collate(samples, self.pad_id).to(self.device)

    def _update(self, optimization: Optimization, losses: Sequence[MicroBatchLoss], meter: Meter) -> None:
        """One optimizer update over this rank's micro-batches and those of the other ranks."""
        for index, micro_batch_loss in enumerate(losses, start=1):
            sync_gradients(self.model, on=index == len(losses))
            loss, metrics = micro_batch_loss()
            (loss * self.mesh.size()).backward()  # FSDP averages over ranks; the losses are shares of a sum
            meter.add(metrics)
        meter.add_update(optimization.update())

    def _old_logprobs(self, micro_batches: Sequence[MicroBatch], num_updates: int) -> list[torch.Tensor | None]:
        """The sampling policy's log-probs; with a single update the forward pass that trains has them already."""
        if num_updates == 1:
            return [None] * len(micro_batches)
        batches = (self._collate(samples) for samples in micro_batches)
        return [_logprobs(self.model, batch.token_ids, self.settings.temperature) for batch in batches]

    def _patch_loss(self, samples: MicroBatch, count: int) -> tuple[torch.Tensor, Metrics]:
        batch = self._collate(samples)
        policy_logprobs, _ = _score(self.model, batch.token_ids, temperature=1.0)
        return sft_loss(policy_logprobs, batch.mask, count)

    def _reinforce_loss(
        self, samples: MicroBatch, old_logprobs: torch.Tensor | None, count: int
    ) -> tuple[torch.Tensor, Metrics]:
        batch, temperature = self._collate(samples), self.settings.temperature
        policy_logprobs, entropy = _score(self.model, batch.token_ids, temperature)
        reference = self.reference
        inputs = GrpoInputs(
            policy_logprobs=policy_logprobs,
            entropy=entropy,
            old_logprobs=policy_logprobs.detach() if old_logprobs is None else old_logprobs,
            ref_logprobs=None if reference is None else _logprobs(reference, batch.token_ids, temperature),
            rollout_logprobs=batch.rollout_logprobs,
            advantages=batch.advantages,
            mask=batch.mask,
        )
        return grpo_loss(inputs, self.settings.reinforce, count)


@torch.no_grad()
def _logprobs(model: PreTrainedModel, token_ids: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probs alone, without gradient. [B, T]"""
    return _score(model, token_ids, temperature)[0]


def _score(model: PreTrainedModel, token_ids: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies of a padded batch. [B, T] each"""
    logits = model(input_ids=token_ids, use_cache=False).logits  # [B, T, V]
    return token_logprobs(logits, token_ids, temperature)


def _report(phase: str, meter: Meter) -> Update:
    """What all ranks did together."""
    metrics = {f"{phase}/{name}": value for name, value in meter.means().items()}
    skipped = None if meter.num_updates else "every gradient was not finite"
    return Update(meter.num_updates, metrics, skipped)
