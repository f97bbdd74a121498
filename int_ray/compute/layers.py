"""Activation checkpointing and compilation, layer by layer. No module is wrapped: parameters keep their names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

Checkpointing = Literal["none", "selective", "full"]
Forward = Callable[..., Any]  # (layer, hidden states, ...) -> hidden states


def prepare_layers(layers: nn.ModuleList, checkpointing: Checkpointing, compile_layers: bool) -> None:
    """Change how the layers run. Must come before they are sharded: gathering stays outside."""
    forward: Forward = type(layers[0]).forward
    if checkpointing != "none":
        forward = _checkpointed(forward, selective=checkpointing == "selective")
    if compile_layers:
        forward = torch.compile(forward)  # one function of the layer, so that all layers share what is compiled
    for layer in layers:
        layer.forward = MethodType(forward, layer)


def _checkpointed(forward: Forward, selective: bool) -> Forward:
    """Recompute in the backward pass: everything, or all but matrix products and attention."""
    contexts = {"context_fn": partial(create_selective_checkpoint_contexts, _kept_operations())} if selective else {}

    def run(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # Nothing is random: dropout is off.
        return checkpoint(forward, layer, *args, use_reentrant=False, preserve_rng_state=False, **contexts, **kwargs)

    return run


def _kept_operations() -> list[Any]:
    """What is dear to compute: matrix products, and attention in each of its implementations that is loaded."""
    aten = torch.ops.aten
    kept: list[Any] = [
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
    ]
    for library, name in (("torch_attn", "_varlen_attn"), ("flash_attn", "_flash_attn_varlen_forward")):
        if hasattr(getattr(torch.ops, library), name):
            kept.append(getattr(getattr(torch.ops, library), name).default)
    return kept
