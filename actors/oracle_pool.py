"""N oracle workers behind the Oracle port: bounded in flight, every reply within a deadline."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

import ray
from ray.actor import ActorProxy
from ray.exceptions import RayError, RayTaskError

from int_ray.config import OracleConfig
from int_ray.ports import Progress
from int_ray.types import Attempt, OracleReply


class StepOracle(Protocol):
    """What a user writes to bring an own oracle: one attempt in, one reply out; may be async."""

    def propose(self, attempt: Attempt) -> OracleReply | Awaitable[OracleReply]:
        """Find the first wrong step that is not recovered from; propose one replacement step or say why not."""
        ...


class OracleWorker:
    """Runs one oracle in a process of its own."""

    def __init__(self, oracle: StepOracle) -> None:
        self.oracle = oracle

    async def propose(self, attempt: Attempt) -> OracleReply:
        """The oracle's reply; a synchronous oracle runs in a thread, so that it does not block the others."""
        if inspect.iscoroutinefunction(self.oracle.propose):
            return await self.oracle.propose(attempt)
        reply: Any = await asyncio.to_thread(self.oracle.propose, attempt)
        return reply


class OraclePool:
    """Implements the Oracle port. A failed request is a counted reply, never an exception."""

    def __init__(self, oracle: StepOracle, config: OracleConfig, progress: Progress) -> None:
        spawn = ray.remote(OracleWorker).options(num_cpus=0, max_restarts=-1, max_concurrency=config.concurrency)
        self.workers: Sequence[ActorProxy[OracleWorker]] = [spawn.remote(oracle) for _ in range(config.workers)]
        self.config = config
        self.progress = progress
        self.failures: Counter[str] = Counter()

    async def intervene(self, attempts: Sequence[Attempt]) -> list[OracleReply]:
        """One reply per attempt, in order; failures are named: timeout, worker_died, or the oracle's own."""
        gate = asyncio.Semaphore(self.config.concurrency)

        async def ask(index: int, attempt: Attempt) -> OracleReply:
            async with gate:
                reply = await self._ask(index, attempt)
            self.progress.advance()
            return reply

        replies = await asyncio.gather(*(ask(index, attempt) for index, attempt in enumerate(attempts)))
        self.failures.update(reply.failure for reply in replies if reply.failure)
        return replies

    async def _ask(self, index: int, attempt: Attempt) -> OracleReply:
        request = self.workers[index % len(self.workers)].propose.remote(attempt)
        try:
            return await asyncio.wait_for(request, self.config.deadline_s)
        except TimeoutError:
            ray.cancel(request)
            return OracleReply(failure="timeout")
        except RayTaskError as error:
            return OracleReply(failure=f"error: {type(error.cause).__name__}")
        except RayError:
            return OracleReply(failure="worker_died")

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            ray.kill(worker)
