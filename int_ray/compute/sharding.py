"""The process group and FSDP2 sharding of one learner rank."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor

from int_ray.compute.policy import Policy

if TYPE_CHECKING:
    from int_ray.training_config import LearnerConfig


def join_ranks(config: LearnerConfig, rank: int, init_method: str) -> DeviceMesh:
    """Meet the other ranks. From then on a collective that waits longer than `collective_timeout_s` fails."""
    if config.device == "cpu":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # CPU ranks share one machine: open no other interface
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // config.num_ranks))
    else:
        torch.cuda.set_device(0)  # Ray shows every rank its own GPU only
    startup = timedelta(seconds=config.startup_deadline_s)
    # The others may take long to start. Whoever is late afterwards has died, or hangs.
    store, _, _ = next(rendezvous(init_method, rank, config.num_ranks, timeout=startup))
    store.set(f"here {rank}", "")
    store.wait([f"here {other}" for other in range(config.num_ranks)], startup)
    dist.init_process_group(
        "gloo" if config.device == "cpu" else "nccl",
        store=store,
        rank=rank,
        world_size=config.num_ranks,
        timeout=timedelta(seconds=min(config.collective_timeout_s, config.deadline_s)),
    )
    return init_device_mesh(config.device, (config.num_ranks,))


def shard(policy: Policy, mesh: DeviceMesh, dtype: torch.dtype, offload: bool = False) -> Policy:
    """Shard the parameters over the ranks, in the dtype they have; compute in `dtype` and reduce gradients in fp32.

    `offload`: the shards wait in CPU memory. A single CPU rank has nothing to shard and is left as it is.
    """
    if mesh.size() == 1 and mesh.device_type == "cpu":
        return policy
    options = {
        "mesh": mesh,
        # Tensors already come in the right dtype, and a frozen batch could not be changed.
        "mp_policy": MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False),
        "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
        # The root too is resharded after a forward: left gathered, it would miss weights that change without a
        # backward pass, as the reference's do.
        "reshard_after_forward": True,
    }
    for module in [*decoder_layers(policy), policy]:
        fully_shard(module, **options)
    return policy


def decoder_layers(policy: Policy) -> nn.ModuleList:
    """The blocks that are sharded, checkpointed and compiled one by one."""
    return cast(nn.ModuleList, policy.model.get_decoder().layers)


def sync_gradients(policy: Policy, on: bool) -> None:
    """Whether the next backward pass reduces gradients over the ranks, or adds to what they hold."""
    if isinstance(policy, FSDPModule):
        policy.set_requires_gradient_sync(on)


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy every rank's own shards; both models are sharded alike, dtypes and devices may differ."""
    for target_parameter, parameter in zip(target.parameters(), source.parameters(), strict=True):
        local(target_parameter).copy_(local(parameter))


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor, sharded or not."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor on the CPU; all ranks must take part if it is sharded."""
    return unshard(tensor).detach().cpu()


def unshard(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor; all ranks must take part if it is sharded."""
    if not isinstance(tensor, DTensor):
        return tensor
    # An offloaded shard is on the CPU, where its mesh cannot communicate.
    return cast(DTensor, tensor.to(tensor.device_mesh.device_type)).full_tensor()


def scatter_like(full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's part of a full tensor that every rank holds, sharded as `like` is."""
    full = full.to(like.device)
    if not isinstance(like, DTensor):
        return full
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
