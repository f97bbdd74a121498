"""Learner -> engine over shared memory: after every sync both compute the same log-probs; a broken sync is noticed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.update_client import UpdateClient
from actors.weight_sync import EngineWeightSync, SendingLearner, WeightSyncError
from int_ray.training_config import LearnerConfig
from tests.e2e.conftest import LONG_PROMPT, NO_PREFIX, PROMPT, Pair, random_batches, run, sampling
from tests.e2e.corrupting_sender import CorruptingSender

ERROR = 1e-3  # fp32


def sync(pair: Pair, version: int) -> dict[str, float]:
    return dict(run(pair.sync.publish(version)))


@pytest.mark.parametrize("prompt", [PROMPT, LONG_PROMPT], ids=["short", "cached"])
def test_every_sync_brings_the_weights_that_the_learner_has(pair: Pair, prompt: np.ndarray):
    for version in (1, 2):
        before = pair.call("sample_group", prompt, NO_PREFIX, sampling(8, 3, 30))
        pair.change_weights(seed=version)
        assert pair.error(prompt, before) > 10 * ERROR  # the weights did change
        metrics = sync(pair, version)
        after = pair.call("sample_group", prompt, NO_PREFIX, sampling(8, 3, 30))
        assert after.policy_version == version
        assert pair.error(prompt, after) <= ERROR
        assert metrics["sync/canary_error"] <= ERROR and metrics["sync/seconds"] < 30


class LateChange:
    """A learner whose weights change between the send and the canary."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.open_weight_sender = pair.learner.open_weight_sender
        self.close = pair.learner.close
        self.logprobs = pair.learner.logprobs
        self.starts = pair.learner.starts

    async def send_weights(self) -> object:
        sent = await self.pair.learner.send_weights()
        await self.pair.learner.patch(random_batches(seed=4))
        return sent


def test_a_corrupted_tensor_is_a_weight_sync_error(tied: Pair):
    broken = EngineWeightSync(
        tied.sync.fleet,
        tied.learner,
        lambda _: CorruptingSender(client(tied), "float32"),
        PROMPT,
        0.6,
        tied.sync.config,
    )
    with pytest.raises(WeightSyncError, match=r"^weights version 9: engine and learner differ by [0-9.e+]+ in"):
        run(broken.publish(9))


def test_weights_that_change_before_the_canary_are_a_weight_sync_error(tied: Pair):
    broken = with_learner(tied, LateChange(tied))
    with pytest.raises(WeightSyncError, match=r"canary_tolerance"):
        run(broken.publish(10))


def test_the_next_sync_after_a_broken_one_is_right_again(tied: Pair):
    run(with_learner(tied, tied.learner).publish(11))
    group = tied.call("sample_group", PROMPT, NO_PREFIX, sampling(8, 3, 30))
    assert tied.error(PROMPT, group) <= ERROR


def with_learner(pair: Pair, learner: SendingLearner, config: LearnerConfig | None = None) -> EngineWeightSync:
    """Another sync to the same engine."""
    sync = pair.sync
    return EngineWeightSync(sync.fleet, learner, sync.new_sender, PROMPT, 0.6, config or sync.config)


def client(pair: Pair) -> UpdateClient:
    return UpdateClient([pair.engine.handle], 1, 60.0)


def test_an_abandoned_request_does_not_stand_in_the_way_of_new_weights(tied: Pair):
    async def abandon() -> None:
        request = asyncio.create_task(tied.engine.sample_group(PROMPT, NO_PREFIX, sampling(64, 0, 350)))
        await asyncio.sleep(0.3)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    run(abandon())
    sync(tied, 13)


def test_the_shared_memory_has_no_name_that_could_outlive_its_processes(tied: Pair):
    sync(tied, 14)
    main: Any = tied.learner.ranks[0]
    maps: str = ray.get(main.__ray_call__.remote(lambda _: Path("/proc/self/maps").read_text()))
    buffers = [line for line in maps.splitlines() if "/dev/shm/int_ray-" in line]
    assert buffers and all(line.endswith("(deleted)") for line in buffers)
