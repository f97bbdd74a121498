"""N oracle workers behind the Oracle port: bounded in flight, every reply within a deadline."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from actors.oracle_workers import SPARE, OracleWorkers
from int_ray.oracle_config import OracleConfig
from int_ray.oracles import StepOracle
from int_ray.ports import Progress
from int_ray.types import Attempt, OracleReply, Source

GRACE_S = 10.0  # for a sign of life of a worker that was late with a reply


class OracleWorker:
    """Runs one oracle in a process of its own."""

    def __init__(self, oracle: StepOracle, concurrency: int) -> None:
        self.oracle = oracle
        self.threads = ThreadPoolExecutor(SPARE * concurrency)

    async def propose(self, attempt: Attempt) -> OracleReply:
        """The oracle's reply; a synchronous oracle runs in a thread, so that it does not block the others."""
        if inspect.iscoroutinefunction(self.oracle.propose):
            reply = await self.oracle.propose(attempt)
        else:
            reply = await asyncio.get_running_loop().run_in_executor(self.threads, self.oracle.propose, attempt)
        if not isinstance(reply, OracleReply):
            raise TypeError(f"an oracle must return an OracleReply, not {type(reply).__name__}")
        return reply

    async def beat(self) -> None:
        """Returns if the process runs and has a free thread."""
        await asyncio.get_running_loop().run_in_executor(self.threads, int)


class OraclePool:
    """Implements the Oracle port; `ready` first. A failed request is a counted reply, never an exception.

    A worker that dies or hangs starts anew.
    """

    def __init__(self, kind: str, oracle: StepOracle, config: OracleConfig, progress: Progress) -> None:
        """`kind` of the oracle: the source of what names none itself."""
        self.workers = OracleWorkers(OracleWorker, config, oracle, config.concurrency)
        self.source = Source(kind)
        self.config = config
        self.progress = progress
        self._doubted: set[ActorHandle] = set()  # workers that are asked for a sign of life

    async def ready(self) -> None:
        """Wait for the workers. Raises OracleError, for instance when a user's oracle cannot be imported there."""
        await self.workers.first_replies(lambda worker: worker.__ray_ready__.remote())

    async def intervene(self, attempts: Sequence[Attempt]) -> list[OracleReply]:
        """One reply per attempt, in order; failures are named: timeout, worker_died, or the oracle's own."""
        gate = asyncio.Semaphore(self.config.concurrency)

        async def ask(attempt: Attempt) -> OracleReply:
            async with gate, self.workers.one() as worker:
                reply = await self._ask(worker, attempt)
            self.progress.advance()
            return _with_source(reply, self.source)

        return await asyncio.gather(*map(ask, attempts))

    async def _ask(self, worker: ActorHandle, attempt: Attempt) -> OracleReply:
        request = worker.propose.remote(attempt)
        try:
            return await asyncio.wait_for(request, self.config.deadline_s)
        except TimeoutError:
            ray.cancel(request)
            await self._start_anew_if_it_hangs(worker)
            return OracleReply(failure="timeout")
        except RayTaskError as error:
            return OracleReply(failure=f"error: {type(error.cause).__name__}")
        except RayError:
            return OracleReply(failure="worker_died")

    async def _start_anew_if_it_hangs(self, worker: ActorHandle) -> None:
        """A late reply may be the fault of one attempt; the others that a worker has are lost only if it hangs."""
        if worker in self._doubted:
            return
        self._doubted.add(worker)
        try:
            with suppress(RayError):  # it died meanwhile, and starts anew by itself
                await asyncio.wait_for(worker.beat.remote(), GRACE_S)
        except TimeoutError:
            ray.kill(worker, no_restart=False)  # a stopped process would not hear of a cancelled call
        finally:
            self._doubted.discard(worker)

    def close(self) -> None:
        """End the workers."""
        self.workers.close()


def _with_source(reply: OracleReply, source: Source) -> OracleReply:
    """The same with a source throughout: a proposal without one has the reply's, a reply without one has `source`."""
    source = reply.source or source
    proposals = tuple(replace(proposal, source=proposal.source or source) for proposal in reply.proposals)
    return replace(reply, proposals=proposals, source=source)
