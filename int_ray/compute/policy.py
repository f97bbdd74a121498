"""A causal language model that answers with log-probs and entropies of the trained tokens, never with logits."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from int_ray.compute.architecture import untrainable
from int_ray.compute.head import token_logprobs
from int_ray.compute.packing import PackedBatch


class Policy(nn.Module):
    """Wraps a Hugging Face model whose attention is one of `compute.attention`.

    The output head is used in this module's own forward pass, so that FSDP gathers its weight once per micro-batch.
    """

    def __init__(self, model: PreTrainedModel, head_chunk: int) -> None:
        """`head_chunk`: tokens whose logits exist at once. Raises ValueError for a model that this cannot compute."""
        super().__init__()
        _require_trainable(model)
        self.model = model.eval()  # dropout would make recomputed log-probs differ
        self.head_chunk = head_chunk

    def forward(self, batch: PackedBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs at the sampling temperature and entropies of the trained tokens, both fp32 [N]."""
        output = self.model.get_decoder()(
            input_ids=batch.token_ids[None],
            position_ids=batch.positions[None],
            use_cache=False,
            cu_seq_lens_q=batch.boundaries,
            max_length_q=batch.longest,
        )
        hidden: torch.Tensor = output.last_hidden_state[0]  # [T, H]
        head = cast(nn.Linear, self.model.get_output_embeddings())
        return token_logprobs(hidden[batch.rows], head.weight, batch.targets, temperature, self.head_chunk)

    @torch.no_grad()
    def logprobs(self, batch: PackedBatch, temperature: float) -> torch.Tensor:
        """Log-probs alone, without gradient. [N]"""
        return self(batch, temperature)[0]


def _require_trainable(model: PreTrainedModel) -> None:
    """The logits must be what full causal attention and one matrix as output head yield."""
    obstacles = untrainable(model.config)
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        name = model.config.model_type
        obstacles.append(f"model.path: {name} has an output head that is not one matrix; the learner cannot train it")
    if obstacles:
        raise ValueError("\n".join(obstacles))
