"""Checkpoint or model -> a policy that is ready to train, or a frozen reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModelForCausalLM, PreTrainedModel

from int_ray.compute.attention import packed_attention
from int_ray.compute.layers import prepare_layers
from int_ray.compute.policy import Policy
from int_ray.compute.sharding import decoder_layers, shard

if TYPE_CHECKING:
    from int_ray.config import ModelConfig
    from int_ray.training_config import LearnerConfig


def compute_dtype(config: ModelConfig, device: str) -> torch.dtype:
    """bf16 on CUDA if the engines' dtype is, else fp32."""
    return torch.bfloat16 if device == "cuda" and config.dtype == "bfloat16" else torch.float32


def load_model(path: str, config: ModelConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A checkpoint on the CPU."""
    return AutoModelForCausalLM.from_pretrained(
        path,
        revision=config.revision if path == config.path else None,
        dtype=dtype,
        trust_remote_code=False,
        use_safetensors=True,
    )


def make_policy(model: PreTrainedModel, config: LearnerConfig, dtype: torch.dtype, mesh: DeviceMesh) -> Policy:
    """Sharded over the ranks with the model's own parameters, fp32, as masters; computes in `dtype`."""
    policy = _attending(model, config, dtype)
    prepare_layers(decoder_layers(policy), config.activation_checkpointing, config.compile)
    return shard(policy, mesh, dtype)


def make_reference(model: PreTrainedModel, config: LearnerConfig, dtype: torch.dtype, mesh: DeviceMesh) -> Policy:
    """The same for a model that stays as it is and whose parameters are in `dtype`; offloaded if the config says so."""
    reference = _attending(model, config, dtype).requires_grad_(False)
    prepare_layers(decoder_layers(reference), "none", config.compile)
    return shard(reference, mesh, dtype, offload=config.offload_reference)


def _attending(model: PreTrainedModel, config: LearnerConfig, dtype: torch.dtype) -> Policy:
    model.set_attn_implementation(packed_attention(config.attention, config.device, dtype))
    return Policy(model, config.head_chunk)
