"""The learner's side of a weight sync: strategies that every rank runs; rank 0 alone writes and calls the engines."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import ray
import torch
from torch.distributed.tensor import DTensor

from actors.update_client import UpdateClient

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer.base import TrainerInitInfo, TrainerWeightTransferEngine, WeightSource

PART_BYTES = 2**26  # engines load this much while the next so much is copied
ALIGNMENT = 64  # bytes; parameters start at multiples of it, so that they can be viewed as any dtype


class WeightSender(Protocol):
    """What `open_weight_sender` hands to every rank of the learner."""

    dtype: str  # of the weights on the way, which is the engines'

    def send(self, model: torch.nn.Module, is_main: bool) -> None:
        """Bring the model's weights to every engine. Collective: all ranks call it, in step."""
        ...

    def close(self) -> None:
        """Give back what it holds; it sends nothing more."""
        ...


@dataclass(frozen=True, slots=True)
class Parameter:
    """Name, full shape and dtype on the way of a parameter, as vLLM's trainer side asks for them."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size on the way."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


class FullWeights:
    """A sharded model's parameters, gathered one at a time and cast to the engines' dtype.

    Iterating is a collective: every rank must do it, to the end. Has the shape of vLLM's WeightSource.

    From the last parameter to the first: no engine can begin before a first part has arrived, and the embedding, which
    comes first in every model, is its largest parameter.
    """

    def __init__(self, model: torch.nn.Module, dtype: str) -> None:
        self.model = model
        self.dtype: torch.dtype = getattr(torch, dtype)

    def metadata(self) -> list[Parameter]:
        """What iterating will yield; gathers nothing."""
        return [Parameter(name, self.dtype, tuple(parameter.shape)) for name, parameter in self._named()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, full in self.uncast():
            yield name, full.to(self.dtype)

    def uncast(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The same in the learner's dtype."""
        for name, parameter in self._named():
            weight = parameter.detach()
            yield name, weight.full_tensor() if isinstance(weight, DTensor) else weight

    def _named(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return reversed(list(self.model.named_parameters()))


class SharedMemorySender:
    """One file in /dev/shm that rank 0 writes and every engine has mapped. Learner and engines share one machine.

    The file is unlinked once all have mapped it, so that its memory goes with the processes, however they end.
    """

    def __init__(self, client: UpdateClient, dtype: str) -> None:
        self.client = client
        self.dtype = dtype
        self._slots: list[torch.Tensor] = []  # views of the file, one per parameter

    def send(self, model: torch.nn.Module, is_main: bool) -> None:
        """Gather on all ranks; on rank 0 copy into the file. The engines load each part while the next is copied."""
        weights = FullWeights(model, self.dtype)
        if not is_main:
            deque(weights.uncast(), maxlen=0)
            return
        if not self._slots:
            self._slots = self._open(weights.metadata())
        self.client.start_weight_update()
        loading: list[Callable[[], None]] = []
        copies: list[Future[None]] = []
        first, num_bytes = 0, 0
        with copying_threads() as threads:
            for index, (_, weight) in enumerate(weights.uncast()):
                copies.append(threads.submit(copy_weight, weight, self._slots[index]))
                num_bytes += self._slots[index].nbytes
                if num_bytes >= PART_BYTES or index == len(self._slots) - 1:
                    for copy in copies:
                        copy.result()
                    loading.append(self.client.begin_update({"first": first, "end": index + 1}))
                    copies, first, num_bytes = [], index + 1, 0
        for wait in loading:
            wait()
        self.client.finish_weight_update()

    def close(self) -> None:
        """See WeightSender."""
        self._slots = []

    def _open(self, parameters: Sequence[Parameter]) -> list[torch.Tensor]:
        sizes = [-(-parameter.num_bytes // ALIGNMENT) * ALIGNMENT for parameter in parameters]
        *offsets, total = accumulate(sizes, initial=0)
        # mkstemp underneath: a new file, mode 0600.
        with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="int_ray-") as file:
            allocate(file.fileno(), total)
            buffer = torch.from_file(file.name, shared=True, size=total, dtype=torch.uint8)
            layout = {
                "names": [parameter.name for parameter in parameters],
                "dtype_names": [self.dtype] * len(parameters),
                "shapes": [list(parameter.shape) for parameter in parameters],
                "offsets": offsets,
            }
            self.client.init_weight_transfer_engine({"path": file.name, "num_bytes": total, **layout})
        return [
            buffer[offset : offset + parameter.num_bytes].view(parameter.dtype).view(parameter.shape)
            for parameter, offset in zip(parameters, offsets, strict=True)
        ]


@contextmanager
def copying_threads() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch has, each of which copies a tensor of its own.

    All of torch's threads on one tensor would wait for the slowest at each, while engines beside them need the cores.
    """
    count = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as threads:
            yield threads
    finally:
        torch.set_num_threads(count)


def copy_weight(weight: torch.Tensor, slot: torch.Tensor) -> None:
    """Copy, casting in the same pass where the dtypes differ; where they do not, memcpy is twice as fast as torch."""
    if weight.dtype == slot.dtype and weight.is_contiguous():
        np.copyto(slot.flatten().view(torch.uint8).numpy(), weight.flatten().view(torch.uint8).numpy())
    else:
        slot.copy_(weight)


def allocate(descriptor: int, num_bytes: int) -> None:
    """Reserve and touch a file's pages: a full /dev/shm is an OSError here, and would be a SIGBUS at a later write."""
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        size = f"{num_bytes / 2**20:.0f} MiB"
        message = f"no room for {size} of weights in /dev/shm: enlarge it (docker run --shm-size)"
        raise OSError(errno.ENOSPC, message) from None


class NativeSender:
    """vLLM's own trainer side: NCCL broadcast to other GPUs, or CUDA IPC to engines on the learner's GPUs."""

    def __init__(self, client: UpdateClient, dtype: str, backend: Literal["nccl", "ipc"]) -> None:
        self.client = client
        self.dtype = dtype
        self.backend = backend
        self._trainer: TrainerWeightTransferEngine[Any] | None = None

    def send(self, model: torch.nn.Module, is_main: bool) -> None:
        """Send every parameter; vLLM's side gathers on all ranks and transmits from rank 0."""
        if self._trainer is None:
            self._trainer = self._open(model, is_main)
        cast(FullWeights, self._trainer.source).model = model  # another one after the learner loaded a checkpoint
        self._trainer.send_weights()

    def close(self) -> None:
        """See WeightSender. vLLM's `shutdown` only forgets its NCCL communicator, which has memory on the GPU."""
        trainer: Any = self._trainer
        if self.backend == "nccl" and trainer is not None and trainer.model_update_group is not None:
            trainer.model_update_group.destroy()
        self._trainer = None

    def _open(self, model: torch.nn.Module, is_main: bool) -> TrainerWeightTransferEngine[Any]:
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        source = cast("WeightSource", FullWeights(model, self.dtype))
        info = self._init_info(rank=0 if is_main else 1)  # vLLM asks only whether it is rank 0
        return WeightTransferTrainerFactory.trainer_init(info, client=self.client, source=source)

    def _init_info(self, rank: int) -> TrainerInitInfo:
        if self.backend == "ipc":
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

            return IPCTrainerInitInfo(packed=True, rank=rank)
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        workers = len(self.client.engines) * self.client.workers_per_engine
        return NCCLTrainerInitInfo(ray.util.get_node_ip_address(), port, world_size=1 + workers, rank=rank)
