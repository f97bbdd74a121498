"""vLLM's side of the weight transfer over CUDA IPC; runs in vLLM's worker processes, which import it by name."""

from __future__ import annotations

from typing import Any

from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine, IPCWeightTransferUpdateInfo

from actors.ipc_handles import from_plain


class PlainIpcTransfer(IPCWeightTransferEngine):
    """vLLM's own IPC backend, for handles that crossed the process boundary without pickle."""

    def parse_update_info(self, update_dict: dict[str, Any]) -> IPCWeightTransferUpdateInfo:
        """Restore the handles."""
        return super().parse_update_info(update_dict | {"ipc_handles": from_plain(update_dict["ipc_handles"])})


class RegisterBackend:
    """vLLM's worker_extension_cls: naming it makes the worker import this module, and so register the backend."""


WeightTransferEngineFactory.register_engine("plain_ipc", PlainIpcTransfer)
