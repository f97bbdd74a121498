"""A learner rank that tells a Story. In a module of its own, so that engines need not import torch."""

from __future__ import annotations

from typing import Any

from actors.learner_rank import LearnerRank, LearnerSettings
from int_ray.types import Update, UpdateBatches
from tests.stand_ins import Story


class ToldRank(LearnerRank):
    """Says what it is about to do, and waits where a test holds it."""

    def __init__(self, settings: LearnerSettings, rank: int, *rest: Any) -> None:
        super().__init__(settings, rank, *rest)
        self._told_rank = rank
        Story().tell("rank", rank=rank)

    def patch(self, batches: UpdateBatches) -> Update:
        Story().arrive("patching", rank=self._told_rank)
        return super().patch(batches)

    def reinforce(self, batches: UpdateBatches) -> Update:
        Story().arrive("reinforcing", rank=self._told_rank)
        return super().reinforce(batches)
