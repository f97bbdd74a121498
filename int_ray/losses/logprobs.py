"""Log-probabilities of given tokens and the entropy of their distributions, from logits, in fp32."""

from __future__ import annotations

import torch
from torch.autograd.function import FunctionCtx
from torch.nn.functional import pad

CHUNK_ELEMENTS = 2**24  # logits per chunk: 64 MiB in fp32


def token_logprobs(
    logits: torch.Tensor,  # [B, T, V]
    token_ids: torch.Tensor,  # [B, T]
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob of token t given the tokens before it, and the entropy it was drawn from, both fp32 [B, T].

    Position 0 has no context and is 0 in both. `temperature` is the sampling temperature; both have gradients.
    """
    # Every row is computed and the last one dropped: slicing the logits first would copy them.
    targets = token_ids.roll(-1, dims=1).flatten()
    logprobs, entropy = _LogprobsAndEntropy.apply(logits.flatten(0, 1), targets, temperature)
    return (
        pad(logprobs.view_as(token_ids)[:, :-1], (1, 0)),
        pad(entropy.view_as(token_ids)[:, :-1], (1, 0)),
    )


class _LogprobsAndEntropy(torch.autograd.Function):
    """Works chunk by chunk and recomputes in the backward pass: the only full-size buffer is the gradient."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, logits: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = torch.empty(len(logits), dtype=torch.float32, device=logits.device)  # [N]
        entropy = torch.empty_like(logprobs)
        for rows in _chunks(logits):
            log_p = _log_softmax(logits[rows], temperature)
            logprobs[rows] = log_p.gather(1, targets[rows, None]).squeeze(1)
            entropy[rows] = -(log_p.exp() * log_p).sum(1)
        ctx.save_for_backward(logits, targets, entropy)
        ctx.temperature = temperature  # pyright: ignore[reportAttributeAccessIssue]
        return logprobs, entropy

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: FunctionCtx, grad_logprobs: torch.Tensor, grad_entropy: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        """d log p_y / dz_j = [j = y] - p_j and d H / dz_j = -p_j (log p_j + H), with z = logits / temperature."""
        logits, targets, entropy = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        temperature: float = ctx.temperature  # pyright: ignore[reportAttributeAccessIssue]
        grad = torch.empty_like(logits)
        for rows in _chunks(logits):
            log_p = _log_softmax(logits[rows], temperature)
            slope = grad_logprobs[rows, None] + grad_entropy[rows, None] * (log_p + entropy[rows, None])
            slope.mul_(log_p.exp_()).neg_()
            slope.scatter_add_(1, targets[rows, None], grad_logprobs[rows, None])
            grad[rows] = (slope / temperature).to(grad.dtype)
        return grad, None, None


def _chunks(logits: torch.Tensor) -> list[slice]:
    """Slices of rows that bound the size of the fp32 intermediates."""
    size = max(1, CHUNK_ELEMENTS // logits.shape[1])
    return [slice(start, start + size) for start in range(0, len(logits), size)]


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return (logits.float() / temperature).log_softmax(1)  # [rows, V]
