"""The rollout engines of a run: which of them work, how busy each is, and the version that they sample with."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from actors.engine_client import Engine
from actors.failures import EngineDiedError, FleetLostError
from int_ray.ports import Progress


@dataclass(eq=False, slots=True)
class Member:
    """An engine of the fleet."""

    name: str
    engine: Engine
    samples: int = 0  # that it was asked for and has not returned
    heard: float = float("-inf")  # when it last gave a sign of life, on the loop's clock
    is_leaving: bool = False  # it finishes what it has, and gets nothing more
    bare: Engine = field(init=False)  # without what `wrap_engines` has put around it

    def __post_init__(self) -> None:
        self.bare = self.engine


class Fleet:
    """Hands out the engine that has the least to do. Rollout pool, weight sync and keeper share it.

    An engine that was asked for `most_samples` or more gets nothing until it has returned some; callers wait in line.
    An engine that joins later is a recruit until it has the weights of `policy_version`: the weight sync admits it.
    """

    def __init__(self, engines: Sequence[Engine], most_samples: int, progress: Progress) -> None:
        self.most_samples = most_samples
        self.progress = progress
        self.policy_version = 0  # that all members run
        self.turn = asyncio.Lock()  # who changes the learner's weights, or brings them to engines, has it
        self.learner_in_step = False  # the learner's weights are those of policy_version
        # Brings them to the recruits; None where nobody trains: the weights that engines start with are the right ones.
        self.refresh: Callable[[], Awaitable[None]] | None = None
        self.is_kept = False  # a keeper replaces what is lost
        self.lost = 0  # engines since the run began, but for those that were leaving
        self.failed_starts = 0  # of engines, since then
        self.last_error: Exception | None = None  # what the latest engine was lost to
        self._end: FleetLostError | None = None  # what to raise when there is no engine
        self._wrap: Callable[[Engine, str], Engine] = lambda engine, name: engine
        self._numbers = itertools.count()
        self._members = [Member(self._new_name(), engine) for engine in engines]
        self._recruits: list[Member] = []
        # Samples asked for -> members at work, the one that has waited longest first; no load without members.
        self._by_load = {0: dict.fromkeys(self._members)}
        self._line: deque[tuple[asyncio.Future[Member], int]] = deque()  # who waits, and for how many samples

    @property
    def members(self) -> list[Member]:
        """The engines that sample, those that are leaving included."""
        return list(self._members)

    @property
    def recruits(self) -> list[Member]:
        """The engines that wait for the weights of the others."""
        return list(self._recruits)

    @property
    def everyone(self) -> list[Member]:
        """Both."""
        return [*self._members, *self._recruits]

    @property
    def waiting(self) -> int:
        """Requests that no engine has room for."""
        return len(self._line)

    def begin_run(self) -> None:
        """Another run begins: what was lost before does not count for it."""
        self.lost = self.failed_starts = 0

    def wrap_engines(self, wrap: Callable[[Engine, str], Engine]) -> None:
        """Replace every engine, present and future, by `wrap(engine, name)`; an earlier wrapping is undone."""
        self._wrap = wrap
        for member in self.everyone:
            member.engine = wrap(member.bare, member.name)

    def recruit(self, engine: Engine) -> Member:
        """A new engine, with the weights of model.path."""
        name = self._new_name()
        member = Member(name, engine, heard=asyncio.get_running_loop().time())
        member.engine = self._wrap(engine, name)
        self._recruits.append(member)
        return member

    def admit(self, recruits: Sequence[Member]) -> None:
        """They have the weights of `policy_version` and get work, but for those that are leaving by now."""
        for member in recruits:
            self._recruits.remove(member)
            self._members.append(member)
            if not member.is_leaving:
                self._by_load.setdefault(0, {})[member] = None
                self.progress.say(f"{member.name} joins; {len(self._members)} at work")
        self._serve()

    def retire(self, member: Member) -> None:
        """No more work for an engine that will be gone soon."""
        if not member.is_leaving:
            member.is_leaving = True
            self.progress.say(f"{member.name} finishes what it has ({member.samples} samples): its node is drained")
            if member in self._members:
                self._leave(member)

    def lose(self, member: Member, error: EngineDiedError, *, is_fault: bool = True) -> None:
        """Take an engine out that is dead or not to be reached; nothing if it is out already.

        Not its fault: it costs no restart.
        """
        if member not in self._members and member not in self._recruits:
            return
        member.engine.kill()  # should it be alive after all, it would go on decoding for nobody
        self._remove(member)
        self.last_error = error
        self.lost += is_fault and not member.is_leaving
        self.progress.say(f"{member.name} is lost ({error}); {len(self._members)} left")
        if not self._by_load and not self.is_kept:
            self.give_up(f"no rollout engine is left: {error}")

    def give_up(self, reason: str) -> None:
        """Nobody replaces engines any more. Once none takes work, whoever wants one gets FleetLostError."""
        self.is_kept, self._end = False, FleetLostError(reason)
        while not self._by_load and self._line:
            turn, _ = self._line.popleft()
            if not turn.done():
                turn.set_exception(self._end)

    @asynccontextmanager
    async def least_busy(self, samples: int) -> AsyncIterator[Member]:
        """An engine for a request of so many samples. Raises FleetLostError if none is left and none will come."""
        member = await self._take(samples)
        try:
            yield member
        finally:
            self._change_load(member, -samples)
            self._serve()

    async def _take(self, samples: int) -> Member:
        if not self._by_load and not self.is_kept:
            raise self._end or FleetLostError("there is no rollout engine")
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
        at_work = member in self._by_load.get(member.samples, ())  # it may be lost, or leaving
        if at_work:
            self._leave(member)
        member.samples += samples
        if at_work:
            self._by_load.setdefault(member.samples, {})[member] = None

    def _remove(self, member: Member) -> None:
        if member in self._recruits:
            self._recruits.remove(member)
            return
        self._members.remove(member)
        if not member.is_leaving:
            self._leave(member)

    def _leave(self, member: Member) -> None:
        """Take it from those that get work."""
        peers = self._by_load[member.samples]
        del peers[member]
        if not peers:
            del self._by_load[member.samples]

    def _new_name(self) -> str:
        return f"rollout engine {next(self._numbers)}"
