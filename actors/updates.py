"""Every change of the weights: whether they are still a checkpoint's, and which updates were skipped as not finite."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from actors.run_folder import RunFolder, replace_file
from int_ray.errors import RunError
from int_ray.ports import Learner
from int_ray.types import RunState, TrainingSample, Update, UpdateBatches


class NotFinite(RunError):
    """Too many updates in a row had a loss or a gradient that is not finite."""


class Updates:
    """Patches and reinforces."""

    def __init__(self, learner: Learner, folder: RunFolder, most_skipped: int) -> None:
        """`most_skipped` updates in a row end the run (learner.max_skipped_updates)."""
        self.learner = learner
        self.folder = folder
        self.most_skipped = most_skipped
        self.since_boundary = False  # weights were changed, or are being changed, since the last iteration's end

    async def patch(self, state: RunState, batches: UpdateBatches) -> tuple[RunState, Update]:
        """See Learner.patch. Raises NotFinite."""
        return await self._change(state, "patch", batches, self.learner.patch(batches))

    async def reinforce(self, state: RunState, batches: UpdateBatches) -> tuple[RunState, Update]:
        """See Learner.reinforce. Raises NotFinite."""
        return await self._change(state, "reinforce", batches, self.learner.reinforce(batches))

    async def _change(
        self, state: RunState, phase: Literal["patch", "reinforce"], batches: UpdateBatches, work: Awaitable[Update]
    ) -> tuple[RunState, Update]:
        before, self.since_boundary = self.since_boundary, True
        update = await work
        self.since_boundary = before or update.changed_weights
        for index in update.not_finite:
            self._keep(state, phase, index, batches[index])
        row = longest = state.skipped_in_row
        for index in range(len(batches)):
            row = row + 1 if index in update.not_finite else 0
            longest = max(longest, row)
        if update.not_finite and longest >= self.most_skipped:
            raise NotFinite(
                f"{longest} updates in a row were skipped because loss or gradient was not finite "
                f"(learner.max_skipped_updates = {self.most_skipped}); {self.folder.path / 'skipped'} has their batches"
            )
        return replace(state, skipped_in_row=row), update

    def _keep(self, state: RunState, phase: str, index: int, batch: Sequence[TrainingSample]) -> None:
        """Write a batch without an update into `skipped/`, all samples one after the other, and into the journal."""
        name = f"iteration_{state.iteration:06d}-{phase}-{index}.safetensors"
        with self.folder.losses.counted():
            (self.folder.path / "skipped").mkdir(exist_ok=True)
            _write_batch(self.folder.path / "skipped" / name, batch)
        self.folder.journal.write("skipped_update", iteration=state.iteration, phase=phase, batch=name)


def _write_batch(path: Path, batch: Sequence[TrainingSample]) -> None:
    """Sample i is `offsets[i]:offsets[i + 1]` of the arrays of N tokens."""
    from safetensors.numpy import save

    lengths = [len(sample.token_ids) for sample in batch]
    unknown = (np.full(length, np.nan, np.float32) for length in lengths)
    logprobs = [
        nan if sample.rollout_logprobs is None else sample.rollout_logprobs
        for sample, nan in zip(batch, unknown, strict=True)
    ]
    arrays = {
        "token_ids": np.concatenate([sample.token_ids for sample in batch]),  # [N]
        "loss_mask": np.concatenate([sample.loss_mask for sample in batch]),  # [N]
        "rollout_logprobs": np.concatenate(logprobs),  # [N]
        "offsets": np.cumsum([0, *lengths]),  # [samples + 1]
        "advantages": np.array([sample.advantage for sample in batch]),  # [samples]
    }
    replace_file(path, save(arrays))
