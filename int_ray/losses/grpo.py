"""The GRPO objective with clip-higher, KL in the loss and an entropy bonus (paper, section 4.3 and Table 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from int_ray.losses.sums import Metrics, masked_sum, mean_metric, metric
from int_ray.training_config import ReinforceConfig


@dataclass(frozen=True, slots=True, eq=False)
class GrpoInputs:
    """One micro-batch. Values where the mask is false are never read, NaN included."""

    policy_logprobs: torch.Tensor  # [B, T], with gradient
    entropy: torch.Tensor  # [B, T], with gradient
    old_logprobs: torch.Tensor  # [B, T], of the policy that sampled, computed by the learner
    ref_logprobs: torch.Tensor | None  # [B, T]; None: no KL term
    rollout_logprobs: torch.Tensor  # [B, T], the engine's own, NaN where unknown; for a metric only
    advantages: torch.Tensor  # [B]
    mask: torch.Tensor  # [B, T], bool: trained tokens


def grpo_loss(inputs: GrpoInputs, config: ReinforceConfig, count: int) -> tuple[torch.Tensor, Metrics]:
    """This micro-batch's share of the update's loss.

    `count` is the update's number of trained tokens (`loss_mean: token`) or sequences (`sequence`) over all its
    micro-batches and ranks, so that the shares add up to the loss whatever the split.
    """
    mask = inputs.mask
    # Cleaned before any arithmetic: 0 * NaN would bring a masked NaN back in the backward pass.
    policy_logprobs = inputs.policy_logprobs.where(mask, 0)
    old_logprobs = inputs.old_logprobs.where(mask, 0)
    entropy = inputs.entropy.where(mask, 0)

    log_ratio = policy_logprobs - old_logprobs
    unclipped, clipped = _surrogates(log_ratio, inputs.advantages, config)
    objective = torch.minimum(unclipped, clipped) + config.entropy_coef * entropy
    metrics = {
        "clip_fraction": mean_metric((clipped < unclipped).float(), mask),
        "approx_kl": mean_metric(-log_ratio, mask),
        "entropy": mean_metric(entropy, mask),
        "rollout_mismatch": _mismatch(old_logprobs, inputs.rollout_logprobs, mask),
    }
    if inputs.ref_logprobs is not None:
        kl = k3(policy_logprobs, inputs.ref_logprobs.where(mask, 0))
        objective = objective - config.kl_coef * kl
        metrics["ref_kl"] = mean_metric(kl, mask)

    total, local_count = masked_sum(-objective, mask, config.loss_mean)
    return total / count, metrics | {"loss": metric(total, local_count)}


def k3(policy_logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """Schulman's k3 estimate of KL(policy || reference) per token; never negative. [B, T]"""
    difference = ref_logprobs - policy_logprobs
    return difference.exp() - difference - 1


def _surrogates(
    log_ratio: torch.Tensor, advantages: torch.Tensor, config: ReinforceConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probability ratio times advantage, and the same with the ratio clipped. [B, T]"""
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    return ratio * advantages[:, None], clipped * advantages[:, None]


def _mismatch(old_logprobs: torch.Tensor, rollout_logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean distance of the engine's log-probs from the learner's, over the tokens that have both."""
    return mean_metric((old_logprobs - rollout_logprobs).abs(), mask & rollout_logprobs.isfinite())
