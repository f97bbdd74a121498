"""TRL's own GRPO loss step on given samples: GRPOTrainer's methods, without its generation, loading and logging."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
        add_fused_lm_head(reference, temperature=temperature)
        self.model, self.reference = model, reference
        self.trainer = _trainer(beta, clip)
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
        from trl.trainer.grpo_trainer import GRPOTrainer

        inputs = self.inputs
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        width = inputs["completion_ids"].shape[1]
        with torch.no_grad():
            score = self.trainer._get_per_token_logps_and_entropies
            ref_logprobs, _, _ = score(self.reference, self.token_ids, attention, width)
        compute_loss: Any = GRPOTrainer._compute_loss  # pyright: ignore[reportPrivateUsage]
        loss = compute_loss(self.trainer, self.model, inputs | {"ref_per_token_logps": ref_logprobs})
        loss.backward()
        return loss.detach()


def _trainer(beta: float, clip: tuple[float, float]) -> Any:
    """The attributes that a GRPOTrainer's loss reads, for one process and the mean over all tokens."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    def same(values: torch.Tensor, **_: object) -> torch.Tensor:
        return values

    trainer: Any = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        accelerator=SimpleNamespace(
            gather=same,
            gather_for_metrics=same,
            reduce=same,
            autocast=nullcontext,
            num_processes=1,
            is_main_process=True,
            sync_gradients=True,
        ),
        beta=beta,
        epsilon_low=clip[0],
        epsilon_high=clip[1],
        entropy_coef=0.0,
        loss_type="bnpo",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        use_vllm=False,
        aux_loss_enabled=False,
        use_adaptive_entropy=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    trainer._get_per_token_logps_and_entropies = MethodType(GRPOTrainer._get_per_token_logps_and_entropies, trainer)
    return trainer
