"""N worker processes behind the ChatModel protocol: API keys are read there, and requests are made there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from actors.oracle_workers import OracleWorkers
from int_ray.oracle_config import OracleConfig
from int_ray.oracles.api import CHECK_DEADLINE_S
from int_ray.oracles.chat import Answer, ChatModel, ChatRequest, Fault
from int_ray.oracles.gemini import GeminiModel
from int_ray.oracles.openai import OpenAIModel

GRACE_S = 10.0  # a model ends by itself at its deadline and says what it waited for; this is for workers that hang


class ChatWorker:
    """One API client in a process of its own."""

    def __init__(self, kind: str, config: OracleConfig) -> None:
        self.model: ChatModel = (
            GeminiModel(config.gemini, config.deadline_s)
            if kind == "gemini"
            else OpenAIModel(config.openai, config.deadline_s)
        )

    def describe(self) -> tuple[str, Mapping[str, Any], bool]:
        """The model's name, settings and whether it is cacheable."""
        return self.model.name, self.model.settings, self.model.cacheable

    async def check(self) -> Fault | None:
        """Whether key and model are accepted."""
        return await self.model.check()

    async def ask(self, request: ChatRequest) -> Answer | Fault:
        """One answer or fault."""
        return await self.model.ask(request)


class ChatPool:
    """Implements ChatModel; `ready` first, which sets the attributes. A worker that dies is a fault; it starts anew."""

    name: str
    settings: Mapping[str, Any]
    cacheable: bool

    def __init__(self, kind: str, config: OracleConfig) -> None:
        """`kind`: gemini or openai."""
        self.workers = OracleWorkers(ChatWorker, config, kind, config)
        self.deadline_s = config.deadline_s

    async def ready(self) -> None:
        """Wait for the workers. Raises OracleError, for instance when a key is missing where they run."""
        descriptions = await self.workers.first_replies(lambda worker: worker.describe.remote())
        self.name, self.settings, self.cacheable = descriptions[0]

    async def check(self) -> Fault | None:
        """Whether key and model are accepted, as one worker finds it."""
        async with self.workers.one() as worker:
            return await self._reply(worker, worker.check.remote(), CHECK_DEADLINE_S)

    async def ask(self, request: ChatRequest) -> Answer | Fault:
        """One request of the next worker, one answer or fault."""
        async with self.workers.one() as worker:
            return await self._reply(worker, worker.ask.remote(request), self.deadline_s)

    async def close(self) -> None:
        """End the workers, and their connections with them."""
        self.workers.close()

    async def _reply(self, worker: ActorHandle, call: ObjectRef, deadline_s: float) -> Any:
        try:
            return await asyncio.wait_for(call, deadline_s + GRACE_S)
        except TimeoutError:
            ray.kill(worker, no_restart=False)  # a stopped process would not hear of a cancelled call
            return Fault("timeout", "the oracle worker hangs; it starts anew")
        except RayTaskError:
            raise  # a mistake in int_ray: models turn everything that servers do into faults
        except RayError as error:
            return Fault("connection", f"the oracle worker died ({type(error).__name__}); it starts anew")
