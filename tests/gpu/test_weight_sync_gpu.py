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
from actors.engine_client import RemoteEngine
from actors.fleet import Fleet
from actors.learner_rank import LearnerRank, LearnerSettings
from actors.rollout_engine import RolloutEngine
from actors.weight_senders import WeightSender
from actors.weight_sync import EngineWeightSync, WeightSyncError, weight_sender
from int_ray.config import ModelConfig, RolloutConfig
from int_ray.training_config import LearnerConfig, PatchConfig, PatchOptimizerConfig, ReinforceConfig
from int_ray.types import Logprobs, TokenIds, TrainingSample
from tests.factories import tiny_checkpoint
from tests.fakes import FakeProgress

PROMPT = np.arange(10, 30, dtype=np.int32)
NEEDED_GPUS = {"nccl": 2, "ipc": 1}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
]


class OneRank:
    """A learner of one rank, on a GPU that an engine may share."""

    def __init__(self, settings: LearnerSettings, num_gpus: float) -> None:
        spawn: Any = ray.remote(LearnerRank).options(num_cpus=0, num_gpus=num_gpus)
        self.rank = spawn.remote(settings, 0, "tcp://127.0.0.1:29517")

    async def open_weight_sender(self, sender: WeightSender) -> None:
        await self.rank.open_weight_sender.remote(sender)

    async def send_weights(self) -> object:
        return await self.rank.send_weights.remote()

    async def logprobs(self, token_ids: TokenIds, temperature: float) -> Logprobs:
        return await self.rank.logprobs.remote(token_ids, temperature)


async def publish_twice(path: Path, backend: Literal["nccl", "ipc"]) -> list[float]:
    """Canary errors of two syncs with a patch between them; a third one, of stale weights, must fail."""
    model = ModelConfig(path=str(path), dtype="bfloat16", max_length=400)
    rollout = RolloutConfig(max_tokens=40, gpu_memory_utilization=0.3)
    learner = LearnerConfig(weight_sync=backend, canary_tolerance=0.1, deadline_s=120)
    patch = PatchConfig(optimizer=PatchOptimizerConfig(learning_rate=3e-3, lr_schedule="constant", warmup_ratio=0.0))
    share = 1.0 if backend == "nccl" else 0.4
    one = OneRank(LearnerSettings(model, learner, patch, ReinforceConfig(kl_coef=0), 0.6, 1, 0), share)
    spawn: Any = ray.remote(RolloutEngine).options(num_cpus=0, num_gpus=share, max_concurrency=16)
    engine = RemoteEngine(spawn.remote(model, rollout, learner))
    await engine.start()
    fleet = Fleet([engine], 2 * rollout.max_num_seqs, FakeProgress())
    sync = EngineWeightSync(fleet, one, partial(weight_sender, fleet, model, rollout, learner), PROMPT, 0.6, learner)
    errors = [(await sync.publish(1))["sync/canary_error"]]
    token_ids = np.random.default_rng(0).integers(5, 260, 40).astype(np.int32)
    mask = np.array([0] + [1] * 39, np.uint8)
    await one.rank.patch.remote([[TrainingSample(token_ids, mask)]] * 3)
    errors.append((await sync.publish(2))["sync/canary_error"])
    await one.rank.patch.remote([[TrainingSample(token_ids[::-1].copy(), mask)]] * 3)
    if (await sync._canary_errors(2))[0] <= learner.canary_tolerance:
        raise WeightSyncError("the canary does not notice weights that were never sent")
    await engine.close()
    return errors


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
    assert max(errors) <= 0.1
