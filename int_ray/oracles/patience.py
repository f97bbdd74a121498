"""How a model's server is pressed: requests at a pace, retries after random pauses, and a circuit breaker.

All times are on the event loop's clock, in seconds.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_random_exponential

from int_ray.oracle_config import LimitsConfig
from int_ray.oracles.chat import LASTING, UNSENT, Fault

Result = TypeVar("Result")
Send = Callable[[int], Awaitable[Result | Fault]]  # makes one try; its argument is 1 for the first


class Patience:
    """Sends the requests to one model, as fast and as often as the limits allow."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self.breaker = Breaker(limits)
        self._interval = 60 / limits.requests_per_minute if limits.requests_per_minute else 0.0
        self._next_turn = 0.0
        self._trial = asyncio.Lock()
        self._jitter = wait_random_exponential(multiplier=1, max=limits.longest_wait_s)

    async def ask(self, send: Send[Result]) -> Result | Fault:
        """The first result that is not retried, else the last fault.

        While the breaker is open nothing is sent; after its rest one request is, and the others wait for what it finds.
        """
        if self.breaker.fault is not None:
            async with self._trial:
                if self.breaker.fault is not None:
                    if self.breaker.is_resting:
                        return self.breaker.fault
                    await self._turn()
                    return self._noted(await send(1))
        return self._noted(await self.retry(send))

    async def retry(self, send: Send[Result]) -> Result | Fault:
        """Tries until one is not retried, `limits.tries` at most, and none after the breaker has opened."""
        tries = count(1)

        async def once() -> Result | Fault:
            await self._turn()
            return self.breaker.fault or await send(next(tries))

        retrying = AsyncRetrying(
            retry=retry_if_result(lambda result: isinstance(result, Fault) and result.is_retried),
            stop=self._is_enough,
            wait=self._pause,
            retry_error_callback=_result,
        )
        return await retrying(once)

    async def _turn(self) -> None:
        """Wait until one more request may be sent: evenly spaced, first come first served."""
        now = asyncio.get_running_loop().time()
        mine = max(now, self._next_turn)
        self._next_turn = mine + self._interval
        await asyncio.sleep(mine - now)

    def _is_enough(self, state: RetryCallState) -> bool:
        """After all tries, or if the server wants a longer pause than is allowed: trying earlier would anger it."""
        return state.attempt_number >= self.limits.tries or _asked_pause(_result(state)) > self.limits.longest_wait_s

    def _pause(self, state: RetryCallState) -> float:
        """What the server asked for, plus a random time below a bound that doubles from 1 s ("full jitter")."""
        return min(_asked_pause(_result(state)) + self._jitter(state), self.limits.longest_wait_s)

    def _noted(self, result: Result | Fault) -> Result | Fault:
        self.breaker.note(result if isinstance(result, Fault) else None)
        return result


class Breaker:
    """Opens for a while after too many failed requests in a row or one unpaid bill, for good after a refused key."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self.fault: Fault | None = None  # what requests get while it is open, instead of being sent
        self._failed = 0
        self._rests_until = 0.0

    @property
    def is_resting(self) -> bool:
        """Whether it is too early for a trial."""
        return asyncio.get_running_loop().time() < self._rests_until

    def note(self, fault: Fault | None) -> None:
        """Learn how a request, all its tries included, has ended; None: with an answer."""
        if self._rests_until == math.inf or (fault is not None and fault.name in UNSENT):
            return
        if fault is None or not (fault.is_retried or fault.is_fatal or fault.name in LASTING):
            self._failed, self.fault = 0, None  # also a filter or a cut shows that the server is there
        elif fault.is_fatal:
            self._open(Fault(fault.name, fault.detail), math.inf)
        else:
            self._failed += 1
            asked = _asked_pause(fault)
            too_many = self._failed >= self.limits.breaker_failures or self.fault is not None
            if too_many or asked > self.limits.longest_wait_s or fault.name == "no_credit":
                detail = f"{self._failed} failed requests in a row, the last one with {fault.name}: {fault.detail}"
                self._open(Fault("circuit_open", detail), max(asked, self.limits.breaker_cooldown_s))

    def _open(self, fault: Fault, rest: float) -> None:
        self.fault = fault
        self._rests_until = asyncio.get_running_loop().time() + rest


def _asked_pause(result: object) -> float:
    """Retry-After, 0 if there was none."""
    return (result.retry_after_s or 0.0) if isinstance(result, Fault) else 0.0


def _result(state: RetryCallState) -> object:
    """What the last try came back with."""
    return state.outcome.result() if state.outcome is not None else None
