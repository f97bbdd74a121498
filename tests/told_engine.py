"""A real rollout engine that tells a Story."""

from __future__ import annotations

import psutil

from actors.engine_client import EngineGroup, Sampling
from actors.rollout_engine import RolloutEngine
from int_ray.types import TokenIds
from tests.stand_ins import Story


class ToldEngine(RolloutEngine):
    """Says who it is, which of its processes is vLLM's, and what it is about to sample."""

    async def start(self) -> None:
        await super().start()
        children = psutil.Process().children(recursive=True)
        core = max(children, key=lambda child: child.memory_info().rss)
        Story().tell("engine", core=core.pid)

    async def sample_group(self, prompt_ids: TokenIds, prefix_ids: TokenIds, sampling: Sampling) -> EngineGroup:
        version = self._policy_version
        event = "continuing" if len(prefix_ids) else "sampling"
        await Story().arrive_async(event, seed=sampling.seed, version=version, weights=f"not read, {version}")
        return await super().sample_group(prompt_ids, prefix_ids, sampling)
