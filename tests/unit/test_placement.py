"""What is said while something is waited for, and which waits are in vain."""

from __future__ import annotations

import asyncio

import pytest
import ray

from actors import placement
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
