"""vLLM's side of the weight transfer over NCCL; runs in vLLM's worker processes, which import it by name."""

from __future__ import annotations

from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine, NCCLWeightTransferInitInfo


class ClosingNcclTransfer(NCCLWeightTransferEngine):
    """vLLM's own NCCL backend; ends the group before, whose memory on the GPU would be lost, when it joins another."""

    def init_transfer_engine(self, init_info: NCCLWeightTransferInitInfo) -> None:
        """Whenever the learner or the receivers are others than before."""
        if self.model_update_group is not None:
            self.model_update_group.destroy()
            self.model_update_group = None
        super().init_transfer_engine(init_info)


class RegisterBackend:
    """vLLM's worker_extension_cls: naming it makes the worker import this module, and so register the backend."""


WeightTransferEngineFactory.register_engine("closing_nccl", ClosingNcclTransfer)
