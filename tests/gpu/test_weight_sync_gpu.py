"""vLLM's own weight transfer: NCCL to an engine on another GPU, CUDA IPC to an engine on the learner's GPU."""

from __future__ import annotations

import asyncio
import importlib.util
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import ray
import torch

from actors import local_ray
from actors.colocated import ColocatedLearner, LearnerInTurn
from actors.engine_client import RemoteEngine, Sampling
from actors.fleet import Fleet
from actors.learner_rank import LearnerRank, LearnerSettings
from actors.rollout_engine import RolloutEngine
from actors.weight_senders import WeightSender
from actors.weight_sync import EngineWeightSync, WeightSyncError, weight_sender
from int_ray.config import ModelConfig, RolloutConfig
from int_ray.training_config import LearnerConfig, PatchConfig, PatchOptimizerConfig, ReinforceConfig
from int_ray.types import Logprobs, TokenIds, TrainingSample, Update, UpdateBatches
from tests.factories import tiny_checkpoint
from tests.fakes import FakeProgress

PROMPT = np.arange(10, 30, dtype=np.int32)
NEEDED_GPUS = {"nccl": 2, "ipc": 1}
CLOSE = 0.1  # log-probs of bfloat16
LEARNT = np.random.default_rng(0).integers(5, 260, 40).astype(np.int32)
MASK = np.array([0] + [1] * 39, np.uint8)
BATCHES = [[TrainingSample(LEARNT, MASK)]] * 3
OTHER_BATCHES = [[TrainingSample(LEARNT[::-1].copy(), MASK)]] * 3

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
]


class OneRank:
    """A learner of one rank, on a GPU that an engine may share."""

    starts = 1

    def __init__(self, settings: LearnerSettings, num_gpus: float) -> None:
        spawn: Any = ray.remote(LearnerRank).options(num_cpus=0, num_gpus=num_gpus)
        self.rank = spawn.remote(settings, 0, "tcp://127.0.0.1:29517")

    async def open_weight_sender(self, sender: WeightSender) -> None:
        await self.rank.open_weight_sender.remote(sender)

    async def send_weights(self) -> object:
        return await self.rank.send_weights.remote()

    async def logprobs(self, token_ids: TokenIds, temperature: float) -> Logprobs:
        return await self.rank.logprobs.remote(token_ids, temperature)

    async def patch(self, batches: UpdateBatches) -> Update:
        self.free_bytes = torch.cuda.mem_get_info()[0]  # on the GPU, when the learner begins
        return await self.rank.patch.remote(batches)


class Stand:
    """A learner and an engine; with `ipc` they share a GPU, and the engine sleeps while the learner works."""

    def __init__(self, path: Path, backend: Literal["nccl", "ipc"], *, sleep: bool) -> None:
        model = ModelConfig(path=str(path), dtype="bfloat16", max_length=400)
        rollout = RolloutConfig(max_tokens=40, gpu_memory_utilization=0.3, sleep=sleep)
        learner = LearnerConfig(weight_sync=backend, canary_tolerance=CLOSE, deadline_s=120)
        optimizer = PatchOptimizerConfig(learning_rate=3e-3, lr_schedule="constant", warmup_ratio=0.0)
        settings = LearnerSettings(
            model, learner, PatchConfig(optimizer=optimizer), ReinforceConfig(kl_coef=0), 0.6, 1, 0
        )
        share = 1.0 if backend == "nccl" else 0.4
        self.rank = OneRank(settings, share)
        spawn: Any = ray.remote(RolloutEngine).options(num_cpus=0, num_gpus=share, max_concurrency=16)
        self.engine = RemoteEngine(spawn.remote(model, rollout, learner))
        fleet = Fleet([self.engine], 2 * rollout.max_num_seqs, FakeProgress())
        whole: Any = self.rank  # patches and sends, which is all that is asked of it here
        self.learner = ColocatedLearner(whole, fleet, learner.deadline_s) if sleep else LearnerInTurn(whole, fleet)
        new_sender = partial(weight_sender, model, rollout, learner)
        self.sync = EngineWeightSync(fleet, self.learner, new_sender, PROMPT, 0.6, learner)


async def publish_twice(path: Path, backend: Literal["nccl", "ipc"]) -> list[float]:
    """Canary errors of two syncs with a patch between them; a third one, of stale weights, must fail."""
    stand = Stand(path, backend, sleep=False)
    await stand.engine.start()
    errors = [(await stand.sync.publish(1))["sync/canary_error"]]
    await stand.learner.patch(BATCHES)
    errors.append((await stand.sync.publish(2))["sync/canary_error"])
    await stand.learner.patch(OTHER_BATCHES)
    if (await stand.sync._canary_errors([await stand.engine.canary(PROMPT, 2)]))[0] <= CLOSE:
        raise WeightSyncError("the canary does not notice weights that were never sent")
    await stand.engine.close()
    return errors


async def take_turns(path: Path) -> tuple[list[int], list[int], list[float]]:
    """Two cycles of sleep, learn, publish, sample: free bytes before and while the learner works, canary errors."""
    stand = Stand(path, "ipc", sleep=True)
    await stand.engine.start()
    errors = [(await stand.sync.publish(1))["sync/canary_error"]]
    awake, asleep = [], []
    for version, batches in ((2, BATCHES), (3, OTHER_BATCHES)):
        awake.append(torch.cuda.mem_get_info()[0])
        await stand.learner.patch(batches)
        asleep.append(stand.rank.free_bytes)
        errors.append((await stand.sync.publish(version))["sync/canary_error"])
        group = await stand.engine.sample_group(PROMPT, np.array([], np.int32), Sampling(4, 16, 0.6))
        assert group.policy_version == version and len(group.texts) == 4
    await stand.engine.close()
    return awake, asleep, errors


@pytest.mark.parametrize("backend", ["nccl", "ipc"])
@pytest.mark.parametrize("tied", [True, False])
def test_native_backends_bring_the_learners_weights(tmp_path: Path, backend: Literal["nccl", "ipc"], tied: bool):
    if torch.cuda.device_count() < NEEDED_GPUS[backend]:
        pytest.skip(f"{backend} needs {NEEDED_GPUS[backend]} CUDA GPU(s); found {torch.cuda.device_count()}")
    local_ray.connect(None)
    try:
        errors = asyncio.run(publish_twice(tiny_checkpoint(tmp_path, tied=tied), backend))
    finally:
        local_ray.disconnect()
    assert max(errors) <= CLOSE


def test_an_engine_sleeps_while_the_learner_works_on_its_gpu_and_samples_with_what_it_learned(tmp_path: Path):
    if not torch.cuda.device_count():
        pytest.skip("ipc needs 1 CUDA GPU; found 0")
    local_ray.connect(None)
    try:
        awake, asleep, errors = asyncio.run(take_turns(tiny_checkpoint(tmp_path)))
    finally:
        local_ray.disconnect()
    assert max(errors) <= CLOSE
    engine_bytes = 0.3 * torch.cuda.mem_get_info()[1]  # rollout.gpu_memory_utilization
    # Its cache is gone while it sleeps, and back before the next turn.
    assert all(free - before > engine_bytes / 2 for before, free in zip(awake, asleep, strict=True))
    assert abs(awake[1] - awake[0]) < engine_bytes / 2
