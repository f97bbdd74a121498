"""Sums kept beside their counts: they add up exactly over micro-batches and ranks, and divide only at the end."""

from __future__ import annotations

from typing import Literal

import torch

Metrics = dict[str, torch.Tensor]  # name -> [2]: a sum and its count, without gradient


def masked_sum(
    values: torch.Tensor,  # [B, T]
    mask: torch.Tensor,  # [B, T], bool
    mean: Literal["token", "sequence"] = "token",
) -> tuple[torch.Tensor, torch.Tensor]:
    """What to divide by what for a mean over trained tokens, or over sequences of their own token means.

    Whatever stands where the mask is false, NaN included, does not enter. A sequence without trained tokens
    does not count.
    """
    sums = values.where(mask, 0).sum(1)  # [B]
    tokens = mask.sum(1)
    if mean == "token":
        return sums.sum(), tokens.sum()
    return (sums / tokens.clamp(min=1)).sum(), (tokens > 0).sum()


def metric(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """One entry of `Metrics`. [2]"""
    return torch.stack([total.detach().float(), count.float()])


def mean_metric(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The entry for a mean of `values` over the mask. [2]"""
    return metric(*masked_sum(values, mask))
