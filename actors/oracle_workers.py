"""Worker processes of an oracle. They join and leave while the run goes on, each on a node that stays."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.engine_client import cause_of
from actors.placement import LOOK_EVERY_S, draining_nodes, node_of
from int_ray.errors import RunError
from int_ray.oracle_config import OracleConfig

START_DEADLINE_S = 180.0  # a process and the import of a client library, on a machine that starts much else
SPARE = 2  # times as much room as is asked for: calls that were given up and never return may hold half of it


class OracleError(RunError):
    """The oracle cannot be run at all."""


@dataclass(eq=False)
class Worker:
    """One process, and how much it is asked."""

    actor: ActorHandle
    requests: int = 0  # without a reply so far
    is_leaving: bool = False

    def end_if_it_may(self) -> None:
        """A worker that is to leave does so when it has replied to everything."""
        if self.is_leaving and self.requests == 0:
            ray.kill(self.actor)


class OracleWorkers:
    """As many as `oracle.workers`; `first_replies` first.

    A process that dies or is killed starts anew, on another node if need be; what it was asked is not repeated. Those
    on a node that is drained get nothing more, and end when they have replied and others have started in their place.
    """

    def __init__(self, worker: type, config: OracleConfig, *arguments: Any) -> None:
        """`arguments` of the class `worker`."""
        remote: Any = ray.remote(worker).options(
            num_cpus=0, max_restarts=-1, max_concurrency=SPARE * config.concurrency
        )
        self._spawn: Callable[[], ActorHandle] = lambda: remote.remote(*arguments)
        self.all = [Worker(self._spawn()) for _ in range(config.workers)]
        self._turns = itertools.count()
        self._replacing: dict[Worker, asyncio.Task[None]] = {}
        self._next_look = 0.0  # for nodes that are drained, on the loop's clock

    async def first_replies(self, call: Callable[[ActorHandle], ObjectRef]) -> list[Any]:
        """What the workers return for the first call to each. Raises OracleError if one of them does not start."""
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                return await asyncio.gather(*(call(worker.actor) for worker in self.all))
        except RayError as error:
            raise OracleError(f"an oracle worker did not start: {cause_of(error)}") from error
        except TimeoutError:
            raise OracleError(f"waited {START_DEADLINE_S:g} s for {len(self.all)} oracle workers to start") from None

    @asynccontextmanager
    async def one(self) -> AsyncIterator[ActorHandle]:
        """The next in turn, for one request; on a node that is drained only while there is no other."""
        await self._look()
        choice = [worker for worker in self.all if worker not in self._replacing] or self.all
        worker = choice[next(self._turns) % len(choice)]
        worker.requests += 1
        try:
            yield worker.actor
        finally:
            worker.requests -= 1
            worker.end_if_it_may()

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY_S
        if not (draining := await draining_nodes()):
            return
        workers = list(self.all)
        nodes = await asyncio.gather(*(node_of(worker.actor) for worker in workers))
        for worker, node in zip(workers, nodes, strict=True):
            if node in draining and worker in self.all and worker not in self._replacing:
                self._replacing[worker] = asyncio.create_task(self._replace(worker))

    async def _replace(self, leaving: Worker) -> None:
        """One that does not start is tried again; in the end Ray moves the old one, when its node is gone."""
        newcomer = self._spawn()
        try:
            with suppress(RayError, TimeoutError):
                await asyncio.wait_for(newcomer.__ray_ready__.remote(), START_DEADLINE_S)
                self.all[self.all.index(leaving)] = Worker(newcomer)
                leaving.is_leaving = True
                leaving.end_if_it_may()
        finally:
            del self._replacing[leaving]
            if not leaving.is_leaving:
                ray.kill(newcomer)

    def close(self) -> None:
        """End them."""
        for task in self._replacing.values():
            task.cancel()
        for worker in self.all:
            ray.kill(worker.actor)
