"""Which models the learner can compute, as far as their configuration tells. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# What some architectures do to the logits after their output head.
LOGIT_CHANGES = ("final_logit_softcapping", "logits_scaling", "logit_scale")


def untrainable(config: PretrainedConfig) -> list[str]:
    """One line for each thing in which the learner would compute something else than the model; usually empty."""
    attention, logits = _special_attention(config), _logit_changes(config)
    lines = []
    if attention:
        lines.append(f"{config.model_type} has {', '.join(attention)}; the learner knows full causal attention only")
    if logits:
        lines.append(f"{config.model_type} has {', '.join(logits)}; the learner knows logits without changes only")
    return [f"model.path: {line}" for line in lines]


def _special_attention(config: PretrainedConfig) -> list[str]:
    """What is not plain causal attention."""
    layer_types = getattr(config, "layer_types", None) or ["full_attention"]
    kinds: set[str] = set(layer_types) - {"full_attention"}
    if getattr(config, "attn_logit_softcapping", None):
        kinds.add("attn_logit_softcapping")
    if not hasattr(config, "layer_types") and getattr(config, "sliding_window", None):
        kinds.add("sliding_window")
    return sorted(kinds)


def _logit_changes(config: PretrainedConfig) -> list[str]:
    """What happens to the product of hidden states and the head's weight."""
    return [name for name in LOGIT_CHANGES if getattr(config, name, None) not in (None, 1.0)]
