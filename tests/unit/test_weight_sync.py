"""Engines that hang while new weights are brought to them: late ones are lost, the others have the weights."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
from ray.exceptions import ActorDiedError, GetTimeoutError

from actors.failures import EngineHungError, FleetLostError
from actors.update_client import UpdateClient
from actors.weight_senders import NativeSender, SharedMemorySender
from actors.weight_sync import weight_sender
from int_ray.config import ModelConfig, RolloutConfig
from int_ray.training_config import LearnerConfig
from tests.unit.test_joining import World, engine, run


async def hang(*arguments: object) -> None:
    """An engine's answer that never comes."""
    await asyncio.Event().wait()


def hurry(world: World) -> None:
    """A sync over shared memory that does not wait long for an engine."""
    world.sync.config = LearnerConfig(weight_sync="shm", canary_tolerance=0.1, deadline_s=0.1)


@pytest.mark.parametrize(("method", "what"), [("pause", "pause"), ("resume", "resume"), ("canary", "sample")])
def test_an_engine_that_hangs_on_the_way_is_lost_and_the_others_have_the_weights(method: str, what: str):
    async def story(world: World) -> None:
        hurry(world)
        hung, other = world.fleet.members
        setattr(hung.engine, method, hang)
        await world.learner.patch([[]])
        await asyncio.wait_for(world.sync.publish(1), 30)
        assert world.fleet.members == [other] and engine(hung).is_killed and world.fleet.lost == 1
        assert (engine(other).weights, engine(other).version) == (1, 1)
        error = world.fleet.last_error
        assert isinstance(error, EngineHungError)
        assert str(error) == f"waited 0.1 s (learner.deadline_s) for rollout engine 0 to {what}"

    run(story)


def test_when_the_last_engine_hangs_and_none_will_come_the_fleet_is_lost():
    async def story(world: World) -> None:
        hurry(world)
        cast(Any, world.fleet.members[0].engine).pause = hang
        await asyncio.wait_for(world.sync.publish(1), 30)
        with pytest.raises(FleetLostError, match=r"no rollout engine is left: waited 0\.1 s .* to pause"):
            async with world.fleet.least_busy(1):
                pass

    run(story, engines=1)


class Actors:
    """Stands for Ray: calls of actors that answer or hang, until they are killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.killed: list[Any] = []
        self.hung, self.other = self._actor(), self._actor()
        monkeypatch.setattr(ray, "get", self._get)
        monkeypatch.setattr(ray, "kill", self.killed.append)

    def _actor(self) -> Any:
        actor = SimpleNamespace()
        for method in ("start_weight_update", "update_weights", "finish_weight_update"):
            setattr(actor, method, SimpleNamespace(remote=lambda *_, actor=actor: actor))
        return actor

    def _get(self, actor: Any, timeout: float) -> None:
        if actor in self.killed:
            raise ActorDiedError
        if actor is self.hung:
            raise GetTimeoutError

    def client(self, *, kills_late: bool) -> UpdateClient:
        """Calls both."""
        return UpdateClient(cast(Any, [self.hung, self.other]), 1, 5.0, kills_late=kills_late)


def test_an_engine_that_hangs_while_it_takes_weights_is_killed_once_and_left_out(monkeypatch: pytest.MonkeyPatch):
    actors = Actors(monkeypatch)
    client = actors.client(kills_late=True)
    for wait in [client.begin_update({"first": part, "end": part + 1}) for part in range(3)]:
        wait()
    client.finish_weight_update()
    assert actors.killed == [actors.hung] and client.engines == [actors.other]


def test_a_late_engine_of_an_nccl_group_is_an_error_as_the_others_hang_with_it(monkeypatch: pytest.MonkeyPatch):
    actors = Actors(monkeypatch)
    with pytest.raises(TimeoutError, match="waited 5 s for rollout engines in update_weights"):
        actors.client(kills_late=False).update_weights({})
    assert not actors.killed


def test_with_shared_memory_an_engine_is_late_before_the_learner_is():
    def sender(**learner: Any) -> Any:
        model, rollout = ModelConfig(path="model", max_length=100, dtype="float32"), RolloutConfig(max_tokens=50)
        return weight_sender(model, rollout, LearnerConfig(**learner), [])

    shared = sender(weight_sync="shm", deadline_s=60, collective_timeout_s=600)
    assert isinstance(shared, SharedMemorySender)
    assert shared.client.kills_late and shared.client.deadline_s == 30
    assert sender(weight_sync="shm", deadline_s=60, collective_timeout_s=20).client.deadline_s == 10
    native = sender(weight_sync="nccl", deadline_s=60)
    assert isinstance(native, NativeSender)
    assert not native.client.kills_late and native.client.deadline_s == 60
