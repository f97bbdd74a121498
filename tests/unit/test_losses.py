from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from int_ray.losses.grpo import GrpoInputs, grpo_loss, k3
from int_ray.losses.sft import sft_loss
from int_ray.training_config import ReinforceConfig

PLAIN = ReinforceConfig(kl_coef=0.0)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def inputs(policy: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, **changes: torch.Tensor) -> GrpoInputs:
    defaults: dict[str, torch.Tensor | None] = {
        "entropy": torch.zeros_like(policy),
        "ref_logprobs": None,
        "rollout_logprobs": torch.full_like(policy, torch.nan),
        "weights": torch.ones_like(policy),
    }
    return GrpoInputs(policy_logprobs=policy, old_logprobs=old, advantages=advantages, **(defaults | changes))


def random_inputs(seed: int, tokens: int = 20) -> GrpoInputs:
    generator = torch.Generator().manual_seed(seed)
    policy, old, ref, rollout = (-3 * torch.rand(tokens, generator=generator) for _ in range(4))
    entropy, weights = (torch.rand(tokens, generator=generator) for _ in range(2))
    advantages = torch.randn(tokens, generator=generator)
    rest = {"entropy": entropy, "ref_logprobs": ref, "rollout_logprobs": rollout, "weights": weights}
    return inputs(policy, old, advantages, **rest)


def tokens_of(batch: GrpoInputs, tokens: slice) -> GrpoInputs:
    return GrpoInputs(**{name: getattr(batch, name)[tokens] for name in GrpoInputs.__slots__})


@pytest.mark.parametrize(
    ("advantage", "ratio", "surrogate"),
    [(1.0, 1.1, 1.1), (1.0, 1.5, 1.35), (1.0, 0.5, 0.5), (-1.0, 1.5, -1.5), (-1.0, 0.5, -0.8), (2.0, 1.0, 2.0)],
)
def test_surrogate_is_clipped_on_the_side_that_gains(advantage: float, ratio: float, surrogate: float) -> None:
    loss, metrics = grpo_loss(inputs(tensor(math.log(ratio)), tensor(0.0), tensor(advantage)), PLAIN, count=1)
    assert loss.item() == pytest.approx(-surrogate)
    assert metrics["clip_fraction"].tolist() == [float(surrogate != pytest.approx(ratio * advantage)), 1.0]
    assert metrics["approx_kl"][0].item() == pytest.approx(-math.log(ratio))


def test_clipped_tokens_have_no_gradient_and_others_have_the_advantage() -> None:
    policy = tensor(math.log(1.5), 0.0).requires_grad_()
    grpo_loss(inputs(policy, torch.zeros(2), tensor(3.0, 3.0)), PLAIN, count=2)[0].backward()
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx([0.0, -1.5])


def test_kl_and_entropy_enter_with_their_coefficients() -> None:
    policy = tensor(0.0)
    changes = {"ref_logprobs": tensor(math.log(2)), "entropy": tensor(0.7)}
    config = ReinforceConfig(kl_coef=0.1, entropy_coef=0.01)
    loss, metrics = grpo_loss(inputs(policy, policy, tensor(1.0), **changes), config, count=1)
    kl = 2 - math.log(2) - 1
    assert loss.item() == pytest.approx(-1 + 0.1 * kl - 0.01 * 0.7)
    assert metrics["ref_kl"].tolist() == pytest.approx([kl, 1.0])
    assert metrics["entropy"].tolist() == pytest.approx([0.7, 1.0])


def test_k3_is_never_negative_and_zero_for_equals() -> None:
    policy, ref = -5 * torch.rand(100), -5 * torch.rand(100)
    assert (k3(policy, ref) >= 0).all()
    assert not k3(policy, policy).any()


@pytest.mark.parametrize(
    ("weights", "count", "loss"),
    [((1.0, 1.0, 1.0, 1.0), 4, -(1 * 1.0 + 3 * 2.0) / 4), ((1.0, 1 / 3, 1 / 3, 1 / 3), 2, -(1.0 + 2.0) / 2)],
)
def test_loss_means(weights: tuple[float, ...], count: int, loss: float) -> None:
    # Ratios of 1: one token of a sequence with advantage 1, three of a sequence with advantage 2.
    batch = inputs(torch.zeros(4), torch.zeros(4), tensor(1.0, 2.0, 2.0, 2.0), weights=tensor(*weights))
    value, metrics = grpo_loss(batch, PLAIN, count)
    assert value.item() == pytest.approx(loss)
    assert (metrics["loss"][0] / metrics["loss"][1]).item() == pytest.approx(loss)


@given(seed=st.integers(0, 1000), cut=st.integers(0, 20), cap=st.sampled_from([None, 1.5]))
def test_shares_of_micro_batches_add_up(seed: int, cut: int, cap: float | None) -> None:
    batch, config = random_inputs(seed), ReinforceConfig(kl_coef=0.1, entropy_coef=0.1, importance_cap=cap)
    whole, metrics = grpo_loss(batch, config, 20)
    parts = [grpo_loss(tokens_of(batch, tokens), config, 20) for tokens in (slice(0, cut), slice(cut, None))]
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole)
    for name, expected in metrics.items():
        torch.testing.assert_close(parts[0][1][name] + parts[1][1][name], expected)


def test_importance_weights_are_truncated_and_leave_kl_and_entropy_alone() -> None:
    policy = tensor(math.log(1.1), math.log(1.1)).requires_grad_()
    batch = inputs(
        policy,
        torch.zeros(2),
        tensor(1.0, 1.0),
        entropy=tensor(0.7, 0.7),
        ref_logprobs=policy.detach(),
        rollout_logprobs=tensor(-math.log(3), math.log(2)),  # old over rollout: 3 and 1/2
    )
    config = ReinforceConfig(kl_coef=0.1, entropy_coef=0.01, importance_cap=2.0)
    loss, metrics = grpo_loss(batch, config, count=2)
    loss.backward()
    assert loss.item() == pytest.approx(-(2 * 1.1 + 0.5 * 1.1 + 2 * 0.01 * 0.7) / 2)
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx([-2 * 1.1 / 2, -0.5 * 1.1 / 2])
    assert metrics["importance_weight"].tolist() == pytest.approx([2.5, 2.0])
    assert metrics["importance_clipped"].tolist() == [1.0, 2.0]


def test_rollout_mismatch_counts_known_logprobs_only() -> None:
    old, rollout = tensor(-1.0, -1.0, -1.0), tensor(-1.5, math.nan, -2)
    _, metrics = grpo_loss(inputs(torch.zeros(3), old, torch.ones(3), rollout_logprobs=rollout), PLAIN, count=3)
    assert metrics["rollout_mismatch"].tolist() == pytest.approx([1.5, 2.0])


def test_rollout_mismatch_is_to_the_present_policy_where_the_engines_logprobs_are_the_old_ones() -> None:
    policy, rollout = tensor(-1.0, -1.0), tensor(-1.5, -2.0)
    batch = inputs(policy, rollout, torch.ones(2), rollout_logprobs=rollout)
    _, metrics = grpo_loss(batch, ReinforceConfig(kl_coef=0.0, old_logprobs="engine"), count=2)
    assert metrics["rollout_mismatch"].tolist() == pytest.approx([1.5, 2.0])


def test_a_micro_batch_without_tokens_is_a_share_of_nothing() -> None:
    loss, metrics = grpo_loss(tokens_of(random_inputs(0), slice(0, 0)), ReinforceConfig(kl_coef=0.1), count=7)
    assert loss.item() == 0
    assert not torch.stack(list(metrics.values())).any()


def test_sft_loss_by_hand() -> None:
    policy = tensor(-1.0, -2.0, -3.0).requires_grad_()
    loss, metrics = sft_loss(policy, count=10)
    loss.backward()
    assert loss.item() == pytest.approx(0.6)
    assert metrics["loss"].tolist() == [6.0, 3.0]
    assert policy.grad is not None
    torch.testing.assert_close(policy.grad, torch.full((3,), -0.1))
