"""The learner as coordinator and weight sync see it: it changes its weights or sends them, never both at once.

With an engine on its GPU the two also take turns there. The order is fixed: engine sleeps, learner works, the engine's
weights wake, new weights are sent, its cache wakes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from actors.engine_client import Engine
from actors.failures import EngineDiedError, EngineHungError
from actors.fleet import Fleet, Member
from actors.weight_senders import WeightSender
from actors.weight_sync import SendingLearner
from int_ray import ports
from int_ray.types import Logprobs, TokenIds, Update, UpdateBatches


class WholeLearner(ports.Learner, SendingLearner, Protocol):
    """What coordinator and weight sync use of a learner."""


class LearnerInTurn:
    """A learner that says in the fleet when its weights are others than the engines'."""

    def __init__(self, learner: WholeLearner, fleet: Fleet) -> None:
        self.learner = learner
        self.fleet = fleet

    async def patch(self, batches: UpdateBatches) -> Update:
        """See ports.Learner."""
        return await self._change(partial(self.learner.patch, batches))

    async def reinforce(self, batches: UpdateBatches) -> Update:
        """See ports.Learner."""
        return await self._change(partial(self.learner.reinforce, batches))

    async def save(self, folder: Path) -> None:
        """See ports.Learner."""
        await self.learner.save(folder)

    async def saved(self, folder: Path) -> None:
        """See ports.Learner."""
        await self.learner.saved(folder)

    async def restart(self, folder: Path | None) -> None:
        """See ports.Learner."""
        async with self.fleet.turn:
            self.fleet.learner_in_step = False
            await self.learner.restart(folder)

    async def logprobs_of(self, sequences: Sequence[TokenIds], temperature: float) -> list[Logprobs]:
        """See ports.Learner."""
        async with self.fleet.turn:
            return await self.learner.logprobs_of(sequences, temperature)

    @property
    def starts(self) -> int:
        """See SendingLearner."""
        return self.learner.starts

    async def open_weight_sender(self, sender: WeightSender) -> None:
        """See SendingLearner."""
        await self.learner.open_weight_sender(sender)

    async def send_weights(self) -> object:
        """See SendingLearner."""
        return await self.learner.send_weights()

    def close(self) -> None:
        """See SendingLearner."""
        self.learner.close()

    async def logprobs(self, token_ids: TokenIds, temperature: float) -> Logprobs:
        """See SendingLearner."""
        return await self.learner.logprobs(token_ids, temperature)

    async def _change(self, work: Callable[[], Awaitable[Update]]) -> Update:
        fleet = self.fleet
        async with fleet.turn:
            was_in_step, fleet.learner_in_step = fleet.learner_in_step, False
            update = await work()
            fleet.learner_in_step = was_in_step and not update.changed_weights
        return update


class ColocatedLearner(LearnerInTurn):
    """A learner that has the GPU to itself while it patches, reinforces or computes log-probs for an evaluation."""

    def __init__(self, learner: WholeLearner, fleet: Fleet, deadline_s: float) -> None:
        super().__init__(learner, fleet)
        self.deadline_s = deadline_s
        self._engines_sleep = False

    async def logprobs_of(self, sequences: Sequence[TokenIds], temperature: float) -> list[Logprobs]:
        """See ports.Learner. Engines that were awake are awake again afterwards, with the weights that they had."""
        async with self.fleet.turn:
            were_awake = not self._engines_sleep
            await self._put_to_sleep()
            found = await self.learner.logprobs_of(sequences, temperature)
            if were_awake:
                await self._wake()
            return found

    async def send_weights(self) -> object:
        """Wake the weights, send, and only then wake the cache: the learner's copy needs its room."""
        if not self._engines_sleep:
            return await self.learner.send_weights()
        await self._on_engines("wake its weights", lambda engine: engine.wake("weights"))
        sent = await self.learner.send_weights()
        await self._on_engines("wake its cache", lambda engine: engine.wake("kv_cache"))
        self._engines_sleep = False
        return sent

    async def _change(self, work: Callable[[], Awaitable[Update]]) -> Update:
        return await super()._change(partial(self._alone, work))

    async def _alone(self, work: Callable[[], Awaitable[Update]]) -> Update:
        await self._put_to_sleep()
        update = await work()
        if not update.changed_weights:  # nobody will send any
            await self._wake()
        return update

    async def _put_to_sleep(self) -> None:
        if not self._engines_sleep:
            await self._on_engines("fall asleep", lambda engine: engine.sleep())
            self._engines_sleep = True

    async def _wake(self) -> None:
        await self._on_engines("wake its weights", lambda engine: engine.wake("weights"))
        await self._on_engines("wake its cache", lambda engine: engine.wake("kv_cache"))
        self._engines_sleep = False

    async def _on_engines(self, what: str, call: Callable[[Engine], Awaitable[None]]) -> None:
        """An engine that dies or is late is lost, and gives its share of the GPU back."""

        async def ask(member: Member) -> None:
            try:
                await asyncio.wait_for(call(member.engine), self.deadline_s)
            except TimeoutError:
                waited = f"{self.deadline_s:g} s (learner.deadline_s)"
                self.fleet.lose(member, EngineHungError(f"waited {waited} for it to {what}"))
            except EngineDiedError as error:
                self.fleet.lose(member, error)

        await asyncio.gather(*map(ask, self.fleet.members))
