"""A weight sender that loses a tensor. In a module of its own, so that the learner's ranks can import it."""

from __future__ import annotations

import torch

from actors.weight_senders import SharedMemorySender


class CorruptingSender(SharedMemorySender):
    """Loses one tensor: the norm of the last layer arrives as zeros."""

    def send(self, model: torch.nn.Module, is_main: bool) -> None:
        super().send(model, is_main)
        if is_main:
            self._slots[-1].zero_()
            self.client.start_weight_update()
            self.client.update_weights({"first": 0, "end": len(self._slots)})
            self.client.finish_weight_update()
