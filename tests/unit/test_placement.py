"""What is said while something is waited for, and which waits are in vain."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pytest
import ray
from ray.exceptions import ActorPlacementGroupRemoved, RaySystemError

from actors import engine_spawning, placement
from actors.failures import EngineDiedError
from actors.placement import expect_gpus, patience
from benchmarks import virtual_time
from int_ray.errors import RunError
from tests.fakes import FakeProgress


def test_a_wait_says_every_half_minute_what_it_waits_for():
    async def wait(seconds: float) -> list[str]:
        progress = FakeProgress()
        async with patience(progress, "2 rollout engines to start", 900):
            await asyncio.sleep(seconds)
        await asyncio.sleep(100)
        return progress.story

    assert virtual_time.run(wait(29)) == []
    assert virtual_time.run(wait(70)) == [
        "still waiting for 2 rollout engines to start: 30 s of at most 900 s",
        "still waiting for 2 rollout engines to start: 60 s of at most 900 s",
    ]


def cluster(monkeypatch: pytest.MonkeyPatch, present: int, possible: int | None) -> FakeProgress:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": float(present)})
    limits = None if possible is None else {"GPU": possible}
    monkeypatch.setattr(placement.cluster_state, "get_max_resources_from_cluster_config", lambda: limits)
    return FakeProgress()


def test_a_cluster_that_has_what_is_needed_is_not_worth_a_word(monkeypatch: pytest.MonkeyPatch):
    progress = cluster(monkeypatch, present=8, possible=8)
    expect_gpus(8, progress)
    assert not progress.story


@pytest.mark.parametrize("possible", [16, None])
def test_what_may_still_come_is_waited_for(monkeypatch: pytest.MonkeyPatch, possible: int | None):
    progress = cluster(monkeypatch, present=2, possible=possible)
    expect_gpus(8, progress)
    assert progress.story == ["the run needs 8 GPUs, the cluster has 2: waiting for the rest to join"]


def test_more_than_the_autoscaler_may_ever_add_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch):
    progress = cluster(monkeypatch, present=2, possible=6)
    with pytest.raises(RunError, match=r"needs 8 GPUs; the cluster has 2 and its autoscaler goes up to 6: raise"):
        expect_gpus(8, progress)


def test_a_ray_that_cannot_be_asked_drains_no_node(monkeypatch: pytest.MonkeyPatch):
    def unreachable() -> dict[str, int]:
        raise RaySystemError("the GCS is gone")

    monkeypatch.setattr(placement.cluster_state, "get_draining_nodes", unreachable)
    assert not asyncio.run(placement.draining_nodes())


def test_room_that_ray_takes_back_is_an_engine_that_did_not_start(monkeypatch: pytest.MonkeyPatch):
    removed: list[object] = []

    class Room:
        async def ready(self) -> None:
            raise ActorPlacementGroupRemoved

    monkeypatch.setattr(engine_spawning, "remove_placement_group", removed.append)
    monkeypatch.setattr(engine_spawning.EngineStarter, "reserve", lambda self: Room())
    starter = engine_spawning.EngineStarter(Mock(), Mock(), Mock())
    with pytest.raises(EngineDiedError, match="no room for a rollout engine: ActorPlacementGroupRemoved"):
        asyncio.run(starter.start())
    assert len(removed) == 1
