"""The patch loss: negative log-likelihood of the cloned tokens (paper, section 4.2)."""

from __future__ import annotations

import torch

from int_ray.losses.sums import Metrics, mean_metric


def sft_loss(policy_logprobs: torch.Tensor, count: int) -> tuple[torch.Tensor, Metrics]:
    """This micro-batch's share of the mean over `count`, the update's cloned tokens in all micro-batches and ranks.

    `policy_logprobs` [N] are those of this micro-batch's cloned tokens.
    """
    return -policy_logprobs.sum() / count, {"loss": mean_metric(-policy_logprobs)}
