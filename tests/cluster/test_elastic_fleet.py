"""The fleet over several nodes: an engine that dies and one that hangs are replaced, nodes come and go."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors import engine_spawning
from actors.compute import start_engines
from actors.fleet import Fleet, Member
from actors.placement import watch_nodes
from actors.rollout_pool import RolloutPool
from int_ray.config_file import load_config
from int_ray.side_by_side import beside
from int_ray.types import Outcome, Problem, Purpose, RolloutGroup, TokenIds
from tests.cluster.test_rollout_pool import FakeGrader, seeds
from tests.factories import problem
from tests.fake_engine import SpawnedEngine
from tests.fakes import FakeProgress
from tests.faults import figure
from tests.nodes import drain, head_node

DEADLINE_S = 120.0  # of what a test waits for; it only matters on failure
WITHIN_S = 60.0  # a node that is added is used

SETTINGS = [
    "learner.device=cuda",
    "learner.weight_sync=nccl",
    "rollout.num_engines=1",
    "rollout.max_engines=2",
    "rollout.restarts=50",
    f"rollout.startup_deadline_s={DEADLINE_S}",
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head with room for one engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_process_group_cleanup_enabled", "true")
        patch.setattr(engine_spawning, "RolloutEngine", SpawnedEngine)
        with head_node(num_gpus=1) as nodes:
            yield nodes


def encode(problem: Problem) -> TokenIds:
    return np.array([int(problem.answer)], np.int32)


class World:
    """A kept fleet and its pool."""

    def __init__(self, fleet: Fleet, pool: RolloutPool) -> None:
        self.fleet = fleet
        self.pool = pool

    async def sample(self, milliseconds: int = 50, num_groups: int = 6) -> list[RolloutGroup]:
        problems = [replace(problem(index), answer=str(milliseconds)) for index in range(num_groups)]
        async with asyncio.timeout(DEADLINE_S):
            return await self.pool.sample(problems, 2, Purpose.TRAIN, 0)

    async def until(self, what: str, condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
        until = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < until, f"waited {deadline_s:g} s for {what}"
            await asyncio.sleep(0.1)

    async def busy(self, member: Member) -> asyncio.Task[list[RolloutGroup]]:
        """Groups that take so long that some are on the engine whatever happens to it next."""
        sampling = asyncio.create_task(self.sample(8000))
        await self.until("the engine to be at work", lambda: member.samples)
        return sampling

    def only(self) -> Member:
        (member,) = self.fleet.members
        return member


def signal_to(member: Member, number: signal.Signals) -> None:
    assert member.engine.place is not None
    os.kill(member.engine.place.pid, number)


@asynccontextmanager
async def world(probe_s: float = 60) -> AsyncIterator[World]:
    """One engine at the start, two where there is room."""
    config = load_config("configs/quickstart.yaml", [*SETTINGS, f"rollout.probe_s={probe_s}"])
    async with AsyncExitStack() as stack:
        progress = FakeProgress()
        fleet = await start_engines(config, progress, stack)
        yield World(fleet, RolloutPool(fleet, FakeGrader(), encode, config.rollout, 0, progress))


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_an_engine_that_is_killed_and_one_that_is_stopped_are_replaced_and_no_group_is_missing(cluster: Cluster):
    async def story() -> None:
        async with world(probe_s=4) as here:
            expected = seeds(await here.sample())
            for number in (signal.SIGKILL, signal.SIGSTOP):
                before = here.only()
                sampling = await here.busy(before)
                signal_to(before, number)
                groups = await sampling  # it waited for the replacement: there was no other engine
                assert here.only() is not before and seeds(groups) == expected
                assert all(one.outcome is Outcome.CORRECT for group in groups for one in group.rollouts)

    run(story())


def test_a_node_that_is_added_gets_an_engine_and_one_that_is_drained_gets_nothing_more(cluster: Cluster):
    async def story() -> None:
        async with world() as here:
            stays = here.only()
            added = time.monotonic()
            node = cluster.add_node(num_cpus=1, num_gpus=1)
            await here.until("the second engine", lambda: len(here.fleet.members) == 2, WITHIN_S)
            figure("a node is added: until its engine is at work", time.monotonic() - added)
            joined = next(member for member in here.fleet.members if member is not stays)
            assert joined.engine.place is not None and joined.engine.place.node_id == node.node_id
            sampling = await here.busy(joined)
            drain(cluster, node.node_id)
            drained = time.monotonic()
            await sampling
            await here.until("the second engine to leave", lambda: here.fleet.members == [stays])
            figure("a node is drained: until its engine has finished and left", time.monotonic() - drained)
            assert here.fleet.lost == 0
            cluster.remove_node(node)
            assert len(await here.sample()) == 6

    run(story())


def test_a_node_that_is_lost_takes_its_engine_along_and_no_group(cluster: Cluster):
    async def story() -> None:
        async with world() as here:
            expected, stays = seeds(await here.sample()), here.only()
            node = cluster.add_node(num_cpus=1, num_gpus=1)
            await here.until("the second engine", lambda: len(here.fleet.members) == 2)
            joined = next(member for member in here.fleet.members if member is not stays)
            sampling = await here.busy(joined)
            cluster.remove_node(node, allow_graceful=False)
            lost = time.monotonic()
            groups = await sampling
            figure("a node is lost with its engine: until all groups are there", time.monotonic() - lost)
            assert here.fleet.lost == 1 and here.fleet.members == [stays]
            assert seeds(groups) == expected
            assert all(one.outcome is Outcome.CORRECT for group in groups for one in group.rollouts)

    run(story())


def test_nothing_is_asked_of_the_autoscaler_any_more_when_the_run_has_ended(cluster: Cluster):
    def demand() -> list[str]:
        """States of what was reserved, be there room for it or not; a node is added for what is pending."""
        return [group["state"] for group in placement_group_table().values() if group["state"] != "REMOVED"]

    async def story() -> None:
        before = demand()
        async with world() as here:
            await here.until("a second engine to be asked for", lambda: sorted(demand()) == ["CREATED", "PENDING"])
        assert before == demand() == []

    run(story())


def test_every_iteration_is_to_be_saved_while_a_node_of_the_learner_is_leaving(cluster: Cluster):
    class Rank:
        def ready(self) -> bool:
            return True

    async def story() -> None:
        node, saves_each, progress = cluster.add_node(num_cpus=1), asyncio.Event(), FakeProgress()
        there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        rank: Any = ray.remote(num_cpus=1)(Rank).options(scheduling_strategy=there).remote()
        await rank.ready.remote()  # a node that is idle goes as soon as it is drained
        await watched(node.node_id, saves_each, progress, lambda: not saves_each.is_set())
        drain(cluster, node.node_id)
        await watched(node.node_id, saves_each, progress, saves_each.is_set)
        assert "every iteration is saved" in progress.story[0]
        cluster.remove_node(node)
        await watched(node.node_id, saves_each, progress, lambda: not saves_each.is_set())

    async def watched(node: str, saves_each: asyncio.Event, progress: FakeProgress, until: Callable[[], bool]) -> None:
        async with beside(watch_nodes(lambda: frozenset({node}), saves_each, progress)), asyncio.timeout(DEADLINE_S):
            await asyncio.sleep(2)  # it looks every second
            while not until():
                await asyncio.sleep(0.1)

    run(story())
