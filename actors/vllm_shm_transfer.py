"""vLLM's side of the weight transfer over shared memory; runs in vLLM's worker processes, which import it by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload


@dataclass
class SharedMemoryInit(WeightTransferInitInfo):
    """Where each parameter lies in the learner's file; fixed for a run. The lists run in parallel."""

    path: str
    num_bytes: int
    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    offsets: list[int]  # bytes


@dataclass
class SharedMemoryUpdate(WeightTransferUpdateInfo):
    """Which of the parameters are new: `first` to `end`, without it. They lie where the old ones lay."""

    first: int
    end: int


class SharedMemoryTransfer(WeightTransferEngine[SharedMemoryInit, SharedMemoryUpdate]):
    """Maps the learner's file once and loads the model from it at every update."""

    init_info_cls = SharedMemoryInit
    update_info_cls = SharedMemoryUpdate

    def init_transfer_engine(self, init_info: SharedMemoryInit) -> None:
        """Map the file. It needs no path afterwards: the learner unlinks it."""
        buffer = torch.from_file(init_info.path, shared=True, size=init_info.num_bytes, dtype=torch.uint8)
        self._weights: list[tuple[str, torch.Tensor]] = []
        for name, dtype_name, shape, offset in zip(
            init_info.names, init_info.dtype_names, init_info.shapes, init_info.offsets, strict=True
        ):
            dtype = getattr(torch, dtype_name)
            size = dtype.itemsize * torch.Size(shape).numel()
            self._weights.append((name, buffer[offset : offset + size].view(dtype).view(shape)))

    def start_weight_update(self) -> None:
        """Have vLLM collect each layer's weights before it repacks them."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: SharedMemoryUpdate) -> None:
        """Load some parameters from the file."""
        model: Any = self.model
        model.load_weights(self._weights[update_info.first : update_info.end])

    def finish_weight_update(self) -> None:
        """Repack what is left, and the output head that shares the input embedding's weight.

        On CPU the head keeps a packed copy of its own; vLLM's reload sees no weights for it and leaves the copy stale.
        """
        finalize_layerwise_reload(self.model, self.model_config)
        model: Any = self.model
        if self.model_config.hf_config.tie_word_embeddings:
            head = model.lm_head
            head.weight = model.model.embed_tokens.weight
            head.quant_method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        """Nothing to undo: the mapping ends with the process."""


class RegisterBackend:
    """vLLM's worker_extension_cls: naming it makes the worker import this module, and so register the backend."""


WeightTransferEngineFactory.register_engine("shm", SharedMemoryTransfer)
