"""A rollout engine without a model. In a module of its own, so that Ray's workers can import it."""

from __future__ import annotations

import asyncio
import os

import numpy as np

from actors.engine_client import EngineGroup, Sampling
from int_ray.types import TokenIds

DEADLY = 666  # a prompt that kills the engine


class FakeEngine:
    """Answers with the seed, the prefix length and the token limit as token ids; slow where the prompt says so."""

    def __init__(self, version: int = 0) -> None:
        self.version = version
        self.in_flight = 0
        self.most_in_flight = 0
        self.asked: list[Sampling] = []

    async def sample_group(self, prompt_ids: TokenIds, prefix_ids: TokenIds, sampling: Sampling) -> EngineGroup:
        if prompt_ids[0] == DEADLY:
            os._exit(1)
        if sampling.max_tokens > 1000:
            raise ValueError("cannot decode that much\nand a second line")
        self.in_flight += 1
        self.asked.append(sampling)
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(float(prompt_ids[0]) / 1000)
        finally:
            self.in_flight -= 1
        n = sampling.n
        ids = np.array([len(prefix_ids), sampling.max_tokens] * n, np.int32)
        logprobs, offsets = np.zeros(2 * n, np.float32), np.arange(0, 2 * n + 1, 2)
        return EngineGroup(ids, logprobs, offsets, ("",) * n, (True,) * n, sampling.seed, self.version)

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def probe(self) -> None:
        pass

    async def counts(self) -> tuple[int, int]:
        return len(self.asked), self.most_in_flight

    async def requests(self) -> list[Sampling]:
        return self.asked

    async def now_in_flight(self) -> int:
        return self.in_flight


class SpawnedEngine(FakeEngine):
    """The same with the arguments of a RolloutEngine."""

    def __init__(self, *settings: object) -> None:
        super().__init__()
