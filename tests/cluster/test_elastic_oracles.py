"""Oracle workers over several nodes: they leave one that is drained or lost, and others come in their place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from actors.oracle_pool import OraclePool
from actors.placement import LOOK_EVERY_S, node_of
from int_ray.oracle_config import OracleConfig
from int_ray.types import OracleReply
from tests.factories import attempt
from tests.fake_oracles import Placed
from tests.fakes import FakeProgress
from tests.nodes import drain, head_node

WORKERS = 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with head_node() as nodes:
        yield nodes


class World:
    """Workers on two nodes, and attempts that they hold as long as a file is there."""

    def __init__(self, hold: Path) -> None:
        self.hold = hold
        self.pool = self._new_pool()

    def _new_pool(self) -> OraclePool:
        config = OracleConfig(workers=WORKERS, concurrency=WORKERS)
        return OraclePool("exact", Placed(self.hold), config, FakeProgress())

    async def ready(self) -> None:
        """Ray places the workers at random: until both nodes have some."""
        await self.pool.ready()
        while len(await self.nodes()) < 2:
            self.pool.close()
            self.pool = self._new_pool()
            await self.pool.ready()

    async def nodes(self) -> set[str | None]:
        return {await node_of(worker.actor) for worker in self.pool.workers.all}

    async def ask(self, index: int = 0) -> list[OracleReply]:
        return await self.pool.intervene([attempt("a\n\n", "b", index=index)] * WORKERS)

    async def held(self) -> asyncio.Task[list[OracleReply]]:
        """Every worker is asked something that it does not reply to before the file is gone."""
        self.hold.touch()
        asking = asyncio.create_task(self.ask(1))
        while not all(worker.requests for worker in self.pool.workers.all):
            await asyncio.sleep(0.05)
        return asking

    async def until_all_reply_from(self, node: str) -> None:
        while {reply.failure for reply in await self.ask()} != {None} or await self.nodes() != {node}:
            await asyncio.sleep(0.2)


def places(replies: list[OracleReply]) -> set[str]:
    return {proposal.content for reply in replies for proposal in reply.proposals}


def run(hold: Path, story: Callable[[World], Awaitable[None]]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(300):
            await world.ready()
            await story(world)

    world = World(hold)
    try:
        asyncio.run(in_time())
    finally:
        world.pool.close()


def test_the_workers_of_a_node_that_is_drained_finish_and_get_nothing_more(cluster: Cluster, tmp_path: Path):
    head, node = cluster.head_node.node_id, cluster.add_node(num_cpus=1)

    async def story(world: World) -> None:
        assert places(await world.ask()) == {head, node.node_id}
        asking = await world.held()
        drain(cluster, node.node_id)
        await asyncio.sleep(LOOK_EVERY_S)
        await world.ask()  # where it looks
        assert places(await world.ask()) == {head}
        world.hold.unlink()
        replies = await asking
        assert {reply.failure for reply in replies} == {None} and places(replies) == {head, node.node_id}
        await world.until_all_reply_from(head)

    run(tmp_path / "hold", story)
    cluster.remove_node(node)


def test_the_workers_of_a_node_that_is_lost_start_anew_elsewhere(cluster: Cluster, tmp_path: Path):
    head, node = cluster.head_node.node_id, cluster.add_node(num_cpus=1)

    async def story(world: World) -> None:
        asking = await world.held()
        cluster.remove_node(node, allow_graceful=False)
        while node.node_id in await world.nodes():  # its workers are not known to be dead yet
            await asyncio.sleep(0.2)
        world.hold.unlink()
        assert {reply.failure for reply in await asking} == {None, "worker_died"}
        await world.until_all_reply_from(head)

    run(tmp_path / "hold", story)
