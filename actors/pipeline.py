"""Where an iteration's groups come from: sampled for it alone, or in a stream beside the training.

`rollout.staleness` says which.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from typing import Protocol

from int_ray.config import Config
from int_ray.data.batches import ProblemBatches
from int_ray.ports import Rollouts
from int_ray.types import Problem, ProblemSets, Purpose, RolloutGroup, RunState

FIRST_ROUND = 2  # in the seeds of a stream; 1 is the collection of schedule: paper
SLICE = 128  # groups submitted at once: about 5 ms of the loop's time


@dataclass(frozen=True)
class Batch:
    """Groups that are trained on together."""

    groups: list[RolloutGroup]  # of training problems
    mixed: list[RolloutGroup]  # of mixed-in ones

    @cached_property
    def all(self) -> list[RolloutGroup]:
        """Both kinds."""
        return [*self.groups, *self.mixed]


class Pipeline(Protocol):
    """Groups for every iteration. Call `aclose` in the end."""

    async def take(self, state: RunState) -> Batch:
        """What iteration `state.iteration` trains on. Raises what the sampling of a group raised."""
        ...

    async def advance(self, state: RunState) -> RunState:
        """Iteration `state.iteration` has published its weights: sample on. Adds what is under way to the state."""
        ...

    async def drain(self, state: RunState) -> Batch:
        """All that is under way, finished; the engines are idle until `advance`."""
        ...

    def restore(self, state: RunState) -> None:
        """Go on where the run stood, before the first `take`."""
        ...

    async def aclose(self) -> None:
        """End what is under way."""
        ...


class ProblemOrder:
    """The problems in the order of sampling, numbered from 0: `size` at a time, mixed-in ones last."""

    def __init__(self, problems: ProblemSets, config: Config) -> None:
        rollout, seed = config.rollout, config.run.seed
        self.train = ProblemBatches(problems.train, rollout.batch_size, seed)
        self.mixed = ProblemBatches(problems.mixed, rollout.mixed, seed)
        self.size = rollout.batch_size + rollout.mixed
        self.batch = lru_cache(maxsize=2)(self._batch)

    def _batch(self, index: int) -> tuple[Problem, ...]:
        """The problems of numbers `index * size` and on."""
        return self.train.batch(index) + self.mixed.batch(index)

    def __getitem__(self, number: int) -> Problem:
        return self.batch(number // self.size)[number % self.size]

    def is_mixed(self, number: int) -> bool:
        """Whether the problem is a mixed-in one."""
        return number % self.size >= self.train.batch_size


def build_pipeline(config: Config, problems: ProblemSets, rollouts: Rollouts) -> Pipeline:
    """The pipeline that `rollout.staleness` asks for."""
    kind = RolloutStream if config.rollout.staleness else OneBatch
    return kind(config, ProblemOrder(problems, config), rollouts)


class OneBatch:
    """Staleness 0: the engines sample a batch, then wait until it is trained."""

    def __init__(self, config: Config, order: ProblemOrder, rollouts: Rollouts) -> None:
        self.n = config.rollout.n
        self.order = order
        self.rollouts = rollouts

    async def take(self, state: RunState) -> Batch:
        """Sample the iteration's problems, all at once."""
        problems = self.order.batch(state.iteration - 1)
        groups = await self.rollouts.sample(problems, self.n, Purpose.TRAIN, state.iteration)
        train = self.order.train.batch_size
        return Batch(groups[:train], groups[train:])

    async def advance(self, state: RunState) -> RunState:
        """Nothing is under way."""
        return state

    async def drain(self, state: RunState) -> Batch:
        """Nothing is under way."""
        return Batch([], [])

    def restore(self, state: RunState) -> None:
        """The iteration says it all."""

    async def aclose(self) -> None:
        """Nothing is under way."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A group that is being sampled."""

    number: int  # of the problem, in ProblemOrder
    iteration: int  # the first that could train on it


class RolloutStream:
    """Samples up to `staleness` batches ahead of the training; stragglers go on while others are trained on.

    An iteration takes one batch of finished groups, the oldest first. No trained token is more than `staleness` policy
    versions behind, since an iteration publishes one version (a drain, which empties the stream, may publish more):
    - at most `staleness + 1` batches are under way;
    - an iteration waits until the groups that go on can all be trained, batch by batch, before they are too old.
    """

    def __init__(self, config: Config, order: ProblemOrder, rollouts: Rollouts) -> None:
        self.n = config.rollout.n
        self.staleness = config.rollout.staleness
        self.iterations = config.run.iterations
        self.order = order
        self.rollouts = rollouts
        self._next = 0  # number that has never been submitted
        self._again: deque[int] = deque()  # numbers that a run before this one submitted in vain
        self._running: dict[asyncio.Task[list[RolloutGroup]], Ticket] = {}  # oldest first
        self._arrived: asyncio.Queue[asyncio.Task[list[RolloutGroup]]] = asyncio.Queue()  # ended, still in _running
        self._finished: dict[int, RolloutGroup] = {}  # by number

    async def take(self, state: RunState) -> Batch:
        """The oldest finished groups. rollout.deadline_s of a group that an engine has taken ends the wait for it."""
        await self._submit_for(state.iteration)
        await self._collect_until(lambda: self._is_ready(state.iteration))
        return self._pop(self.order.size, state.policy_version)

    async def advance(self, state: RunState) -> RunState:
        """Fill the stream for the next iteration."""
        await self._submit_for(state.iteration + 1)
        pending = [*self._again, *self._finished, *(ticket.number for ticket in self._running.values())]
        return replace(state, submitted=self._next, pending=sorted(pending))

    async def drain(self, state: RunState) -> Batch:
        """Wait for all that is under way."""
        await self._collect_until(lambda: not self._running)
        return self._pop(len(self._finished), state.policy_version)

    def restore(self, state: RunState) -> None:
        """What had been submitted and not trained on is sampled first."""
        self._next = max(state.submitted, state.iteration * self.order.size)
        self._again = deque(state.pending)

    async def aclose(self) -> None:
        """Cancel what is under way."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _submit_for(self, iteration: int) -> None:
        """Fill the stream with what `iteration` and those after it need, and no more than the run has left.

        A slice at a time: the engines get it before the next is made, and nobody's answer waits for all slices.
        """
        batches = 1 + min(self.staleness, self.iterations - iteration)
        missing = batches * self.order.size - len(self._running) - len(self._finished)
        for first in range(0, missing, SLICE):
            self._submit(min(SLICE, missing - first), iteration)
            await asyncio.sleep(0)

    def _submit(self, count: int, iteration: int) -> None:
        for _ in range(count):
            number = self._number()
            # The number instead of an iteration: no two groups of a problem share their seeds.
            sampling = self.rollouts.sample([self.order[number]], self.n, Purpose.TRAIN, FIRST_ROUND + number)
            task = asyncio.ensure_future(sampling)
            self._running[task] = Ticket(number, iteration)
            task.add_done_callback(self._arrived.put_nowait)

    def _number(self) -> int:
        if self._again:
            return self._again.popleft()
        self._next += 1
        return self._next - 1

    async def _collect_until(self, is_enough: Callable[[], bool]) -> None:
        """Collect groups as they arrive. Raises what the sampling of one raised."""
        while not (self._arrived.empty() and is_enough()):
            task = await self._arrived.get()
            (group,) = task.result()
            self._finished[self._running.pop(task).number] = group

    def _is_ready(self, iteration: int) -> bool:
        """Whether a batch is finished and the running groups may go on.

        Of these, batch j, counted from 0 and oldest first, is trained on j + 1 iterations from now at the latest.
        """
        first_of_batches = islice(self._running.values(), 0, None, self.order.size)
        return len(self._finished) >= self.order.size and all(
            iteration + later - ticket.iteration <= self.staleness
            for later, ticket in enumerate(first_of_batches, start=1)
        )

    def _pop(self, size: int, policy_version: int) -> Batch:
        """The oldest finished groups, to update `policy_version` with."""
        batch = Batch([], [])
        for number in sorted(self._finished)[:size]:
            group = self._finished.pop(number)
            if any(policy_version - rollout.policy_version > self.staleness for rollout in group.rollouts):
                raise RuntimeError(
                    f"problem {group.problem.id} was sampled more than rollout.staleness = {self.staleness} versions "
                    f"before version {policy_version}, which is to be updated with it: the pipeline has a bug"
                )
            (batch.mixed if self.order.is_mixed(number) else batch.groups).append(group)
        return batch
