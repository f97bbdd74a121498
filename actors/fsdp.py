"""The process group and FSDP2 sharding of one learner rank."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from int_ray.config import ModelConfig
from int_ray.training_config import LearnerConfig


def join_ranks(config: LearnerConfig, rank: int, init_method: str) -> DeviceMesh:
    """Meet the other ranks; a collective that waits longer than `deadline_s` fails."""
    if config.device == "cpu":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # CPU ranks share one machine: open no other interface
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // config.num_ranks))
    else:
        torch.cuda.set_device(0)  # Ray shows every rank its own GPU only
    dist.init_process_group(
        "gloo" if config.device == "cpu" else "nccl",
        init_method=init_method,
        rank=rank,
        world_size=config.num_ranks,
        timeout=timedelta(seconds=config.deadline_s),
    )
    return init_device_mesh(config.device, (config.num_ranks,))


def load_sharded(path: str, config: ModelConfig, mesh: DeviceMesh) -> PreTrainedModel:
    """A checkpoint as fp32 masters sharded over the ranks; computes in bf16 on CUDA if `config.dtype` says so.

    The model stays in evaluation mode: dropout would make recomputed log-probs differ.
    """
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path,
        revision=config.revision if path == config.path else None,
        dtype=torch.float32,
        trust_remote_code=False,
        use_safetensors=True,
    )
    low_precision = mesh.device_type == "cuda" and config.dtype == "bfloat16"
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if low_precision else torch.float32, reduce_dtype=torch.float32
    )
    layers = cast(nn.ModuleList, model.get_decoder().layers)
    for module in [*layers, model]:
        # The root too is resharded after a forward: left gathered, it would miss weights that change without a
        # backward pass, as the reference's do.
        fully_shard(module, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
    return model


def sync_gradients(model: PreTrainedModel, on: bool) -> None:
    """Whether the next backward pass reduces gradients over the ranks, or adds to what they hold."""
    cast(FSDPModule, model).set_requires_gradient_sync(on)


def copy_weights(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Copy every rank's own shards; both models are sharded alike."""
    with torch.no_grad():
        for target_parameter, parameter in zip(target.parameters(), source.parameters(), strict=True):
            target_parameter.copy_(parameter)


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor on the CPU; all ranks must take part if it is sharded."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu()


def scatter_like(full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's part of a full tensor that every rank holds, sharded as `like` is."""
    sharded = cast(DTensor, like)
    return distribute_tensor(full.to(sharded.device), sharded.device_mesh, sharded.placements, src_data_rank=None)
