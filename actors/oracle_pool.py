"""N oracle workers behind the Oracle port: bounded in flight, every reply within a deadline."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from actors.rollout_engine import cause_of
from int_ray.errors import RunError
from int_ray.oracle_config import OracleConfig
from int_ray.ports import Progress
from int_ray.types import Attempt, OracleReply


class StepOracle(Protocol):
    """What a user writes to bring an own oracle: one attempt in, one reply out; `propose` may be `async def`."""

    def propose(self, attempt: Attempt) -> OracleReply | Awaitable[OracleReply]:
        """Find the first wrong step that is not recovered from; propose one replacement step or say why not."""
        ...


class OracleWorker:
    """Runs one oracle in a process of its own."""

    def __init__(self, oracle: StepOracle, concurrency: int) -> None:
        self.oracle = oracle
        self.threads = ThreadPoolExecutor(concurrency)

    async def propose(self, attempt: Attempt) -> OracleReply:
        """The oracle's reply; a synchronous oracle runs in a thread, so that it does not block the others."""
        if inspect.iscoroutinefunction(self.oracle.propose):
            reply = await self.oracle.propose(attempt)
        else:
            reply = await asyncio.get_running_loop().run_in_executor(self.threads, self.oracle.propose, attempt)
        if not isinstance(reply, OracleReply):
            raise TypeError(f"an oracle must return an OracleReply, not {type(reply).__name__}")
        return reply


class OracleError(RunError):
    """The oracle cannot be run at all."""


class OraclePool:
    """Implements the Oracle port; `ready` first. A failed request is a counted reply, never an exception."""

    def __init__(self, oracle: StepOracle, config: OracleConfig, progress: Progress) -> None:
        spawn: Any = ray.remote(OracleWorker).options(num_cpus=0, max_restarts=-1, max_concurrency=config.concurrency)
        self.workers: list[ActorHandle] = [spawn.remote(oracle, config.concurrency) for _ in range(config.workers)]
        self.config = config
        self.progress = progress

    async def ready(self) -> None:
        """Wait for the workers. Raises OracleError, for instance when a user's oracle cannot be imported there."""
        try:
            async with asyncio.timeout(self.config.deadline_s):
                await asyncio.gather(*(worker.__ray_ready__.remote() for worker in self.workers))
        except RayError as error:
            raise OracleError(f"an oracle worker did not start: {cause_of(error)}") from error
        except TimeoutError:
            raise OracleError(f"waited {self.config.deadline_s:g} s (oracle.deadline_s) for oracle workers") from None

    async def intervene(self, attempts: Sequence[Attempt]) -> list[OracleReply]:
        """One reply per attempt, in order; failures are named: timeout, worker_died, or the oracle's own."""
        gate = asyncio.Semaphore(self.config.concurrency)

        async def ask(index: int, attempt: Attempt) -> OracleReply:
            async with gate:
                reply = await self._ask(index, attempt)
            self.progress.advance()
            return reply

        return await asyncio.gather(*(ask(index, attempt) for index, attempt in enumerate(attempts)))

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
