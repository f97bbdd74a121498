"""Log-probabilities of given tokens and the entropy of their distributions, from hidden states, chunk by chunk.

The logits of all tokens never exist at once: the backward pass computes them again, but for the last chunk, which the
forward pass leaves behind.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch


def token_logprobs(
    hidden: torch.Tensor,  # [N, H], the state that predicts each token
    weight: torch.Tensor,  # [V, H], of the output head
    targets: torch.Tensor,  # [N], int64
    temperature: float,
    chunk: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob of each target and the entropy of the distribution it was drawn from, both fp32 [N].

    `temperature` is the sampling temperature. Both results have gradients with respect to hidden states and weight.
    At most `chunk` tokens' logits exist at once. Raises ValueError for a chunk below 1.
    """
    if chunk < 1:
        raise ValueError(f"learner.head_chunk: {chunk} is not a number of tokens")
    return _ChunkedHead.apply(hidden, weight, targets, temperature, chunk)  # pyright: ignore[reportReturnType]


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float, chunk: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)  # [N]
        entropy = torch.empty_like(logprobs)
        chunks = _chunks(len(hidden), chunk)
        first, second = _buffers(weight, chunks)
        for rows in chunks:
            log_p = _log_softmax(hidden[rows], weight, temperature, first, second)
            logprobs[rows] = log_p.gather(1, targets[rows, None])[:, 0]
            entropy[rows] = torch.linalg.vecdot(torch.exp(log_p, out=first[: len(log_p)]), log_p).neg()
        ctx.save_for_backward(hidden, weight, targets, entropy)
        ctx.temperature, ctx.chunks = temperature, chunks
        ctx.last_log_p = second if any(ctx.needs_input_grad) else None
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_logprobs: torch.Tensor | None, grad_entropy: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, None, None, None]:
        """d log p_y / dz_j = [j = y] - p_j and d H / dz_j = -p_j (log p_j + H), with z = logits / temperature."""
        hidden, weight, targets, entropy = ctx.saved_tensors
        last_log_p, ctx.last_log_p = ctx.last_log_p, None  # overwritten here: a second backward pass recomputes it
        first, second = _buffers(weight, ctx.chunks, second=last_log_p)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        slope_logprobs = torch.zeros_like(entropy) if grad_logprobs is None else grad_logprobs / ctx.temperature  # [N]
        for rows in reversed(ctx.chunks):
            if rows is ctx.chunks[-1] and last_log_p is not None:
                log_p = second[: rows.stop - rows.start]
            else:
                log_p = _log_softmax(hidden[rows], weight, ctx.temperature, first, second)
            slope = torch.exp(log_p, out=first[: len(log_p)])  # p, and then -d loss / d logits
            if grad_entropy is None:
                slope.mul_(slope_logprobs[rows, None])
            else:
                factor = grad_entropy[rows, None] / ctx.temperature
                shift = torch.addcmul(slope_logprobs[rows, None], factor, entropy[rows, None])
                slope.mul_(torch.addcmul(shift, factor, log_p, out=log_p))
            slope.scatter_add_(1, targets[rows, None], -slope_logprobs[rows, None])
            slope = slope.to(hidden.dtype)
            grad_hidden[rows] = torch.mm(slope, weight).neg_()
            if grad_weight is not None:
                _add_product(grad_weight, slope.t(), hidden[rows], beta=1.0, alpha=-1.0)
        return grad_hidden, grad_weight, None, None, None


def _chunks(num_tokens: int, chunk: int) -> list[slice]:
    """As few slices as possible, of about the same size."""
    num_chunks = -(-num_tokens // chunk)
    edges = [num_tokens * index // max(1, num_chunks) for index in range(num_chunks + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _buffers(
    weight: torch.Tensor, chunks: list[slice], second: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two times room for one chunk's logits, used again for every chunk: [n, V] each."""
    size = max((rows.stop - rows.start for rows in chunks), default=0), len(weight)
    made = [torch.empty(size, dtype=torch.float32, device=weight.device) for _ in range(2 if second is None else 1)]
    return made[0], made[1] if second is None else second


def _log_softmax(
    hidden: torch.Tensor, weight: torch.Tensor, temperature: float, logits: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """Log-probs of the whole vocabulary, in `out`; `logits` is room to work. [n, V]"""
    rows = slice(0, len(hidden))
    _add_product(logits[rows], hidden, weight.t(), beta=0.0, alpha=1.0 / temperature)
    return torch.log_softmax(logits[rows], 1, out=out[rows])


def _add_product(out: torch.Tensor, left: torch.Tensor, right: torch.Tensor, beta: float, alpha: float) -> None:
    """out = beta out + alpha left right, summed up in fp32 whatever the factors' dtype."""
    if left.dtype == torch.float32:
        torch.addmm(out, left, right, beta=beta, alpha=alpha, out=out)
    elif left.is_cuda:
        torch.addmm(out, left, right, torch.float32, beta=beta, alpha=alpha, out=out)
    else:
        torch.addmm(out, left.float(), right.float(), beta=beta, alpha=alpha, out=out)
