"""Builds a Collector with everything behind its ports: a run without a learner."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from actors.assembly import build_collecting, build_round, start_services
from actors.collector import Collector
from actors.compute import connect_ray, start_engines
from actors.grader_pool import Reward
from actors.run_folder import RunFolder
from int_ray.config import Config
from int_ray.config_checks import engine_gpus
from int_ray.oracles import StepOracle
from int_ray.ports import Progress
from int_ray.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@asynccontextmanager
async def assemble_collector(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    folder: RunFolder,
    progress: Progress,
    *,
    oracle: StepOracle | None = None,
    reward: Reward | None = None,
) -> AsyncIterator[Collector]:
    """A collector that is ready to run; leaving the block ends every process that it started.

    `oracle` and `reward` replace what the config names.
    """
    async with AsyncExitStack() as stack:
        await connect_ray(config.run.ray_address, engine_gpus(config), progress, stack)
        services = await start_services(config, folder.path, progress, stack, reward=reward, oracle=oracle)
        progress.phase("starting the rollout engines")
        progress.say("Imports and the first use of everything take about a minute")
        fleet = await start_engines(config, progress, stack)
        ports = await build_collecting(config, tokenizer, fleet, services, progress, stack)
        yield Collector(config, problems, ports, build_round(config, tokenizer, ports), folder, tokenizer)
