"""Causal attention within the documents of a packed sequence, as attention functions of transformers.

None of them ever builds a T x T mask: transformers makes no mask for functions that it does not know.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

Kernel = Literal["flash_attention_2", "varlen", "sdpa"]
# (query [T, Hq, E], key [T, Hkv, E], value [T, Hkv, E], boundaries [D + 1], longest, scale) -> [T, Hq, E]
PackedAttention = Callable[..., torch.Tensor]

VARLEN_KNOWS_GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters  # from torch 2.12 on


def packed_attention(kernel: Literal["auto"] | Kernel, device: str, dtype: torch.dtype) -> str:
    """Register the attention of packed sequences; returns its name for transformers' `attn_implementation`.

    Raises ImportError if the kernel's package cannot be loaded.
    """
    if kernel == "auto":
        kernel = _best(device, dtype)
    if kernel == "flash_attention_2":
        import_module("flash_attn")  # now, so that its operation is there when layers choose what to keep
    attend = {"flash_attention_2": _flash, "varlen": _varlen, "sdpa": _sdpa}[kernel]
    name = f"int_ray_{kernel.removesuffix('_attention_2')}_packed"
    AttentionInterface.register(name, _as_transformers_calls_it(attend))
    return name


def _best(device: str, dtype: torch.dtype) -> Kernel:
    """The first kernel that fits: flash attention needs CUDA and half precision."""
    if device != "cuda" or dtype != torch.bfloat16:
        return "sdpa"
    return "flash_attention_2" if find_spec("flash_attn") else "varlen"


def _as_transformers_calls_it(attend: PackedAttention) -> Callable[..., tuple[torch.Tensor, None]]:
    """[1, heads, T, E] in, [1, T, heads, E] out; the boundaries come through the model's keyword arguments."""

    def packed(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: None,
        *,
        cu_seq_lens_q: torch.Tensor,
        max_length_q: int,
        scaling: float | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
        return attend(q, k, v, cu_seq_lens_q, max_length_q, scaling)[None], None

    return packed


@torch.compiler.disable  # the number of documents changes with every batch
def _sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: torch.Tensor,
    longest: int,
    scale: float | None,
) -> torch.Tensor:
    """One call of torch's fused attention per document."""
    lengths = boundaries.diff().tolist()
    grouped = query.shape[1] != key.shape[1]
    # Split once: a slice per document would make the backward pass quadratic in their number.
    parts = (states.transpose(0, 1)[None].split(lengths, dim=2) for states in (query, key, value))
    outputs = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat([output[0].transpose(0, 1) for output in outputs])


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: torch.Tensor,
    longest: int,
    scale: float | None,
) -> torch.Tensor:
    """torch's own variable-length attention, on CUDA."""
    options: dict[str, Any] = {"scale": scale, "window_size": (-1, 0)}  # causal
    if VARLEN_KNOWS_GROUPS:
        options["enable_gqa"] = query.shape[1] != key.shape[1]
    else:
        repeats = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(repeats, dim=1) for states in (key, value))
    output = varlen_attn(query, key, value, boundaries, boundaries, longest, longest, **options)
    assert isinstance(output, torch.Tensor)  # it has a second result only if asked for one
    return output


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: torch.Tensor,
    longest: int,
    scale: float | None,
) -> torch.Tensor:
    """The flash-attn package, on CUDA."""
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    return flash_attn_varlen_func(
        query, key, value, boundaries, boundaries, longest, longest, softmax_scale=scale, causal=True
    )
