"""What the keeper does about engines that die, hang, leave or never come; in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from actors.engine_client import Engine, Place
from actors.failures import EngineDiedError, FleetLostError
from actors.fleet import Fleet
from actors.fleet_keeper import FleetKeeper
from benchmarks import virtual_time
from int_ray.config import RolloutConfig
from int_ray.errors import RunError
from int_ray.side_by_side import beside
from tests.fakes import FakeProgress

GONE = EngineDiedError("gone")


@dataclass(eq=False)
class FakeEngine:
    """Is probed and killed."""

    place: Place | None = None
    probe_takes_s: float = 0.0
    probes: list[float] = field(default_factory=list)  # when
    is_killed: bool = False

    async def probe(self) -> None:
        self.probes.append(virtual_time.now())
        await asyncio.sleep(self.probe_takes_s)

    def kill(self) -> None:
        self.is_killed = True


class World:
    """A fleet, and what its keeper asks of the outside."""

    def __init__(self, engines: int = 2, **config: Any) -> None:
        settings = {"max_tokens": 50, "probe_s": 1e6, "startup_deadline_s": 300.0, "num_engines": engines}
        self.config = RolloutConfig(**settings | config)
        self.progress = FakeProgress()
        self.engines = [FakeEngine() for _ in range(engines)]
        self.fleet = Fleet([cast(Engine, engine) for engine in self.engines], 8, self.progress)
        self.starts: list[float] = []  # when
        self.failures: list[Exception] = []  # what the next starts raise
        self.start_takes_s = 30.0
        self.draining: set[str] = set()

    async def start(self) -> Engine:
        self.starts.append(virtual_time.now())
        await asyncio.sleep(self.start_takes_s)
        if self.failures:
            raise self.failures.pop(0)
        return cast(Engine, FakeEngine())

    async def draining_nodes(self) -> Collection[str]:
        return self.draining

    def names(self) -> list[str]:
        return [member.name for member in self.fleet.members]

    def run(self, story: Callable[[World], Awaitable[None]]) -> None:
        async def kept_meanwhile() -> None:
            keeper = FleetKeeper(self.fleet, self.start, self.draining_nodes, self.config, self.progress)
            async with beside(keeper.run()):
                await asyncio.sleep(0.5)  # from here on the keeper looks half a second before
                await story(self)

        virtual_time.run(kept_meanwhile())


async def use(fleet: Fleet) -> str:
    async with fleet.least_busy(1) as member:
        return member.name


def test_a_dead_engine_is_replaced_while_the_others_work():
    async def story(world: World) -> None:
        world.fleet.lose(world.fleet.members[0], GONE)
        assert await use(world.fleet) == "rollout engine 1"
        await asyncio.sleep(32)
        assert world.names() == ["rollout engine 1", "rollout engine 2"] and len(world.starts) == 1

    World().run(story)


def test_who_waits_for_the_only_engine_gets_its_replacement():
    async def story(world: World) -> None:
        world.fleet.lose(world.fleet.members[0], GONE)
        assert await use(world.fleet) == "rollout engine 1" and virtual_time.now() == pytest.approx(31, abs=1)

    World(1).run(story)


def test_a_new_engine_gets_no_work_before_it_has_the_weights():
    async def story(world: World) -> None:
        fleet, learned = world.fleet, asyncio.Event()

        async def refresh() -> None:
            await learned.wait()
            fleet.admit(fleet.recruits)

        fleet.refresh, fleet.learner_in_step = refresh, True
        fleet.lose(fleet.members[0], GONE)
        waiting = asyncio.create_task(use(fleet))
        await asyncio.sleep(100)
        assert not waiting.done() and [one.name for one in fleet.recruits] == ["rollout engine 1"]
        learned.set()
        assert await waiting == "rollout engine 1" and not fleet.recruits

    World(1).run(story)


def test_while_the_learner_is_ahead_nobody_asks_it_for_weights():
    asked: list[float] = []

    async def story(world: World) -> None:
        async def refresh() -> None:
            asked.append(virtual_time.now())
            world.fleet.admit(world.fleet.recruits)

        world.fleet.refresh = refresh
        world.fleet.lose(world.fleet.members[0], GONE)
        await asyncio.sleep(100)
        assert not asked and len(world.fleet.recruits) == 1
        world.fleet.learner_in_step = True
        await asyncio.sleep(2)
        assert len(asked) == 1 and len(world.names()) == 2

    World().run(story)


def test_weights_that_cannot_be_brought_wait_for_the_next_publish_or_end_the_waiting():
    async def story(world: World) -> None:
        async def refresh() -> None:
            raise RunError("the learner is silent")

        fleet = world.fleet
        fleet.refresh, fleet.learner_in_step = refresh, True
        fleet.lose(fleet.members[0], GONE)
        await asyncio.sleep(40)
        assert len(fleet.recruits) == 1 and not fleet.learner_in_step
        assert len([line for line in world.progress.story if "wait for the next weights" in line]) == 1
        fleet.lose(fleet.members[0], GONE)
        fleet.learner_in_step = True
        with pytest.raises(FleetLostError, match="the learner is silent"):
            await use(fleet)

    World().run(story)


def test_failed_starts_are_repeated_less_and_less_often():
    async def story(world: World) -> None:
        world.start_takes_s = 0.0
        world.failures = [EngineDiedError("no memory"), TimeoutError("late"), EngineDiedError("no memory")]
        world.fleet.lose(world.fleet.members[0], GONE)
        await asyncio.sleep(60)
        assert world.starts == [1, 3, 7, 15] and len(world.names()) == 2

    World().run(story)


def test_the_budget_ends_the_restarts_and_with_the_last_engine_the_run():
    async def story(world: World) -> None:
        fleet = world.fleet
        fleet.lose(fleet.members[0], GONE)
        await asyncio.sleep(40)
        fleet.lose(fleet.members[0], GONE)
        await asyncio.sleep(100)
        assert len(world.starts) == 1 and world.names() == ["rollout engine 2"]
        assert len([line for line in world.progress.story if line.startswith("no more rollout engines")]) == 1
        fleet.lose(fleet.members[0], EngineDiedError("out of memory"))
        with pytest.raises(FleetLostError, match=r"lost \(out of memory\); more than 1 \(rollout\.restarts\) were"):
            await use(fleet)

    World(restarts=1).run(story)


def test_the_wait_for_a_replacement_has_an_end_that_names_setting_and_cause():
    async def story(world: World) -> None:
        world.start_takes_s = 1e5
        world.fleet.lose(world.fleet.members[0], EngineDiedError("its node is gone"))
        with pytest.raises(FleetLostError, match=r"lost \(its node is gone\); waited 300 s \(rollout\.startup_deadl"):
            await use(world.fleet)
        assert virtual_time.now() == pytest.approx(301, abs=2)
        told = [line for line in world.progress.story if line.startswith("still waiting for a rollout engine")]
        assert len(told) in (9, 10) and "30 s of at most 300 s" in told[0]

    World(1).run(story)


def test_a_silent_engine_is_asked_for_a_sign_of_life_and_killed_without_one():
    async def story(world: World) -> None:
        well, hung = world.engines
        hung.probe_takes_s = 1e6
        await asyncio.sleep(55)
        assert len(well.probes) == 2 and not well.is_killed  # after 20 and 40 s
        assert hung.is_killed and world.names() == ["rollout engine 0"]
        assert any("no sign of life for 20 s (rollout.probe_s)" in line for line in world.progress.story)

    World(probe_s=20).run(story)


def test_an_engine_that_answers_is_not_asked():
    async def story(world: World) -> None:
        for _ in range(20):
            world.fleet.members[0].heard = virtual_time.now()
            await asyncio.sleep(5)
        assert not world.engines[0].probes and world.engines[1].probes

    World(probe_s=20).run(story)


def test_an_engine_on_a_drained_node_finishes_what_it_has_and_is_replaced_for_nothing():
    async def story(world: World) -> None:
        fleet = world.fleet
        world.engines[0].place = Place("aa", "spot", 1)
        async with fleet.least_busy(1) as busy:
            assert busy.name == "rollout engine 0"
            world.draining.add("aa")
            await asyncio.sleep(40)
            assert busy in fleet.members and not world.engines[0].is_killed
            assert {await use(fleet) for _ in range(4)} == {"rollout engine 1", "rollout engine 2"}
        await asyncio.sleep(2)
        assert world.engines[0].is_killed and busy not in fleet.members and fleet.lost == 0
        await asyncio.sleep(40)
        assert len(world.starts) == 1 and len(world.names()) == 2

    World(restarts=0).run(story)


def test_engines_join_up_to_the_most():
    async def story(world: World) -> None:
        await asyncio.sleep(100)
        assert len(world.starts) == 3 and len(world.names()) == 5

    World(max_engines=5).run(story)


def test_what_is_being_started_ends_with_the_run():
    world = World(1)
    world.start_takes_s = 1e9
    ended: list[str] = []

    async def start() -> Engine:
        try:
            return await World.start(world)
        finally:
            ended.append("start")

    async def story(_: World) -> None:
        world.fleet.lose(world.fleet.members[0], GONE)
        await asyncio.sleep(5)

    world.start = start
    world.run(story)
    assert ended == ["start"]


def test_an_engine_that_leaves_stays_while_weights_are_sent():
    async def story(world: World) -> None:
        world.engines[0].place = Place("aa", "spot", 1)
        async with world.fleet.turn:
            world.draining.add("aa")
            await asyncio.sleep(5)
            assert world.fleet.members[0].is_leaving and not world.engines[0].is_killed
        await asyncio.sleep(2)
        assert world.engines[0].is_killed

    World().run(story)


def test_another_run_on_the_same_engines_has_a_budget_of_its_own():
    async def story(world: World) -> None:
        world.failures = [GONE]
        for _ in range(2):
            world.fleet.lose(world.fleet.members[0], GONE)
            await asyncio.sleep(100)
        assert len(world.starts) == 1 and world.fleet.lost == 2
        world.fleet.begin_run()
        await asyncio.sleep(40)
        assert len(world.starts) == 3 and len(world.names()) == 3 and world.fleet.lost == 0

    World(3, restarts=1).run(story)
