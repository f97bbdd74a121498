"""TRL's own GRPO loss, by GRPOTrainer's methods without its generation, loading and logging."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from int_ray.types import TrainingSample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PAD_ID = 0


class TrlStep:
    """The reference's log-probs, the loss and the backward pass over one padded batch.

    All samples must have the same `prompt` length. Adds TRL's chunked head to both models.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel,
        samples: Sequence[TrainingSample],
        prompt: int,
        *,
        beta: float,
        clip: tuple[float, float],
        temperature: float,
    ) -> None:
        from trl.trainer.grpo_trainer import GRPOTrainer
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
        add_fused_lm_head(reference, temperature=temperature)
        self.model, self.reference = model, reference
        self.trainer = grpo_trainer(beta, clip)
        self.trainer._get_per_token_logps_and_entropies = MethodType(
            GRPOTrainer._get_per_token_logps_and_entropies, self.trainer
        )
        token_ids = [torch.from_numpy(sample.token_ids).long() for sample in samples]
        masks = [torch.from_numpy(sample.loss_mask).long() for sample in samples]
        self.token_ids = torch.nn.utils.rnn.pad_sequence(token_ids, batch_first=True, padding_value=PAD_ID)  # [B, T]
        mask = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)[:, prompt:]
        self.inputs = {
            "prompt_ids": self.token_ids[:, :prompt],
            "prompt_mask": torch.ones(len(samples), prompt, dtype=torch.int64),
            "completion_ids": self.token_ids[:, prompt:],
            "completion_mask": mask,
            "advantages": torch.tensor([sample.advantage for sample in samples]),
            "num_items_in_batch": mask.sum(),
        }

    def __call__(self) -> torch.Tensor:
        """Adds to the gradients; returns the loss."""
        inputs = self.inputs
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        width = inputs["completion_ids"].shape[1]
        with torch.no_grad():
            score = self.trainer._get_per_token_logps_and_entropies
            ref_logprobs, _, _ = score(self.reference, self.token_ids, attention, width)
        loss = grpo_loss_of(self.trainer, inputs | {"ref_per_token_logps": ref_logprobs}, self.model)
        loss.backward()
        return loss.detach()


def grpo_trainer(
    beta: float, clip: tuple[float, float], *, entropy_coef: float = 0.0, loss_type: str = "bnpo"
) -> SimpleNamespace:
    """What a GRPOTrainer's loss reads of its trainer, but for `_get_per_token_logps_and_entropies`."""
    return SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        accelerator=one_process(),
        beta=beta,
        epsilon_low=clip[0],
        epsilon_high=clip[1],
        entropy_coef=entropy_coef,
        loss_type=loss_type,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        use_vllm=False,
        aux_loss_enabled=False,
        use_adaptive_entropy=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=entropy_coef > 0,
        _metrics={"train": defaultdict(list)},
    )


def one_process() -> SimpleNamespace:
    """An accelerator of one process that accumulates nothing."""

    def same(values: torch.Tensor, **_: object) -> torch.Tensor:
        return values

    return SimpleNamespace(
        gather=same,
        gather_for_metrics=same,
        reduce=same,
        autocast=nullcontext,
        num_processes=1,
        is_main_process=True,
        sync_gradients=True,
    )


def grpo_loss_of(trainer: SimpleNamespace, inputs: Mapping[str, Any], model: PreTrainedModel | None) -> torch.Tensor:
    """The loss of a padded batch. The trainer's `_metrics` get a value of each."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    compute_loss: Any = GRPOTrainer._compute_loss  # pyright: ignore[reportPrivateUsage]
    return compute_loss(trainer, model, inputs)
