"""The chunked head at a large vocabulary against log-probs and entropy taken from all logits: memory and time."""

from __future__ import annotations

import time

import torch
from torch.nn.functional import linear

from benchmarks.fresh import in_fresh_process
from benchmarks.measure import Figure, Scale, at_most, peak_memory, reset_peak_memory
from benchmarks.workloads import HEAD_CHUNK, QWEN3_VOCABULARY
from int_ray.compute.head import token_logprobs

TEMPERATURE = 0.6
CHUNK = HEAD_CHUNK["cpu"]
Point = dict[str, float]


def run(scale: Scale) -> list[Figure]:
    """Peak memory beyond weight and hidden states, and seconds, of one forward and backward pass."""
    if scale is Scale.TINY:
        return _figures(tokens=256, hidden=32, vocabulary=4096, rounds=1)
    small = [figure for tokens in (512, 1024, 2048) for figure in _figures(tokens, 256, QWEN3_VOCABULARY, rounds=3)]
    # A wider model spends more of its time in the products, which the chunked head has to repeat.
    wide = _figures(512, 1024, QWEN3_VOCABULARY, rounds=3)
    return [*small, *(figure for figure in wide if "time" in figure.name)]


def _figures(tokens: int, hidden: int, vocabulary: int, rounds: int) -> list[Figure]:
    points: list[tuple[Point, Point]] = []
    for _ in range(rounds):
        chunked, naive = (in_fresh_process(measure, kind, tokens, hidden, vocabulary) for kind in ("chunked", "naive"))
        points.append((chunked, naive))
    memory, seconds = ([(ours[key], theirs[key]) for ours, theirs in points] for key in ("bytes", "seconds"))
    gradient = 4 * hidden * vocabulary
    at = f"{tokens}_tokens" + ("" if hidden <= 256 else f"_hidden_{hidden}")
    both = f"{memory[0][0] / 1e6:.0f} of {memory[0][1] / 1e6:.0f} MB, of which both need {gradient / 1e6:.0f} MB"
    return [
        at_most(f"head.memory_over_naive_{at}", memory, round(1 / 7, 3), limit="the weight's gradient", note=both),
        at_most(
            f"head.time_over_naive_{at}",
            seconds,
            1.0,
            limit="4/3 of the products",
            note="the backward pass computes the logits again: a quarter of its products",
        ),
    ]


def measure(kind: str, tokens: int, hidden: int, vocabulary: int) -> Point:
    """One forward and backward pass in this process; run in a fresh one, so that no earlier peak counts."""
    _pass(kind, *_inputs(CHUNK, hidden, 256))  # loads kernels and starts threads
    inputs = _inputs(tokens, hidden, vocabulary)
    reset_peak_memory()
    before = peak_memory()
    started = time.perf_counter()
    _pass(kind, *inputs)
    return {"seconds": time.perf_counter() - started, "bytes": peak_memory() - before}


def _inputs(tokens: int, hidden: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    states = torch.randn(tokens, hidden, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(vocabulary, hidden) * hidden**-0.5)
    return states, weight, torch.randint(0, vocabulary, (tokens,))


def _pass(kind: str, states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    """Gradients of log-probs and entropy, as of a loss that uses both."""
    if kind == "chunked":
        logprobs, entropy = token_logprobs(states, weight, targets, TEMPERATURE, CHUNK)
    else:
        logprobs, entropy = naive_logprobs(states, weight, targets, TEMPERATURE)
    (-logprobs - 0.001 * entropy).mean().backward()


def naive_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as `token_logprobs`, in the usual three lines. [N] each"""
    every = (linear(hidden, weight).float() / temperature).log_softmax(1)  # [N, V]
    entropy = -(every.exp() * every).sum(1)
    return every.gather(1, targets[:, None]).squeeze(1), entropy
