"""One phase of training: AdamW with its schedule, and the metrics of its updates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from transformers import get_scheduler

from int_ray.compute.sharding import gather
from int_ray.losses.sums import Metrics

if TYPE_CHECKING:
    from int_ray.training_config import OptimizerConfig


class Optimization:
    """AdamW and its learning-rate schedule; made anew for every phase (paper, sections 4.2 and 4.3)."""

    def __init__(self, model: nn.Module, config: OptimizerConfig, num_updates: int) -> None:
        self.num_updates = num_updates
        self.max_grad_norm = config.max_grad_norm
        self.adamw = AdamW(
            model.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,  # one pass over the memory, instead of a dozen
        )
        cosine = config.lr_schedule == "cosine_with_min_lr"
        self.schedule = get_scheduler(
            "cosine_with_min_lr" if cosine else "constant_with_warmup",
            self.adamw,
            num_warmup_steps=int(config.warmup_ratio * num_updates),
            num_training_steps=num_updates,
            scheduler_specific_kwargs={"min_lr_rate": config.min_lr_rate} if cosine else {},
        )

    def update(self, loss: float) -> float:
        """Apply the gradients of all ranks and clear them; returns their norm before clipping.

        Where it or the `loss` of all ranks is not finite, weights, optimizer and schedule stay, and NaN is returned.
        """
        parameters = [parameter for group in self.adamw.param_groups for parameter in group["params"]]
        norm = float(gather(clip_grad_norm_(parameters, self.max_grad_norm)))
        is_finite = math.isfinite(norm) and math.isfinite(loss)
        if is_finite:
            self.adamw.step()
            self.schedule.step()
        self.adamw.zero_grad()
        return norm if is_finite else math.nan

    def state(self) -> dict[str, Any]:
        """Where the schedule stands, ready for JSON; the moments are saved apart (see actors/learner_state.py)."""
        return {"num_updates": self.num_updates, "schedule": self.schedule.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue the schedule where `state` left it; `num_updates` must be the same."""
        self.schedule.load_state_dict(state["schedule"])
        for group, learning_rate in zip(self.adamw.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = learning_rate


class Meter:
    """Adds up the metrics of one phase; every rank adds the same names in the same order."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = device
        self.sums: Metrics = {}
        self.num_updates = 0
        self.not_finite: list[int] = []  # updates that were skipped, counted from 0

    def add(self, metrics: Metrics) -> None:
        """Add one micro-batch of this rank."""
        for name, parts in metrics.items():
            self.sums[name] = self.sums[name] + parts if name in self.sums else parts

    def add_update(self, grad_norm: float) -> None:
        """Count one update, or one that was skipped because its loss or gradient was not finite."""
        if math.isfinite(grad_norm):
            self.num_updates += 1
            self.add({"grad_norm": torch.tensor([grad_norm, 1.0], device=self.device)})
        else:
            self.not_finite.append(self.num_updates + len(self.not_finite))

    def means(self) -> dict[str, float]:
        """Every metric as its mean over all micro-batches and ranks; all ranks must call it."""
        sums = torch.stack(list(self.sums.values()))  # [metrics, 2]
        dist.all_reduce(sums)
        means = {name: total / count for name, (total, count) in zip(self.sums, sums.tolist(), strict=True) if count}
        return means | {"skipped_updates": float(len(self.not_finite))}
