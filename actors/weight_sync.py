"""Learner -> engines: send the weights, stamp their version, check on a canary that both sides agree on log-probs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar, cast

import numpy as np
from ray.exceptions import RayError

from actors.engine_client import Engine, EngineGroup, RemoteEngine, cause_of
from actors.failures import EngineCallError, EngineDiedError, EngineHungError
from actors.fleet import Fleet, Member
from actors.update_client import UpdateClient
from actors.weight_senders import NativeSender, SharedMemorySender, WeightSender
from int_ray.config import ModelConfig, RolloutConfig
from int_ray.errors import LearnerError, RunError
from int_ray.training_config import LearnerConfig
from int_ray.types import Logprobs, TokenIds

T = TypeVar("T")
LOOK_S = 1.0  # between looks for receivers that are lost


class WeightSyncError(RunError):
    """The engines do not have the learner's weights, or are not known to have them."""


class SendingLearner(Protocol):
    """The part of the learner that a weight sync uses."""

    @property
    def starts(self) -> int:
        """How often its ranks were started; new ones know of no sender."""
        ...

    async def open_weight_sender(self, sender: WeightSender) -> None:
        """Hand the strategy to every rank."""
        ...

    async def send_weights(self) -> object:
        """Have every rank call `sender.send(model, is_main)`."""
        ...

    def close(self) -> None:
        """End the ranks, whatever they are doing; whoever asks them for something gets a LearnerError."""
        ...

    async def logprobs(self, token_ids: TokenIds, temperature: float) -> Logprobs:
        """[T] -> [T]; position t holds the log-prob of token t given those before it."""
        ...


NewSender = Callable[[Sequence[Member]], WeightSender]


def weight_sender(
    model: ModelConfig, rollout: RolloutConfig, learner: LearnerConfig, members: Sequence[Member]
) -> WeightSender:
    """The strategy that `learner.weight_sync` names, for these engines."""
    handles = [cast(RemoteEngine, member.engine).handle for member in members]
    if learner.weight_sync == "shm":
        # Sooner than rank 0 is late itself, or the other ranks are tired of waiting for it.
        deadline_s = min(learner.deadline_s, learner.collective_timeout_s) / 2
        client = UpdateClient(handles, rollout.tensor_parallel_size, deadline_s, kills_late=True)
        return SharedMemorySender(client, model.dtype)
    client = UpdateClient(handles, rollout.tensor_parallel_size, learner.deadline_s)
    return NativeSender(client, model.dtype, learner.weight_sync)


class EngineWeightSync:
    """Implements the WeightSync port. A sender of `new_sender` goes to the learner's ranks at the first `publish`, and
    another one whenever the engines are others than before.

    An engine that dies on the way is lost, and the others go on: none serves before all of it has arrived. So is one
    that is late, which nobody else would find: no probe asks a paused engine for a token. With NCCL this holds before
    and after the transfer itself. All receivers are one group there, and hang with the learner when one dies in
    mid-transfer: once that is known, or after `learner.deadline_s`, all of them are started anew.
    """

    def __init__(
        self,
        fleet: Fleet,
        learner: SendingLearner,
        new_sender: NewSender,
        canary_prompt: TokenIds,
        temperature: float,
        config: LearnerConfig,
    ) -> None:
        self.fleet = fleet
        self.learner = learner
        self.new_sender = new_sender
        self.canary_prompt = canary_prompt
        self.temperature = temperature
        self.config = config
        self._tolerance = 0.0
        # What the learner's sender knows: which start of its ranks, and the engines.
        self._opened_for: tuple[int, list[Member]] = 0, []

    async def publish(self, policy_version: int) -> Mapping[str, float]:
        """Bring the learner's weights to every engine as `policy_version` and check them. Raises WeightSyncError."""
        async with self.fleet.turn:
            started = time.monotonic()
            mean, worst = await self._bring(policy_version, self.fleet.everyone)
            self.fleet.learner_in_step = True
        return {"sync/seconds": time.monotonic() - started, "sync/canary_error": mean, "sync/canary_worst": worst}

    async def refresh(self) -> None:
        """Bring what the other engines have to the recruits alone; nothing while the learner is ahead of that."""
        async with self.fleet.turn:
            if self.fleet.learner_in_step and self.fleet.recruits:
                await self._bring(self.fleet.policy_version, self.fleet.recruits)

    async def _bring(self, policy_version: int, members: Sequence[Member]) -> tuple[float, float]:
        """Weights to these engines; returns the canary's errors."""
        members = [member for member, _ in await self._on_each(members, "pause", lambda engine: engine.pause())]
        if members:
            await self._send(members)
        resumed = await self._on_each(members, "resume", lambda engine: engine.resume(policy_version))
        canaries = await self._on_each(
            [member for member, _ in resumed],
            "sample",
            lambda engine: engine.canary(self.canary_prompt, policy_version),
        )
        mean, worst = await self._canary_errors([canary for _, canary in canaries])
        if not mean <= self._tolerance:  # NaN is an error too
            raise WeightSyncError(
                f"weights version {policy_version}: engine and learner differ by {mean:.2g} in their log-probs of a "
                f"token (learner.canary_tolerance: {self._tolerance:.2g}); the engines do not run these weights"
            )
        self.fleet.policy_version = policy_version
        self.fleet.admit([member for member, _ in canaries if member in self.fleet.recruits])
        return mean, worst

    async def _send(self, members: list[Member]) -> None:
        try:
            if self._opened_for != (self.learner.starts, members):
                await self._explained("the learner to open its weight sender", self._open(members))
            await self._explained("the learner to send its weights", self._sent(members))
        except LearnerError:
            if self.config.weight_sync == "nccl":  # learner and receivers may wait for each other, deaf to all else
                self.learner.close()
                for member in members:
                    cause = EngineDiedError("the learner was lost while it sent weights")
                    self.fleet.lose(member, cause, is_fault=False)
            raise

    async def _sent(self, members: Sequence[Member]) -> None:
        """Wait for the learner, with NCCL only as long as all receivers live."""
        sending = asyncio.ensure_future(self.learner.send_weights())
        try:
            while not (await asyncio.wait({sending}, timeout=LOOK_S))[0]:
                lost = [member.name for member in members if member not in self.fleet.everyone]
                if lost and self.config.weight_sync == "nccl":
                    raise LearnerError(f"{', '.join(lost)} was lost while weights were sent over NCCL")
            sending.result()
        finally:
            sending.cancel()

    async def _open(self, members: list[Member]) -> None:
        self._opened_for = 0, []
        starts = self.learner.starts
        sender = self.new_sender(members)
        await self.learner.open_weight_sender(sender)
        # bfloat16 engines round differently from the learner.
        self._tolerance = self.config.canary_tolerance or (1e-3 if sender.dtype == "float32" else 0.1)
        self._opened_for = starts, members

    async def _canary_errors(self, canaries: Sequence[EngineGroup]) -> tuple[float, float]:
        """Log-prob difference of the engine that differs most: mean over its canary's tokens, and largest of all.

        Single unlikely tokens differ much in bfloat16. Engines with equal weights mostly draw the same canary.
        """
        recomputed: dict[bytes, Logprobs] = {}
        errors = [np.zeros(1, np.float32)]  # where no engine is left
        for canary in canaries:
            key = canary.token_ids.tobytes()
            if key not in recomputed:
                token_ids = np.concatenate([self.canary_prompt, canary.token_ids])
                logprobs = self.learner.logprobs(token_ids, self.temperature)
                recomputed[key] = await self._explained("the learner's canary log-probs", logprobs)
            expected = recomputed[key][len(self.canary_prompt) :]  # [T]
            errors.append(np.abs(canary.rollout_logprobs - expected))
        # numpy's maximum, unlike Python's, is NaN if any is.
        return float(np.max([error.mean() for error in errors])), float(np.max(np.concatenate(errors)))

    async def _on_each(
        self, members: Sequence[Member], what: str, call: Callable[[Engine], Awaitable[T]]
    ) -> list[tuple[Member, T]]:
        """The engines that live and their answers; those that do not, or are late, are lost."""
        deadline_s = self.config.deadline_s

        async def ask(member: Member) -> list[tuple[Member, T]]:
            wanted = f"{member.name} to {what}"
            try:
                async with asyncio.timeout(deadline_s):
                    return [(member, await self._explained(wanted, call(member.engine)))]
            except TimeoutError:
                waited = f"waited {deadline_s:g} s (learner.deadline_s) for {wanted}"
                self.fleet.lose(member, EngineHungError(waited))
            except EngineDiedError as error:
                self.fleet.lose(member, error)
            return []

        answers = await asyncio.gather(*map(ask, members))
        return [one for answer in answers for one in answer]

    async def _explained(self, what: str, call: Awaitable[T]) -> T:
        """Await a call that ends by itself; the learner's end is a LearnerError, after which another one is started."""
        try:
            return await call
        except EngineDiedError as error:
            raise EngineDiedError(f"weight sync failed while waiting for {what}: {error}") from error
        except EngineCallError as error:
            raise WeightSyncError(f"weight sync failed while waiting for {what}: {error}") from error
        except RayError as error:  # what a learner rank raised, a TimeoutError for engines of its NCCL group included
            raise WeightSyncError(f"weight sync failed while waiting for {what}: {cause_of(error)}") from error
