"""The rollout engines of a run: which of them are left, how busy each is, and the version that they sample with."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from actors.engine_client import Engine, EngineDiedError
from int_ray.ports import Progress


@dataclass(eq=False, slots=True)
class Member:
    """An engine at work."""

    name: str
    engine: Engine
    samples: int = 0  # that it was asked for and has not returned


class Fleet:
    """Hands out the engine that has the least to do. The rollout pool and the weight sync share it.

    An engine that was asked for `most_samples` or more gets nothing until it has returned some; callers wait in line.
    `policy_version` is the one that all engines run: the weight sync sets it.
    """

    def __init__(self, engines: Sequence[Engine], most_samples: int, progress: Progress) -> None:
        self.most_samples = most_samples
        self.progress = progress
        self.policy_version = 0
        self._members = [Member(f"rollout engine {index}", engine) for index, engine in enumerate(engines)]
        # Samples asked for -> members, the one that has waited longest first; no load without members.
        self._by_load = {0: dict.fromkeys(self._members)}
        self._line: deque[tuple[asyncio.Future[Member], int]] = deque()  # who waits, and for how many samples

    @property
    def members(self) -> list[Member]:
        """The engines that are left."""
        return list(self._members)

    @asynccontextmanager
    async def least_busy(self, samples: int) -> AsyncIterator[Member]:
        """An engine for a request of so many samples. Raises EngineDiedError if none is left."""
        member = await self._take(samples)
        try:
            yield member
        finally:
            self._change_load(member, -samples)
            self._serve()

    def lose(self, member: Member, error: EngineDiedError) -> None:
        """Take an engine out that is dead or not to be reached. Raises `error` if it was the last one."""
        if member in self._members:
            member.engine.kill()  # should it be alive after all, it would go on decoding for nobody
            self._members.remove(member)
            self._leave(member)
            left = len(self._members)
            self.progress.say(f"{member.name} is lost ({error}); {left} left")
        if not self._members:
            while self._line:
                turn, _ = self._line.popleft()
                if not turn.done():
                    turn.set_exception(error)
            raise error

    async def _take(self, samples: int) -> Member:
        if not self._members:
            raise EngineDiedError("no rollout engine is left")
        if not self._line and self._has_room():
            return self._reserve(samples)
        turn: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
        self._line.append((turn, samples))
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:  # its turn came in the same moment
                self._change_load(turn.result(), -samples)
                self._serve()
            raise

    def _serve(self) -> None:
        """Give engines to those who wait, as long as there is room."""
        while self._line and self._has_room():
            turn, samples = self._line.popleft()
            if not turn.done():
                turn.set_result(self._reserve(samples))

    def _has_room(self) -> bool:
        return min(self._by_load, default=self.most_samples) < self.most_samples

    def _reserve(self, samples: int) -> Member:
        member = next(iter(self._by_load[min(self._by_load)]))
        self._change_load(member, samples)
        return member

    def _change_load(self, member: Member, samples: int) -> None:
        if member not in self._by_load.get(member.samples, ()):
            return  # lost
        self._leave(member)
        member.samples += samples
        self._by_load.setdefault(member.samples, {})[member] = None

    def _leave(self, member: Member) -> None:
        peers = self._by_load[member.samples]
        del peers[member]
        if not peers:
            del self._by_load[member.samples]
