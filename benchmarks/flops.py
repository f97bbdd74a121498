"""Exact floating-point operations of a dense decoder, from the lengths of its documents, and what devices can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Dense bf16 peak in operations per second, by a part of the device's name; the first that fits counts.
PEAK_BF16 = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}


def peak_flops(device_name: str) -> float | None:
    """The device's dense bf16 peak; None where it is not known, so that no share of it can be given."""
    return next((peak for part, peak in PEAK_BF16.items() if part in device_name), None)


def train_flops(config: PretrainedConfig, lengths: Sequence[int], trained_tokens: int) -> int:
    """Forward and backward of one packed batch. Recomputation is not counted: it is no useful work."""
    return 3 * forward_flops(config, lengths, trained_tokens)


def forward_flops(config: PretrainedConfig, lengths: Sequence[int], scored_tokens: int) -> int:
    """Multiplications and additions of one forward pass over documents of these lengths.

    Matrix products only. Attention is causal within each document; the head sees the scored tokens alone.
    """
    head = 2 * config.hidden_size * config.vocab_size * scored_tokens
    attended = sum(length * (length + 1) // 2 for length in lengths)  # pairs of query and key
    # Scores and their sums of values: two products per pair, head and dimension.
    attention = 4 * config.num_attention_heads * config.head_dim * attended
    return config.num_hidden_layers * (2 * layer_weights(config) * sum(lengths) + attention) + head


def layer_weights(config: PretrainedConfig) -> int:
    """Matrix weights of one layer: four attention projections and the three matrices of a gated MLP."""
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    return config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)
