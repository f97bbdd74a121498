"""The GRPO objective with clip-higher, KL in the loss and an entropy bonus (paper, section 4.3 and Table 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from int_ray.losses.sums import Metrics, mean_metric, metric

if TYPE_CHECKING:
    from int_ray.training_config import ReinforceConfig


@dataclass(frozen=True, slots=True, eq=False)
class GrpoInputs:
    """The trained tokens of one micro-batch; N may be 0."""

    policy_logprobs: torch.Tensor  # [N], with gradient
    entropy: torch.Tensor  # [N], with gradient
    old_logprobs: torch.Tensor  # [N], of the policy before this phase's first update, or rollout_logprobs
    ref_logprobs: torch.Tensor | None  # [N]; None: no KL term
    rollout_logprobs: torch.Tensor  # [N], the engine's own; NaN where unknown, unless config.importance_cap is set
    advantages: torch.Tensor  # [N]
    weights: torch.Tensor  # [N], of a token in the mean: 1, or 1 / trained tokens of its sequence


def grpo_loss(inputs: GrpoInputs, config: ReinforceConfig, count: int) -> tuple[torch.Tensor, Metrics]:
    """This micro-batch's share of the update's loss.

    `count` is the update's number of trained tokens (`loss_mean: token`) or sequences (`sequence`) over all its
    micro-batches and ranks, so that the shares add up to the loss whatever the split.
    """
    log_ratio = inputs.policy_logprobs - inputs.old_logprobs
    unclipped, clipped = _surrogates(log_ratio, inputs.advantages, config)
    objective = torch.minimum(unclipped, clipped)
    metrics = {
        "clip_fraction": mean_metric((clipped < unclipped).float()),
        "approx_kl": mean_metric(-log_ratio),
        "entropy": mean_metric(inputs.entropy),
        "rollout_mismatch": _mismatch(inputs, config),
    }
    if config.importance_cap is not None:
        importance = (inputs.old_logprobs - inputs.rollout_logprobs).exp()
        truncated = importance.clamp(max=config.importance_cap)
        objective = truncated * objective
        metrics["importance_weight"] = mean_metric(truncated)
        metrics["importance_clipped"] = mean_metric((importance > truncated).float())
    if config.entropy_coef > 0:
        objective = objective + config.entropy_coef * inputs.entropy
    if inputs.ref_logprobs is not None:
        kl = k3(inputs.policy_logprobs, inputs.ref_logprobs)
        objective = objective - config.kl_coef * kl
        metrics["ref_kl"] = mean_metric(kl)
    total = -(objective * inputs.weights).sum()
    return total / count, metrics | {"loss": metric(total, inputs.weights.sum())}


def k3(policy_logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """Schulman's k3 estimate of KL(policy || reference) per token; never negative."""
    difference = ref_logprobs - policy_logprobs
    return difference.exp() - difference - 1


def _surrogates(
    log_ratio: torch.Tensor, advantages: torch.Tensor, config: ReinforceConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probability ratio times advantage, and the same with the ratio clipped. [N]"""
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    return ratio * advantages, clipped * advantages


def _mismatch(inputs: GrpoInputs, config: ReinforceConfig) -> torch.Tensor:
    """Mean distance of the engine's log-probs from the learner's, over the tokens that have both.

    With `old_logprobs: engine` the learner's are the present ones: from a phase's second update on, its own changes
    count too.
    """
    of_learner = inputs.policy_logprobs.detach() if config.old_logprobs == "engine" else inputs.old_logprobs
    distance = (of_learner - inputs.rollout_logprobs).abs()
    known = distance.isfinite()
    return metric(distance.where(known, 0).sum(), known.sum())
