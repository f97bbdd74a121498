"""Speed and memory as ratios within one run; prints, and asserts nothing about time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from int_ray.batching import plan_micro_batches
from int_ray.losses.logprobs import token_logprobs


def median_ratio(ours: Callable[[], object], baseline: Callable[[], object], pairs: int = 5) -> tuple[float, float]:
    """Median of `pairs` interleaved time ratios after one warm-up each, and their interquartile range."""
    ours(), baseline()
    ratios = sorted(_seconds(ours) / _seconds(baseline) for _ in range(pairs))
    quartiles = statistics.quantiles(ratios, n=4)
    return statistics.median(ratios), quartiles[2] - quartiles[0]


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def test_padding_waste_and_rank_imbalance():
    lengths = np.random.default_rng(0).lognormal(7, 0.8, 512).clip(16, 8192).astype(int).tolist()
    started = time.perf_counter()
    plan = plan_micro_batches(lengths, num_ranks=8, token_budget=16384)
    seconds = time.perf_counter() - started
    padded = sum(len(batch) * max(lengths[i] for i in batch) for rank in plan for batch in rank if batch)
    tokens = [sum(lengths[i] for batch in rank for i in batch) for rank in plan]
    naive = len(lengths) * max(lengths)
    print(
        f"\npadding waste {1 - sum(lengths) / padded:.1%} (all padded to the longest: {1 - sum(lengths) / naive:.1%})"
    )
    print(f"rank imbalance max/mean {max(tokens) * len(tokens) / sum(tokens):.4f}; planned in {seconds * 1e3:.0f} ms")


def test_token_logprobs_against_log_softmax():
    logits = torch.randn(1, 768, 32768)
    token_ids = torch.randint(0, 32768, (1, 768))

    def naive() -> None:
        leaf = logits.clone().requires_grad_()
        log_p = (leaf / 0.6).log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        (log_p.gather(-1, token_ids[..., None]).sum() + entropy.sum()).backward()

    def ours() -> None:
        leaf = logits.clone().requires_grad_()
        logprobs, entropy = token_logprobs(leaf, token_ids, 0.6)
        (logprobs.sum() + entropy.sum()).backward()

    ratio, spread = median_ratio(ours, naive)
    print(f"\nlog-probs and entropy with gradients: {ratio:.2f} of the naive time (spread {spread:.2f})")
