"""The chunked head: log-probs and entropies by hand, gradients against autograd, chunk sizes against each other."""

from __future__ import annotations

import math

import pytest
import torch

from int_ray.compute import head
from int_ray.compute.head import token_logprobs

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def problem(rows: int = 7, width: int = 5, vocabulary: int = 11, seed: int = 0) -> Triple:
    """Random hidden states and weight, with gradients, and targets."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (rows,), generator=generator)


def test_by_hand() -> None:
    # Softmax of [0, log 3] is [1/4, 3/4].
    weight = torch.tensor([[0.0], [math.log(3)]])
    logprobs, entropy = token_logprobs(torch.ones(2, 1), weight, torch.tensor([0, 1]), 1.0, chunk=8)
    assert logprobs.tolist() == pytest.approx([math.log(0.25), math.log(0.75)])
    assert entropy.tolist() == pytest.approx([-0.25 * math.log(0.25) - 0.75 * math.log(0.75)] * 2)


def test_at_the_sampling_temperature() -> None:
    weight = torch.tensor([[0.0], [0.5 * math.log(3)]])
    logprobs, _ = token_logprobs(torch.ones(1, 1), weight, torch.tensor([1]), 0.5, chunk=8)
    assert logprobs.item() == pytest.approx(math.log(0.75))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("factors", [(1.0, 0.0), (0.0, 1.0), (1.0, -0.3)])
def test_gradients_equal_autograd(chunk: int, factors: tuple[float, float]) -> None:
    hidden, weight, targets = problem()
    scale = torch.linspace(-1, 2, len(hidden))  # a gradient of its own for every token
    logprobs, entropy = token_logprobs(hidden, weight, targets, 0.6, chunk)
    plain = torch.distributions.Categorical(logits=hidden @ weight.t() / 0.6)
    torch.testing.assert_close(logprobs, plain.log_prob(targets))
    torch.testing.assert_close(entropy, plain.entropy())
    loss = sum(f * value for f, value in zip(factors, (logprobs, entropy), strict=True) if f)
    expected = factors[0] * plain.log_prob(targets) + factors[1] * plain.entropy()
    assert isinstance(loss, torch.Tensor)
    ours = torch.autograd.grad((scale * loss).sum(), (hidden, weight))
    theirs = torch.autograd.grad((scale * expected).sum(), (hidden, weight))
    torch.testing.assert_close(ours, theirs)


def test_a_second_backward_pass_gives_the_same() -> None:
    hidden, weight, targets = problem()
    logprobs, entropy = token_logprobs(hidden, weight, targets, 0.6, 3)
    loss = (logprobs - 0.3 * entropy).sum()
    first, second = (torch.autograd.grad(loss, (hidden, weight), retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second)


def test_no_token_has_gradients_of_zero() -> None:
    hidden, weight, targets = problem(rows=0)
    logprobs, entropy = token_logprobs(hidden, weight, targets, 1.0, 4)
    (logprobs.sum() + entropy.sum()).backward()
    assert weight.grad is not None and not weight.grad.any()
    assert hidden.grad is not None and hidden.grad.shape == (0, 5)


def test_bfloat16_sums_up_in_fp32() -> None:
    hidden, weight, targets = problem(rows=64, width=32, vocabulary=300)
    low = [tensor.detach().bfloat16().requires_grad_() for tensor in (hidden, weight)]
    logprobs, entropy = token_logprobs(low[0], low[1], targets, 1.0, 16)
    assert logprobs.dtype == entropy.dtype == torch.float32
    exact = torch.distributions.Categorical(logits=low[0].float() @ low[1].float().t())
    torch.testing.assert_close(logprobs, exact.log_prob(targets), rtol=0, atol=1e-4)
    gradients = torch.autograd.grad(logprobs.sum(), low)
    assert {gradient.dtype for gradient in gradients} == {torch.bfloat16}
    expected = torch.autograd.grad(exact.log_prob(targets).sum(), low)
    torch.testing.assert_close(gradients, expected, rtol=0.02, atol=0.05)


def test_never_more_logits_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    make = torch.empty

    def counted(size: object, **options: object) -> torch.Tensor:
        made = make(size, **options)  # pyright: ignore
        sizes.append(made.numel())
        return made

    monkeypatch.setattr(head.torch, "empty", counted)
    hidden, weight, targets = problem(rows=100, vocabulary=50)
    logprobs, entropy = token_logprobs(hidden, weight, targets, 1.0, 10)
    (logprobs.sum() + entropy.sum()).backward()
    assert max(sizes) == 10 * 50


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_of_no_tokens_is_refused(chunk: int) -> None:
    with pytest.raises(ValueError, match=f"learner.head_chunk: {chunk} is not a number of tokens"):
        token_logprobs(*problem(), 1.0, chunk)
