"""The learner's work as one would write it by hand for one known batch: no framework, no recomputation, no sharding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, scaled_dot_product_attention

from int_ray.types import TrainingSample

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def use_document_attention(model: PreTrainedModel) -> None:
    """Let the model attend within each document alone; it must get `documents`, their lengths, with every call."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register("bare_documents", _attend_within_documents)
    AttentionMaskInterface.register("bare_documents", lambda *_, **__: None)
    model.set_attn_implementation("bare_documents")


def _attend_within_documents(
    module: nn.Module,
    query: torch.Tensor,  # [1, heads, T, D]
    key: torch.Tensor,  # [1, key heads, T, D]
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    documents: Sequence[int],
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    parts = zip(*(tensor.split(documents, dim=2) for tensor in (query, key, value)), strict=True)
    outputs = [scaled_dot_product_attention(*part, is_causal=True, scale=scaling, enable_gqa=True) for part in parts]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


class BareStep:
    """Forward and backward pass of the policy gradient over one packed batch."""

    def __init__(
        self, model: PreTrainedModel, samples: Sequence[TrainingSample], temperature: float, entropy_coef: float
    ) -> None:
        self.model, self.temperature, self.entropy_coef = model, temperature, entropy_coef
        self.documents = [len(sample.token_ids) for sample in samples]
        device = model.device
        token_ids = np.concatenate([sample.token_ids for sample in samples])
        trained = np.concatenate([sample.loss_mask for sample in samples]).nonzero()[0]  # never a first token
        advantages = np.repeat([sample.advantage for sample in samples], self.documents)[trained]
        positions = np.concatenate([np.arange(length) for length in self.documents])
        self.token_ids = torch.tensor(token_ids[None], dtype=torch.int64, device=device)  # [1, T]
        self.positions = torch.tensor(positions[None], device=device)  # [1, T]
        self.rows = torch.tensor(trained - 1, device=device)  # [N], whose output predicts a trained token
        self.targets = torch.tensor(token_ids[trained], dtype=torch.int64, device=device)  # [N]
        self.advantages = torch.tensor(advantages, dtype=torch.float32, device=device)  # [N]

    def __call__(self) -> torch.Tensor:
        """Adds to the gradients; returns the loss."""
        logprobs, entropy = self.score()
        ratio = (logprobs - logprobs.detach()).exp()
        loss = -(ratio * self.advantages).mean()
        if entropy is not None:
            loss = loss - self.entropy_coef * entropy.mean()
        loss.backward()
        return loss.detach()

    def score(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probs of the trained tokens; their entropies if they enter the loss. [N]"""
        hidden = self.model.base_model(
            input_ids=self.token_ids, position_ids=self.positions, use_cache=False, documents=self.documents
        ).last_hidden_state[0, self.rows]  # [N, H]
        head: Any = self.model.get_output_embeddings()
        logits = linear(hidden, head.weight).float() / self.temperature  # [N, V]
        if not self.entropy_coef:
            return -cross_entropy(logits, self.targets, reduction="none"), None
        every = logits.log_softmax(1)
        return every.gather(1, self.targets[:, None]).squeeze(1), -(every.exp() * every).sum(1)
