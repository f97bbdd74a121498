"""Builds an Ablation: engines, a learner that goes back to the base model for every patch, and a Collector."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from actors.ablation import Ablation
from actors.assembly import build_collecting, build_round, build_weight_sync, start_services, take_turns
from actors.collector import Collector
from actors.compute import connect_ray, learner_settings, start_compute
from actors.run_folder import RunFolder
from int_ray.config import Config
from int_ray.config_checks import num_gpus
from int_ray.ports import Ports, Progress
from int_ray.training_config import PatchConfig
from int_ray.types import Problem, ProblemSets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@asynccontextmanager
async def assemble_ablation(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    folder: RunFolder,
    progress: Progress,
) -> AsyncIterator[Ablation]:
    """An ablation that is ready to run; leaving the block ends every process that it started."""
    async with AsyncExitStack() as stack:
        await connect_ray(config.run.ray_address, num_gpus(config), progress, stack)
        services = await start_services(config, folder.path, progress, stack)
        fleet, learner = await start_compute(config, progress, stack)
        in_turn = take_turns(config, fleet, learner)
        weights = build_weight_sync(config, tokenizer, ProblemSets(problems), fleet, in_turn)
        collecting = await build_collecting(config, tokenizer, fleet, services, progress, stack)
        round_ = build_round(config, tokenizer, collecting)
        collector = Collector(config, problems, collecting, round_, folder, tokenizer)

        async def reset(patch: PatchConfig) -> None:
            async with fleet.turn:  # an engine that joins meanwhile waits for the next publish
                fleet.learner_in_step = False
                await learner.reset(replace(learner_settings(config), patch=patch))

        ports = Ports(**vars(collecting), learner=in_turn, weights=weights)
        yield Ablation(config, problems, ports, collector, folder, reset)
