"""Oracle workers over several nodes: they leave one that is drained or lost, and others come in their place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

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

WORKERS = 8  # Ray places them at random


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with head_node() as nodes:
        yield nodes


async def ask(pool: OraclePool, seconds: int = 0) -> list[OracleReply]:
    return await pool.intervene([attempt("a\n\n", "b", index=seconds)] * WORKERS)


def places(replies: list[OracleReply]) -> set[str]:
    return {proposal.content for reply in replies for proposal in reply.proposals}


async def until_all_reply_from(pool: OraclePool, node: str) -> None:
    async with asyncio.timeout(120):
        while {reply.failure for reply in await ask(pool)} != {None} or await nodes_of(pool) != {node}:
            await asyncio.sleep(0.2)


async def nodes_of(pool: OraclePool) -> set[str | None]:
    return {await node_of(worker.actor) for worker in pool.workers.all}


async def slowly(pool: OraclePool) -> asyncio.Task[list[OracleReply]]:
    """Every worker is asked something that takes 5 s."""
    asking = asyncio.create_task(ask(pool, seconds=5))
    while not all(worker.requests for worker in pool.workers.all):
        await asyncio.sleep(0.05)
    return asking


def run(story: Callable[[OraclePool], Awaitable[None]]) -> None:
    async def with_pool() -> None:
        async with asyncio.timeout(300):
            await pool.ready()
            await story(pool)

    pool = OraclePool("exact", Placed(), OracleConfig(workers=WORKERS, concurrency=WORKERS), FakeProgress())
    try:
        asyncio.run(with_pool())
    finally:
        pool.close()


def test_the_workers_of_a_node_that_is_drained_finish_and_get_nothing_more(cluster: Cluster):
    head, node = cluster.head_node.node_id, cluster.add_node(num_cpus=1)

    async def story(pool: OraclePool) -> None:
        assert places(await ask(pool)) == {head, node.node_id}
        asking = await slowly(pool)
        drain(cluster, node.node_id)
        await asyncio.sleep(LOOK_EVERY_S)
        await ask(pool)  # where it looks
        assert places(await ask(pool)) == {head} and not asking.done()
        replies = await asking
        assert {reply.failure for reply in replies} == {None} and node.node_id in places(replies)
        await until_all_reply_from(pool, head)

    run(story)
    cluster.remove_node(node)


def test_the_workers_of_a_node_that_is_lost_start_anew_elsewhere(cluster: Cluster):
    head, node = cluster.head_node.node_id, cluster.add_node(num_cpus=1)

    async def story(pool: OraclePool) -> None:
        asking = await slowly(pool)
        cluster.remove_node(node, allow_graceful=False)
        assert {reply.failure for reply in await asking} == {None, "worker_died"}
        await until_all_reply_from(pool, head)

    run(story)
