"""Random models and batches that look like training: shapes of real checkpoints, lognormal lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from int_ray.types import TrainingSample

if TYPE_CHECKING:
    from transformers import Qwen3Config

QWEN3_VOCABULARY = 151_936
HEAD_CHUNK = {"cpu": 128, "cuda": 1024}  # tokens: the defaults of learner.head_chunk


def qwen3_config(hidden: int, layers: int, vocabulary: int, *, heads: int = 8, head_dim: int = 64) -> Qwen3Config:
    """A Qwen3 with tied embeddings, half as many key heads as query heads and an MLP three times as wide as hidden."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=head_dim,
        max_position_embeddings=40_960,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    )


def lognormal_lengths(count: int, mean: float, sigma: float, longest: int, seed: int = 0) -> list[int]:
    """Lengths of `count` sequences; `mean` is that of the distribution before `longest` cuts it off."""
    drawn = np.random.default_rng(seed).lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return drawn.clip(8, longest).astype(int).tolist()


def lengths_that_sum_to(total: int, mean: float, sigma: float, longest: int, seed: int = 0) -> list[int]:
    """Lognormal lengths of exactly `total` tokens; the last sequence takes what is left."""
    lengths: list[int] = []
    for length in lognormal_lengths(2 * int(total / mean) + 8, mean, sigma, longest, seed):
        if sum(lengths) + length + 8 > total:
            break
        lengths.append(length)
    return [*lengths, total - sum(lengths)]


def training_samples(lengths: Sequence[int], prompt: int, vocabulary: int, seed: int = 0) -> list[TrainingSample]:
    """Random tokens behind a prompt of `prompt` tokens, each sequence with an advantage of its own."""
    random = np.random.default_rng(seed)
    samples: list[TrainingSample] = []
    for length in lengths:
        mask = np.ones(length, np.uint8)
        mask[: min(prompt, length - 1)] = 0
        samples.append(
            TrainingSample(
                token_ids=random.integers(0, vocabulary, length, dtype=np.int32),
                loss_mask=mask,
                advantage=float(random.normal()),
            )
        )
    return samples
