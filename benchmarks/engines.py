"""One real rollout engine on a local Ray, with random weights."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors import local_ray
from actors.engine_client import RemoteEngine, Sampling
from actors.engine_spawning import close_engines, spawn_engines
from benchmarks.measure import Figure, Scale
from benchmarks.workloads import qwen3_config
from int_ray.config import ModelConfig, RolloutConfig
from int_ray.training_config import LearnerConfig
from int_ray.types import TokenIds

NO_PREFIX: TokenIds = np.array([], np.int32)


@dataclass(frozen=True)
class Shape:
    """A Qwen3."""

    hidden: int
    layers: int
    vocabulary: int
    heads: int
    head_dim: int = 64


TINY_SHAPE = Shape(64, 2, 512, 2, 32)


@dataclass(frozen=True)
class Settings:
    """What an engine starts with."""

    model: ModelConfig
    rollout: RolloutConfig
    learner: LearnerConfig


def write_checkpoint(folder: Path, shape: Shape) -> Settings:
    """A random bfloat16 model with tokenizer, and the settings of one CPU engine for it."""
    import torch
    from transformers import Qwen3ForCausalLM

    from int_ray.chains.tokenizer import build_tokenizer

    torch.manual_seed(0)
    config = qwen3_config(shape.hidden, shape.layers, shape.vocabulary, heads=shape.heads, head_dim=shape.head_dim)
    model: Any = Qwen3ForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return Settings(
        ModelConfig(path=str(folder), dtype="bfloat16", max_length=512),
        RolloutConfig(max_tokens=400, temperature=1.0, top_p=1.0, kv_cache_gb=0.5, deadline_s=300),
        LearnerConfig(device="cpu", weight_sync="shm", deadline_s=300),
    )


def with_engine(shape: Shape, measure: Callable[[RemoteEngine, Settings], Awaitable[list[Figure]]]) -> list[Figure]:
    """What `measure` finds on an engine of its own."""

    async def run() -> list[Figure]:
        async with one_engine(shape) as (engine, settings):
            return await measure(engine, settings)

    return asyncio.run(run())


@asynccontextmanager
async def one_engine(shape: Shape) -> AsyncIterator[tuple[RemoteEngine, Settings]]:
    """Ray and an engine, both gone at the end."""
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # benchmarks/sync.py has vLLM's worker run its baseline
    local_ray.connect("local")
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings = write_checkpoint(Path(folder), shape)
            engines = await spawn_engines(settings.model, settings.rollout, settings.learner)
            try:
                yield engines[0], settings
            finally:
                await close_engines(engines)
    finally:
        local_ray.disconnect()


def prompts(count: int, tokens: int) -> list[TokenIds]:
    """Random ones, of tokens that the tokenizer knows."""
    return list(np.random.default_rng(0).integers(5, 260, (count, tokens)).astype(np.int32))


def sampling(n: int, max_tokens: int, seed: int) -> Sampling:
    """Nothing masked."""
    return Sampling(n, max_tokens, 1.0, seed=seed)


def shape_of(scale: Scale, full: Shape) -> Shape:
    """The shape to measure."""
    return full if scale is Scale.FULL else TINY_SHAPE
