"""One engine and one learner with tied embeddings, one of each without, for all tests of the session."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from actors import local_ray
from actors.engine_client import EngineGroup, RemoteEngine, Sampling
from actors.engine_spawning import close_engines, spawn_engines
from actors.fleet import Fleet
from actors.learner import Learner
from actors.learner_rank import LearnerSettings
from actors.weight_sync import EngineWeightSync, weight_sender
from int_ray.config import ModelConfig, RolloutConfig
from int_ray.training_config import LearnerConfig, PatchConfig, PatchOptimizerConfig, ReinforceConfig
from int_ray.types import TokenIds, TrainingSample, Update
from tests.factories import tiny_checkpoint
from tests.fakes import FakeProgress

T = TypeVar("T")

API_KEY_ENV, API_KEY = "INT_RAY_TEST_KEY", "canary-key-4711"

TEMPERATURE = 0.6
NO_PREFIX = np.array([], np.int32)
PROMPT = np.arange(10, 30, dtype=np.int32)
# Longer than a block of the key-value cache (128 tokens), so that the prefix cache holds something.
LONG_PROMPT = np.random.default_rng(0).integers(5, 260, 300).astype(np.int32)


@dataclass
class Pair:
    """A learner and the engine that samples with its weights."""

    model: ModelConfig
    learner: Learner
    engine: RemoteEngine
    sync: EngineWeightSync

    def call(self, method: str, *arguments: object) -> Any:
        """Call the engine and wait."""
        return run(answer(self.engine, method, *arguments))

    def change_weights(self, seed: int = 0) -> Update:
        """Patch the learner on random tokens, hard enough that every log-prob moves."""
        return run(self.learner.patch(random_batches(seed)))

    def save(self, folder: Path) -> None:
        """The learner's checkpoint, whole."""

        async def whole() -> None:
            await self.learner.save(folder)
            await self.learner.saved(folder)

        run(whole())

    def error(self, prompt_ids: TokenIds, group: EngineGroup) -> float:
        """Largest log-prob difference between the engine's samples and the learner."""
        return max(
            float(np.abs(self.learner_logprobs(prompt_ids, one.token_ids) - one.rollout_logprobs).max())
            for one in group.completions()
        )

    def learner_logprobs(self, prompt_ids: TokenIds, token_ids: TokenIds) -> np.ndarray:
        """The learner's log-probs of a response."""
        ids = np.concatenate([prompt_ids, token_ids])
        return run(self.learner.logprobs(ids, TEMPERATURE))[len(prompt_ids) :]


def random_batches(seed: int) -> list[list[TrainingSample]]:
    """Three updates on one sequence of 40 random tokens."""
    token_ids = np.random.default_rng(seed).integers(5, 260, 40).astype(np.int32)
    return [[TrainingSample(token_ids, np.array([0] + [1] * 39, np.uint8))]] * 3


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end."""
    return asyncio.run(coroutine)


def sampling(n: int, seed: int, max_tokens: int) -> Sampling:
    """Nothing masked."""
    return Sampling(n, max_tokens, TEMPERATURE, seed=seed)


async def answer(engine: RemoteEngine, method: str, *arguments: object) -> Any:
    """One call of an engine."""
    return await getattr(engine, method)(*arguments)


def model_config(path: Path) -> ModelConfig:
    """A tiny checkpoint in fp32."""
    return ModelConfig(path=str(path), dtype="float32", max_length=400)


def rollout_config(num_engines: int = 1) -> RolloutConfig:
    """Nothing masked, so that engine and learner compute the same log-probs."""
    return RolloutConfig(
        max_tokens=40, temperature=TEMPERATURE, top_p=1.0, kv_cache_gb=0.25, num_engines=num_engines, deadline_s=60
    )


def learner_config(num_ranks: int) -> LearnerConfig:
    """FSDP2 over gloo."""
    return LearnerConfig(device="cpu", weight_sync="shm", num_ranks=num_ranks, deadline_s=60, micro_batch_tokens=512)


async def build_pair(path: Path, num_ranks: int) -> Pair:
    """Start an engine and a learner from one checkpoint."""
    model, rollout, config = model_config(path), rollout_config(), learner_config(num_ranks)
    patch = PatchConfig(optimizer=PatchOptimizerConfig(learning_rate=3e-3, lr_schedule="constant", warmup_ratio=0.0))
    settings = LearnerSettings(model, config, patch, ReinforceConfig(kl_coef=0), TEMPERATURE, 1, 0)
    (engine,), learner = await asyncio.gather(spawn_engines(model, rollout, config), Learner.start(settings))
    fleet = Fleet([engine], 2 * rollout.max_num_seqs, FakeProgress())
    new_sender = partial(weight_sender, model, rollout, config)
    return Pair(model, learner, engine, EngineWeightSync(fleet, learner, new_sender, PROMPT, TEMPERATURE, config))


@pytest.fixture(scope="session")
def local_cluster() -> Iterator[None]:
    """The Ray that a laptop run starts; its workers inherit the key to the test's API servers."""
    os.environ[API_KEY_ENV] = API_KEY
    local_ray.connect(None)
    yield
    local_ray.disconnect()


@pytest.fixture(scope="session")
def pairs(local_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pair]]:
    """Both pairs, started side by side: `tied` (2 learner ranks) and `untied` (1)."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = [tiny_checkpoint(folder / str(tied), tied=tied) for tied in (True, False)]

    async def start() -> list[Pair]:
        return await asyncio.gather(build_pair(paths[0], 2), build_pair(paths[1], 1))

    async def close() -> None:
        for pair in built:
            await close_engines([pair.engine])
            pair.learner.close()

    built = run(start())
    yield dict(zip(["tied", "untied"], built, strict=True))
    run(close())


@pytest.fixture(params=["tied", "untied"])
def pair(request: pytest.FixtureRequest, pairs: dict[str, Pair]) -> Pair:
    """Each pair in turn."""
    return pairs[request.param]


@pytest.fixture(scope="session")
def tied(pairs: dict[str, Pair]) -> Pair:
    """The pair with tied embeddings."""
    return pairs["tied"]
