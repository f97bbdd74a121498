from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from int_ray.losses import logprobs as logprobs_module
from int_ray.losses.grpo import GrpoInputs, grpo_loss, k3
from int_ray.losses.logprobs import token_logprobs
from int_ray.losses.sft import sft_loss
from int_ray.training_config import ReinforceConfig

PLAIN = ReinforceConfig(kl_coef=0.0)


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


def inputs(policy: torch.Tensor, old: torch.Tensor, advantages: list[float], **changes: torch.Tensor) -> GrpoInputs:
    defaults: dict[str, torch.Tensor | None] = {
        "entropy": torch.zeros_like(policy),
        "ref_logprobs": None,
        "rollout_logprobs": torch.full_like(policy, torch.nan),
        "mask": torch.ones_like(policy, dtype=torch.bool),
    }
    return GrpoInputs(
        policy_logprobs=policy, old_logprobs=old, advantages=torch.tensor(advantages), **(defaults | changes)
    )


def random_inputs(seed: int, rows: int = 6, width: int = 5) -> GrpoInputs:
    generator = torch.Generator().manual_seed(seed)
    policy, old, ref, rollout = (-3 * torch.rand(rows, width, generator=generator) for _ in range(4))
    mask = torch.rand(rows, width, generator=generator) > 0.3
    mask[0, 0] = True
    advantages = torch.randn(rows, generator=generator).tolist()
    entropy = torch.rand(rows, width, generator=generator)
    return inputs(policy, old, advantages, entropy=entropy, ref_logprobs=ref, rollout_logprobs=rollout, mask=mask)


def rows_of(batch: GrpoInputs, rows: slice) -> GrpoInputs:
    return GrpoInputs(**{name: getattr(batch, name)[rows] for name in GrpoInputs.__slots__})


def count_of(batch: GrpoInputs, mean: str) -> int:
    tokens = batch.mask.sum(1)
    return int(tokens.sum() if mean == "token" else (tokens > 0).sum())


def test_token_logprobs_by_hand() -> None:
    # Softmax of [0, log 3] is [1/4, 3/4]; token 1 is read at position 1, from the logits of position 0.
    logits = torch.tensor([[[0.0, math.log(3)], [5.0, -5.0]]])
    logprobs, entropy = token_logprobs(logits, torch.tensor([[0, 1]]), temperature=1.0)
    assert logprobs.tolist()[0] == pytest.approx([0.0, math.log(0.75)])
    assert entropy.tolist()[0] == pytest.approx([0.0, -0.25 * math.log(0.25) - 0.75 * math.log(0.75)])


def test_token_logprobs_at_the_sampling_temperature() -> None:
    logits = torch.tensor([[[0.0, 0.5 * math.log(3)], [0.0, 0.0]]])
    logprobs, _ = token_logprobs(logits, torch.tensor([[0, 1]]), temperature=0.5)
    assert logprobs[0, 1].item() == pytest.approx(math.log(0.75))


@pytest.mark.parametrize("chunk_rows", [1, 4, 100])
def test_token_logprobs_gradients_equal_autograd(monkeypatch: pytest.MonkeyPatch, chunk_rows: int) -> None:
    monkeypatch.setattr(logprobs_module, "CHUNK_ELEMENTS", 11 * chunk_rows)
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 11, requires_grad=True)
    token_ids = torch.randint(11, (3, 5))
    weights = torch.randn(2, 3, 5)
    logprobs, entropy = token_logprobs(logits, token_ids, 0.6)
    (ours,) = torch.autograd.grad((weights[0] * logprobs + weights[1] * entropy).sum(), logits)
    plain = torch.distributions.Categorical(logits=logits[:, :-1] / 0.6)
    expected = weights[0, :, 1:] * plain.log_prob(token_ids[:, 1:]) + weights[1, :, 1:] * plain.entropy()
    (theirs,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(logprobs[:, 1:], plain.log_prob(token_ids[:, 1:]))


def test_token_logprobs_of_bfloat16_logits_are_fp32() -> None:
    logits = torch.randn(1, 4, 300, dtype=torch.bfloat16, requires_grad=True)
    logprobs, entropy = token_logprobs(logits, torch.randint(300, (1, 4)), 1.0)
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert entropy[0, 1].item() == pytest.approx(
        torch.distributions.Categorical(logits=logits[0, 0].float()).entropy().item(), abs=1e-5
    )


def test_token_logprobs_of_one_token_have_a_gradient() -> None:
    logits = torch.randn(1, 1, 3, requires_grad=True)
    token_logprobs(logits, torch.tensor([[2]]), 1.0)[0].sum().backward()
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize(
    ("advantage", "ratio", "surrogate"),
    [(1.0, 1.1, 1.1), (1.0, 1.5, 1.35), (1.0, 0.5, 0.5), (-1.0, 1.5, -1.5), (-1.0, 0.5, -0.8), (2.0, 1.0, 2.0)],
)
def test_surrogate_is_clipped_on_the_side_that_gains(advantage: float, ratio: float, surrogate: float) -> None:
    loss, metrics = grpo_loss(inputs(tensor([math.log(ratio)]), tensor([0.0]), [advantage]), PLAIN, count=1)
    assert loss.item() == pytest.approx(-surrogate)
    assert metrics["clip_fraction"].tolist() == [float(surrogate != pytest.approx(ratio * advantage)), 1.0]
    assert metrics["approx_kl"][0].item() == pytest.approx(-math.log(ratio))


def test_clipped_tokens_have_no_gradient_and_others_have_the_advantage() -> None:
    policy = tensor([math.log(1.5), 0.0]).requires_grad_()
    grpo_loss(inputs(policy, torch.zeros(1, 2), [3.0]), PLAIN, count=2)[0].backward()
    assert policy.grad is not None
    assert policy.grad.tolist()[0] == pytest.approx([0.0, -1.5])


def test_kl_and_entropy_enter_with_their_coefficients() -> None:
    policy = tensor([0.0])
    changes = {"ref_logprobs": tensor([math.log(2)]), "entropy": tensor([0.7])}
    config = ReinforceConfig(kl_coef=0.1, entropy_coef=0.01)
    loss, metrics = grpo_loss(inputs(policy, policy, [1.0], **changes), config, count=1)
    kl = 2 - math.log(2) - 1
    assert loss.item() == pytest.approx(-1 + 0.1 * kl - 0.01 * 0.7)
    assert metrics["ref_kl"].tolist() == pytest.approx([kl, 1.0])
    assert metrics["entropy"].tolist() == pytest.approx([0.7, 1.0])


def test_k3_is_never_negative_and_zero_for_equals() -> None:
    policy, ref = -5 * torch.rand(100), -5 * torch.rand(100)
    assert (k3(policy, ref) >= 0).all()
    assert not k3(policy, policy).any()


@pytest.mark.parametrize(("mean", "loss"), [("token", -(1 * 1.0 + 3 * 2.0) / 4), ("sequence", -(1.0 + 2.0) / 2)])
def test_loss_means(mean: str, loss: float) -> None:
    # Ratios of 1: one trained token with advantage 1, three with advantage 2, and a row that trains nothing.
    mask = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 0]]).bool()
    batch = inputs(torch.zeros(3, 3), torch.zeros(3, 3), [1.0, 2.0, 9.0], mask=mask)
    config = ReinforceConfig(kl_coef=0.0, loss_mean=mean)
    value, metrics = grpo_loss(batch, config, count_of(batch, mean))
    assert value.item() == pytest.approx(loss)
    assert (metrics["loss"][0] / metrics["loss"][1]).item() == pytest.approx(loss)


@given(seed=st.integers(0, 1000), cut=st.integers(1, 5), mean=st.sampled_from(["token", "sequence"]))
def test_shares_of_micro_batches_add_up(seed: int, cut: int, mean: str) -> None:
    batch, config = random_inputs(seed), ReinforceConfig(kl_coef=0.1, entropy_coef=0.1, loss_mean=mean)
    count = count_of(batch, mean)
    whole, metrics = grpo_loss(batch, config, count)
    parts = [grpo_loss(rows_of(batch, rows), config, count) for rows in (slice(0, cut), slice(cut, None))]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole)
    for name, expected in metrics.items():
        torch.testing.assert_close(parts[0][1][name] + parts[1][1][name], expected)


def test_masked_nan_leaks_neither_into_the_loss_nor_into_gradients() -> None:
    clean = random_inputs(seed=1)
    policy = clean.policy_logprobs.requires_grad_()
    config = ReinforceConfig(kl_coef=0.1, entropy_coef=0.1)
    (expected,) = torch.autograd.grad(grpo_loss(clean, config, 7)[0], policy)
    dirty = {
        name: getattr(clean, name).where(clean.mask, torch.nan)
        for name in ("entropy", "old_logprobs", "ref_logprobs", "rollout_logprobs")
    }
    rest = {"policy_logprobs": policy, "advantages": clean.advantages, "mask": clean.mask}
    loss, metrics = grpo_loss(GrpoInputs(**dirty, **rest), config, 7)
    (gradient,) = torch.autograd.grad(loss, policy)
    torch.testing.assert_close(gradient, expected)
    assert torch.stack(list(metrics.values())).isfinite().all()


def test_rollout_mismatch_counts_known_logprobs_only() -> None:
    batch = inputs(torch.zeros(1, 3), tensor([-1.0, -1.0, -1.0]), [1.0], rollout_logprobs=tensor([-1.5, math.nan, -2]))
    _, metrics = grpo_loss(batch, PLAIN, count=3)
    assert metrics["rollout_mismatch"].tolist() == pytest.approx([1.5, 2.0])


def test_sft_loss_by_hand() -> None:
    policy = tensor([-1.0, -2.0, math.nan], [-3.0, -9.0, -9.0]).requires_grad_()
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    loss, metrics = sft_loss(policy, mask, count=10)
    loss.backward()
    assert loss.item() == pytest.approx(0.6)
    assert metrics["loss"].tolist() == [6.0, 3.0]
    assert policy.grad is not None
    torch.testing.assert_close(policy.grad, -mask.float() / 10)
