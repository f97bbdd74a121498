"""What the canary makes of engines that answer; the transport is tested on real ones."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from unittest.mock import AsyncMock, Mock

import numpy as np
import pytest

from actors.engine_client import EngineGroup, RemoteEngine
from actors.fleet import Fleet
from actors.weight_sync import EngineWeightSync, WeightSyncError
from int_ray.training_config import LearnerConfig
from tests.fakes import FakeProgress

PROMPT = np.array([1, 2], np.int32)
ANSWER = np.array([3, 4], np.int32)


def publish(*differences: list[float]) -> dict[str, float]:
    """One sync; each engine's canary differs from the learner (whose log-probs are 0) by its list."""
    engines = [Mock(spec=RemoteEngine) for _ in differences]
    for engine, difference in zip(engines, differences, strict=True):
        logprobs = np.array(difference, np.float32)
        engine.canary.return_value = EngineGroup(ANSWER, logprobs, np.array([0, 2]), ("",), (True,), 1, 1)
    learner = AsyncMock()
    learner.logprobs.return_value = np.zeros(4, np.float32)
    sync = EngineWeightSync(
        Fleet(engines, 8, FakeProgress()),
        learner,
        lambda _: SimpleNamespace(dtype="bfloat16"),
        PROMPT,
        0.6,
        LearnerConfig(weight_sync="shm", canary_tolerance=0.1, deadline_s=5),
    )
    return dict(asyncio.run(sync.publish(1)))


def test_the_engine_that_differs_most_counts():
    metrics = publish([0.0, 0.02], [-0.05, 0.11])
    assert metrics["sync/canary_error"] == pytest.approx(0.08)
    assert metrics["sync/canary_worst"] == pytest.approx(0.11)


@pytest.mark.parametrize("wrong", [[0.3, 0.1], [float("nan"), 0.0]])
@pytest.mark.parametrize("first", [True, False])
def test_a_wrong_engine_is_noticed_wherever_it_stands(wrong: list[float], first: bool):
    right = [0.0, 0.0]
    with pytest.raises(WeightSyncError, match="the engines do not run these weights"):
        publish(*([wrong, right] if first else [right, wrong]))
