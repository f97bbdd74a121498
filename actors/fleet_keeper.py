"""Keeps as many rollout engines at work as a run wants: replaces lost ones, finds hanging ones, lets new ones in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from actors.engine_client import Engine
from actors.failures import EngineCallError, EngineDiedError, EngineHungError
from actors.fleet import Fleet, Member
from actors.placement import SAY_EVERY_S
from int_ray.config import RolloutConfig
from int_ray.errors import RunError
from int_ray.ports import Progress

TICK_S = 1.0
LONGEST_PAUSE_S = 60.0  # between a start that failed and the next


class FleetKeeper:
    """Looks at the fleet every second.

    `start_engine` waits until there is room, then returns an engine with the weights of model.path, or raises
    EngineDiedError or TimeoutError with nothing left of it. `draining_nodes` are the hex ids of nodes that go soon.
    """

    def __init__(
        self,
        fleet: Fleet,
        start_engine: Callable[[], Awaitable[Engine]],
        draining_nodes: Callable[[], Awaitable[Collection[str]]],
        config: RolloutConfig,
        progress: Progress,
    ) -> None:
        self.fleet = fleet
        self.start_engine = start_engine
        self.draining_nodes = draining_nodes
        self.config = config
        self.progress = progress
        self._starting: set[asyncio.Task[None]] = set()
        self._probes: dict[Member, asyncio.Task[None]] = {}
        self._refresh: asyncio.Task[None] | None = None
        self._said_so = False  # that the budget is spent
        self._failed_in_a_row = 0
        self._not_before = 0.0  # when the next start may be, on the loop's clock
        self._empty_since: float | None = None
        self._next_word = 0.0  # when the wait for the first engine after the last is told of again
        fleet.is_kept = True

    async def run(self) -> None:
        """Until it is cancelled, which also ends what is being started, or finds no way to go on."""
        now = asyncio.get_running_loop().time
        for member in self.fleet.everyone:
            member.heard = now()
        try:
            async with asyncio.TaskGroup() as tasks:
                while self.fleet.is_kept:
                    self._retire(await self.draining_nodes())
                    self._replace(tasks, now())
                    self._let_in(tasks)
                    self._probe(tasks, now())
                    self._end_in_vain(now())
                    await asyncio.sleep(TICK_S)
                for task in self._starting:
                    task.cancel()
        finally:
            self.fleet.give_up("nobody replaces rollout engines any more")

    def _retire(self, draining: Collection[str]) -> None:
        """Nothing more for engines whose node is drained; they go when they have finished."""
        for member in self.fleet.everyone:
            if member.engine.place is not None and member.engine.place.node_id in draining:
                self.fleet.retire(member)
            # Not while weights are sent: all receivers of NCCL are one group.
            if member.is_leaving and member.samples == 0 and not self.fleet.turn.locked():
                self.fleet.lose(member, EngineDiedError("its node is drained"))

    def _replace(self, tasks: asyncio.TaskGroup, now: float) -> None:
        """Start what is missing, at once and after a failure a little later."""
        staying = sum(not member.is_leaving for member in self.fleet.everyone)
        missing = (self.config.max_engines or self.config.num_engines) - staying - len(self._starting)
        if missing <= 0 or now < self._not_before:
            return
        if self._is_budget_spent():
            if not self._said_so:
                self.progress.say(f"no more rollout engines are started: {self._budget()}")
                self._said_so = True
            return
        self._said_so = False
        for _ in range(missing):
            task = tasks.create_task(self._start())
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _start(self) -> None:
        try:
            engine = await self.start_engine()
        except (EngineDiedError, EngineCallError, TimeoutError) as error:
            self.fleet.failed_starts += 1
            self._failed_in_a_row += 1
            pause = min(2.0**self._failed_in_a_row, LONGEST_PAUSE_S)
            self._not_before = asyncio.get_running_loop().time() + pause
            self.fleet.last_error = error
            self.progress.say(f"a rollout engine did not start ({error}); the next try is in {pause:g} s")
            return
        self._failed_in_a_row = 0
        recruit = self.fleet.recruit(engine)
        if self.fleet.refresh is None:
            self.fleet.admit([recruit])

    def _budget(self) -> str:
        return f"more than {self.config.restarts} (rollout.restarts) were lost or did not start"

    def _is_budget_spent(self) -> bool:
        return self.fleet.lost + self.fleet.failed_starts > self.config.restarts

    def _let_in(self, tasks: asyncio.TaskGroup) -> None:
        """Have recruits brought the weights, unless the learner is about to publish newer ones anyhow."""
        is_running = self._refresh is not None and not self._refresh.done()
        if self.fleet.recruits and self.fleet.learner_in_step and not is_running:
            self._refresh = tasks.create_task(self._bring_weights())

    async def _bring_weights(self) -> None:
        assert self.fleet.refresh is not None  # otherwise there are no recruits
        try:
            await self.fleet.refresh()
        except RunError as error:
            self.fleet.learner_in_step = False  # the next publish brings them, or ends the run
            self.progress.say(f"new rollout engines wait for the next weights: {error}")
            if not self.fleet.members:
                self.fleet.give_up(str(error))

    def _probe(self, tasks: asyncio.TaskGroup, now: float) -> None:
        """Ask for a sign of life where there was none for long."""
        for member in self.fleet.everyone:
            if now - member.heard >= self.config.probe_s and member not in self._probes:
                self._probes[member] = tasks.create_task(self._await_sign_of_life(member))

    async def _await_sign_of_life(self, member: Member) -> None:
        probe_s = self.config.probe_s
        try:
            async with asyncio.timeout(probe_s):
                await member.engine.probe()
            member.heard = asyncio.get_running_loop().time()
        except TimeoutError:
            waited = f"{probe_s:g} s (rollout.probe_s)"
            self.fleet.lose(member, EngineHungError(f"no sign of life for {waited}, nor when asked for one"))
        except EngineDiedError as error:
            self.fleet.lose(member, error)
        except EngineCallError as error:
            self.fleet.lose(member, EngineDiedError(str(error)))
        finally:
            del self._probes[member]

    def _end_in_vain(self, now: float) -> None:
        """Give up when the last engine is gone and none came in its place."""
        if self.fleet.everyone:
            self._empty_since = None
            return
        if self._empty_since is None:
            self._empty_since, self._next_word = now, now + SAY_EVERY_S
        waited_s, deadline_s = now - self._empty_since, self.config.startup_deadline_s
        if self._is_budget_spent() and not self._starting:
            reason = self._budget()
        elif waited_s > deadline_s:
            reason = f"waited {deadline_s:g} s (rollout.startup_deadline_s) for another one"
        else:
            if now >= self._next_word:
                self.progress.say(f"still waiting for a rollout engine: {waited_s:.0f} s of at most {deadline_s:g} s")
                self._next_word += SAY_EVERY_S
            return
        cause = self.fleet.last_error
        self.fleet.give_up(f"the last rollout engine is lost ({cause}); {reason}")
