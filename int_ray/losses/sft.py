"""The patch loss: negative log-likelihood of the cloned tokens (paper, section 4.2)."""

from __future__ import annotations

import torch

from int_ray.losses.sums import Metrics, masked_sum, metric


def sft_loss(
    policy_logprobs: torch.Tensor,  # [B, T]
    mask: torch.Tensor,  # [B, T], bool: cloned tokens
    count: int,
) -> tuple[torch.Tensor, Metrics]:
    """This micro-batch's share of the mean over `count`, the update's cloned tokens in all micro-batches and ranks."""
    total, local_count = masked_sum(-policy_logprobs, mask)
    return total / count, {"loss": metric(total, local_count)}
