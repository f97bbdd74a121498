"""Sums kept beside their counts: they add up exactly over micro-batches and ranks, and divide only at the end."""

from __future__ import annotations

import torch

Metrics = dict[str, torch.Tensor]  # name -> [2]: a sum and its count, without gradient


def metric(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """One entry of `Metrics`. [2]"""
    return torch.stack([total.detach().float(), count.float()])


def mean_metric(values: torch.Tensor) -> torch.Tensor:
    """The entry for a mean over all trained tokens. [2]"""
    return metric(values.sum(), torch.full((), len(values), device=values.device))
