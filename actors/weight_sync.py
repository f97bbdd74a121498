"""Learner -> engines: send the weights, stamp their version, check on a canary that both sides agree on log-probs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.rollout_engine import EngineGroup, cause_of
from actors.weight_senders import EngineClient, NativeSender, SharedMemorySender, WeightSender
from int_ray.config import ModelConfig, RolloutConfig
from int_ray.errors import RunError
from int_ray.training_config import LearnerConfig
from int_ray.types import Logprobs, TokenIds

T = TypeVar("T")


class WeightSyncError(RunError):
    """The engines do not have the learner's weights, or are not known to have them."""


class SendingLearner(Protocol):
    """The part of the learner that a weight sync uses."""

    async def open_weight_sender(self, sender: WeightSender) -> None:
        """Hand the strategy to every rank."""
        ...

    async def send_weights(self) -> object:
        """Have every rank call `sender.send(model, is_main)`."""
        ...

    async def logprobs(self, token_ids: TokenIds, temperature: float) -> Logprobs:
        """[T] -> [T]; position t holds the log-prob of token t given those before it."""
        ...


def weight_sender(
    engines: Sequence[ActorHandle], model: ModelConfig, rollout: RolloutConfig, learner: LearnerConfig
) -> WeightSender:
    """The strategy that `learner.weight_sync` names."""
    client = EngineClient(engines, rollout.tensor_parallel_size, learner.deadline_s)
    if learner.weight_sync == "shm":
        return SharedMemorySender(client, model.dtype)
    return NativeSender(client, model.dtype, learner.weight_sync)


class EngineWeightSync:
    """Implements the WeightSync port. `sender` goes to the learner's ranks at the first `publish`."""

    def __init__(
        self,
        engines: Sequence[ActorHandle],
        learner: SendingLearner,
        sender: WeightSender,
        canary_prompt: TokenIds,
        temperature: float,
        config: LearnerConfig,
    ) -> None:
        self.engines = engines
        self.learner = learner
        self.sender = sender
        self.canary_prompt = canary_prompt
        self.temperature = temperature
        self.config = config
        # bfloat16 engines round differently from the learner.
        self.tolerance = config.canary_tolerance or (1e-3 if sender.dtype == "float32" else 0.1)
        self._is_open = False

    async def publish(self, policy_version: int) -> Mapping[str, float]:
        """Bring the learner's weights to every engine as `policy_version` and check them. Raises WeightSyncError."""
        started = time.monotonic()
        if not self._is_open:
            await self._within_deadline("the learner to open its weight sender", self._open())
        await self._on_engines("pause")
        await self._within_deadline("the learner to send its weights", self.learner.send_weights())
        await self._on_engines("resume", policy_version)
        error = await self._canary_error(policy_version)
        if not error <= self.tolerance:  # NaN is an error too
            raise WeightSyncError(
                f"weights version {policy_version}: engine and learner differ by {error:.2g} in a token's log-prob "
                f"(learner.canary_tolerance: {self.tolerance:.2g}); the engines do not run these weights"
            )
        return {"sync/seconds": time.monotonic() - started, "sync/canary_error": error}

    async def _open(self) -> None:
        await self.learner.open_weight_sender(self.sender)
        self._is_open = True

    async def _canary_error(self, policy_version: int) -> float:
        """Largest log-prob difference over all engines. Engines with equal weights mostly draw the same canary."""
        canaries: list[EngineGroup] = await self._on_engines("canary", self.canary_prompt, policy_version)
        recomputed: dict[bytes, Logprobs] = {}
        errors = []
        for canary in canaries:
            key = canary.token_ids.tobytes()
            if key not in recomputed:
                token_ids = np.concatenate([self.canary_prompt, canary.token_ids])
                logprobs = self.learner.logprobs(token_ids, self.temperature)
                recomputed[key] = await self._within_deadline("the learner's canary log-probs", logprobs)
            expected = recomputed[key][len(self.canary_prompt) :]  # [T]
            errors.append(float(np.abs(canary.rollout_logprobs - expected).max()))
        return max(errors)

    async def _on_engines(self, method: str, *arguments: object) -> list[EngineGroup]:
        calls = (
            self._within_deadline(f"rollout engine {index} in {method}", getattr(engine, method).remote(*arguments))
            for index, engine in enumerate(self.engines)
        )
        return await asyncio.gather(*calls)

    async def _within_deadline(self, what: str, call: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(call, self.config.deadline_s)
        except RayError as error:
            raise WeightSyncError(f"weight sync failed while waiting for {what}: {cause_of(error)}") from error
        except TimeoutError:
            waited = f"{self.config.deadline_s:g} s (learner.deadline_s)"
            raise WeightSyncError(f"weight sync waited {waited} for {what}") from None
