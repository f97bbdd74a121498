"""How engines come to the learner's weights: at a publish, or between two; and what becomes of those that die then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from ray.exceptions import RayTaskError

from actors import weight_sync
from actors.colocated import LearnerInTurn
from actors.engine_client import Engine, EngineGroup
from actors.failures import EngineDiedError
from actors.fleet import Fleet, Member
from actors.weight_sync import EngineWeightSync, WeightSyncError
from int_ray.errors import LearnerError
from int_ray.training_config import LearnerConfig
from int_ray.types import Logprobs, TokenIds, Update, UpdateBatches
from tests.fakes import FakeProgress

PROMPT = np.array([1, 2], np.int32)


class FakeEngine:
    """Has weights, or what it is told to have instead; dies at the call that `dies_at` names."""

    place = None

    def __init__(self) -> None:
        self.weights = 0
        self.version = 0
        self.paused = 0  # times
        self.dies_at = ""
        self.is_killed = False

    def _die(self, method: str) -> None:
        if method == self.dies_at:
            raise EngineDiedError(f"died in {method}")

    async def pause(self) -> None:
        self._die("pause")
        self.paused += 1

    async def resume(self, policy_version: int) -> None:
        self._die("resume")
        self.version = policy_version

    async def canary(self, prompt_ids: TokenIds, seed: int) -> EngineGroup:
        self._die("canary")
        ids = np.array([3], np.int32)
        logprob = np.array([-self.weights], np.float32)
        return EngineGroup(ids, logprob, np.array([0, 1]), ("",), (True,), seed, self.version)

    def kill(self) -> None:
        self.is_killed = True


class World:
    """Engines whose weights are a number, and a learner that counts up with every update."""

    starts = 1

    def __init__(self, engines: int) -> None:
        self.weights = 0
        self.is_closed = False
        self.works: asyncio.Event | None = None  # a patch waits for it
        self.receivers: list[list[str]] = []  # of every sending, by name
        self.fleet = Fleet([cast(Engine, FakeEngine()) for _ in range(engines)], 8, FakeProgress())
        self.learner = LearnerInTurn(cast(Any, self), self.fleet)
        config = LearnerConfig(weight_sync="nccl", canary_tolerance=0.1, deadline_s=5)
        self.sync = EngineWeightSync(self.fleet, self.learner, self.new_sender, PROMPT, 0.6, config)
        self.fleet.refresh = self.sync.refresh

    def new_sender(self, members: Sequence[Member]) -> Any:
        return SimpleNamespace(dtype="float32", members=members)

    async def open_weight_sender(self, sender: Any) -> None:
        self.sender = sender

    async def send_weights(self) -> None:
        self.receivers.append([member.name for member in self.sender.members])
        for member in self.sender.members:
            engine(member).weights = self.weights

    def close(self) -> None:
        self.is_closed = True

    async def logprobs(self, token_ids: TokenIds, temperature: float) -> Logprobs:
        return np.full(len(token_ids), -self.weights, np.float32)

    async def patch(self, batches: UpdateBatches) -> Update:
        if self.works is not None:
            await self.works.wait()
        self.weights += len(batches)
        return Update(len(batches))

    def recruit(self) -> Member:
        return self.fleet.recruit(cast(Engine, FakeEngine()))

    def names(self) -> list[str]:
        return [member.name[-1] for member in self.fleet.members]


def engine(member: Member) -> FakeEngine:
    return cast(FakeEngine, member.engine)


def run(story: Callable[[World], Awaitable[None]], engines: int = 2) -> None:
    asyncio.run(cast(Any, story(World(engines))))


def test_a_publish_takes_new_engines_in():
    async def story(world: World) -> None:
        await world.sync.publish(0)
        await world.learner.patch([[]])
        recruit = world.recruit()
        await world.sync.publish(1)
        assert world.names() == ["0", "1", "2"] and not world.fleet.recruits
        assert [engine(one).weights for one in world.fleet.members] == [1, 1, 1] and engine(recruit).version == 1

    run(story)


def test_between_two_publishes_new_engines_get_the_present_version_and_the_others_go_on():
    async def story(world: World) -> None:
        await world.learner.patch([[], []])
        await world.sync.publish(7)
        recruit = world.recruit()
        await world.sync.refresh()
        assert world.receivers[-1] == [recruit.name] and recruit in world.fleet.members
        assert (engine(recruit).weights, engine(recruit).version) == (2, 7) and world.fleet.policy_version == 7
        assert [engine(one).paused for one in world.fleet.members] == [1, 1, 1]
        await world.sync.publish(8)
        assert len(world.receivers[-1]) == 3

    run(story)


def test_a_learner_that_is_ahead_brings_nothing_under_an_old_version():
    async def story(world: World) -> None:
        await world.sync.publish(1)
        await world.learner.patch([[]])
        recruit = world.recruit()
        await world.sync.refresh()
        assert len(world.receivers) == 1 and recruit in world.fleet.recruits
        await world.sync.publish(2)
        assert engine(recruit).weights == 1 and recruit in world.fleet.members

    run(story)


def test_an_update_that_changes_nothing_leaves_the_learner_in_step():
    async def story(world: World) -> None:
        await world.sync.publish(1)
        await world.learner.patch([])
        world.recruit()
        await world.sync.refresh()
        assert len(world.names()) == 3

    run(story)


def test_weights_are_not_changed_while_they_are_sent_nor_sent_while_they_change():
    async def story(world: World) -> None:
        await world.sync.publish(1)
        recruit, world.works = world.recruit(), asyncio.Event()
        patching = asyncio.create_task(world.learner.patch([[]]))
        await asyncio.sleep(0)
        refreshing = asyncio.create_task(world.sync.refresh())
        await asyncio.sleep(0.01)
        assert len(world.receivers) == 1
        world.works.set()
        await asyncio.gather(patching, refreshing)
        assert len(world.receivers) == 1 and recruit in world.fleet.recruits

    run(story)


@pytest.mark.parametrize("moment", ["pause", "resume", "canary"])
def test_an_engine_that_dies_on_the_way_is_lost_and_the_others_have_the_weights(moment: str):
    async def story(world: World) -> None:
        doomed = world.recruit()
        engine(doomed).dies_at = engine(world.fleet.members[0]).dies_at = moment
        await world.learner.patch([[]])
        metrics = await world.sync.publish(1)
        assert world.names() == ["1"] and not world.fleet.recruits and engine(doomed).is_killed
        assert engine(world.fleet.members[0]).weights == 1 and metrics["sync/canary_error"] == 0

    run(story)


def test_when_all_die_on_the_way_the_next_engine_gets_the_version_that_was_on_its_way():
    async def story(world: World) -> None:
        world.fleet.is_kept = True
        engine(world.fleet.members[0]).dies_at = "resume"
        await world.learner.patch([[]])
        await world.sync.publish(3)
        assert not world.fleet.members
        recruit = world.recruit()
        await world.sync.refresh()
        assert (engine(recruit).weights, engine(recruit).version) == (1, 3) and world.names() == ["1"]

    run(story, engines=1)


def test_an_engine_without_the_weights_does_not_join():
    async def story(world: World) -> None:
        await world.learner.patch([[]])
        await world.sync.publish(1)
        recruit = world.recruit()
        world.send_weights = lambda: asyncio.sleep(0)  # nothing arrives
        with pytest.raises(WeightSyncError, match="weights version 1: engine and learner differ"):
            await world.sync.refresh()
        assert recruit in world.fleet.recruits and recruit not in world.fleet.members

    run(story)


@pytest.mark.parametrize(("way", "left"), [("nccl", 1), ("shm", 3)])
def test_a_lost_learner_is_a_learner_error_and_takes_the_receivers_of_its_nccl_group_along(way: Any, left: int):
    async def story(world: World) -> None:
        async def send() -> None:
            await asyncio.sleep(0.2)  # longer than learner.deadline_s, which is the learner's own to keep
            raise LearnerError("learner rank 0 did not finish send_weights")

        world.sync.config = LearnerConfig(weight_sync=way, deadline_s=0.1)
        world.fleet.is_kept = True
        world.fleet.learner_in_step = True
        recruits, world.send_weights = [world.recruit(), world.recruit()], send
        with pytest.raises(LearnerError, match="did not finish"):
            await world.sync.refresh()  # to the recruits alone
        assert len(world.fleet.everyone) == left and world.fleet.lost == 0
        assert all(engine(one).is_killed == (way == "nccl") for one in recruits)
        assert world.is_closed == (way == "nccl")

    run(story, engines=1)


def test_a_publish_without_a_learner_is_a_learner_error_which_another_one_follows():
    async def story(world: World) -> None:
        async def open_sender(sender: Any) -> None:
            raise LearnerError("a learner rank died during open_weight_sender")

        world.fleet.is_kept, world.open_weight_sender = True, open_sender
        with pytest.raises(LearnerError, match="a learner rank died"):
            await world.sync.publish(1)
        del world.open_weight_sender
        await world.sync.publish(1)  # nobody is there
        recruit = world.recruit()
        await world.sync.refresh()
        assert world.fleet.members == [recruit]

    run(story)


def test_what_a_learner_rank_raises_is_named_be_it_a_timeout():
    async def story(world: World) -> None:
        async def send() -> None:
            late = TimeoutError("waited 5 s for rollout engines in update_weights")
            raise RayTaskError("send_weights", "traceback", late).as_instanceof_cause()

        world.send_weights = send
        with pytest.raises(WeightSyncError, match=r"the learner to send its weights: TimeoutError: waited 5 s for"):
            await world.sync.publish(1)

    run(story)


def test_a_receiver_that_dies_while_nccl_sends_ends_the_sending(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weight_sync, "LOOK_S", 0.01)

    async def story(world: World) -> None:
        async def hang() -> None:
            world.fleet.lose(world.fleet.members[0], EngineDiedError("gone"))
            await asyncio.Event().wait()

        world.fleet.is_kept, world.send_weights = True, hang
        with pytest.raises(LearnerError, match="rollout engine 0 was lost while weights were sent"):
            await asyncio.wait_for(world.sync.publish(1), 30)
        assert world.is_closed and not world.fleet.everyone and world.fleet.lost == 1  # the other one is no fault

    run(story)


def test_a_receiver_that_dies_while_shared_memory_is_read_stops_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weight_sync, "LOOK_S", 0.01)

    async def story(world: World) -> None:
        async def send() -> None:
            engine(world.fleet.members[0]).dies_at = "resume"
            world.fleet.lose(world.fleet.members[0], EngineDiedError("gone"))
            await asyncio.sleep(0.1)

        world.sync.config, world.send_weights = LearnerConfig(weight_sync="shm", canary_tolerance=0.1), send
        await world.sync.publish(1)
        assert world.names() == ["1"]

    run(story)
