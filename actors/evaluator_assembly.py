"""Builds what samples without training: an Evaluator or a HardSetSelector, with engines and no learner."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from actors.assembly import Services, build_collecting, start_services
from actors.compute import connect_ray, start_engines
from actors.evaluator import Evaluator
from actors.hard_set import HardSetSelector
from int_ray.config import Config
from int_ray.config_checks import engine_gpus
from int_ray.decoding import served
from int_ray.oracles.model_oracle import ModelOracle
from int_ray.oracles.solver import Solver
from int_ray.ports import Progress, Rollouts
from int_ray.result_folder import ResultFolder
from int_ray.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@asynccontextmanager
async def assemble_evaluator(
    config: Config,
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
    sets: Mapping[str, Sequence[Problem]],
    folder: ResultFolder,
    progress: Progress,
) -> AsyncIterator[Evaluator]:
    """An evaluator that is ready to run; leaving the block ends every process that it started.

    `tokenizers` are those of the checkpoints, by their paths.
    """
    async with AsyncExitStack() as stack:
        await connect_ray(config.run.ray_address, engine_gpus(config), progress, stack)
        services = await start_services(config, folder.path, progress, stack)

        def serve(path: str) -> AbstractAsyncContextManager[Rollouts]:
            return serve_rollouts(served(config, path), tokenizers[path], services, progress)

        yield Evaluator(config, sets, folder, progress, serve)


@asynccontextmanager
async def assemble_selector(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    folder: ResultFolder,
    progress: Progress,
) -> AsyncIterator[HardSetSelector]:
    """A selector of hard problems that is ready to run; leaving the block ends every process that it started."""
    async with AsyncExitStack() as stack:
        await connect_ray(config.run.ray_address, engine_gpus(config), progress, stack)
        services = await start_services(config, folder.path, progress, stack)
        solver = None
        if config.hard_set.oracle_solves:
            oracle = services.oracles[config.oracle.kind]
            assert isinstance(oracle, ModelOracle)  # checked with the config
            solver = Solver(oracle.chat)
        serve = partial(serve_rollouts, config, tokenizer, services, progress)
        yield HardSetSelector(config, problems, folder, progress, serve, services.grader, solver)


@asynccontextmanager
async def serve_rollouts(
    config: Config, tokenizer: PreTrainedTokenizerBase, services: Services, progress: Progress
) -> AsyncIterator[Rollouts]:
    """Engines with the weights of model.path."""
    async with AsyncExitStack() as stack:
        progress.phase("starting the rollout engines")
        progress.say(f"Loading {config.model.path}; imports and the first use of everything take about a minute")
        fleet = await start_engines(config, progress, stack)
        yield (await build_collecting(config, tokenizer, fleet, services, progress, stack)).rollouts
