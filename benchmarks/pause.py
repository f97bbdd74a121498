"""How long running requests stand still when weights change in flight, without the transfer itself."""

from __future__ import annotations

import asyncio
import statistics
import time
from functools import partial

import numpy as np

from actors.engine_client import RemoteEngine
from benchmarks.engines import NO_PREFIX, Settings, Shape, prompts, sampling, shape_of, with_engine
from benchmarks.measure import Figure, Scale, at_most, interquartile_range

ABOUT_34M = Shape(512, 8, 8192, 8)
GOAL_MS = 50.0
REQUESTS = 32


def run(scale: Scale) -> list[Figure]:
    """From the call of `pause` to the return of `resume`, less one decoding step."""
    return with_engine(shape_of(scale, ABOUT_34M), partial(measure, scale))


async def measure(scale: Scale, engine: RemoteEngine, _: Settings) -> list[Figure]:
    """On an engine that has started."""
    max_tokens, rounds = (128, 7) if scale is Scale.FULL else (24, 2)
    await sample(engine, 8)  # warm-up
    undisturbed_s = statistics.median([await sample(engine, max_tokens) for _ in range(3)])
    step_ms = 1000 * undisturbed_s / max_tokens
    rounds_ms = [await interrupted(engine, max_tokens, undisturbed_s) for _ in range(rounds)]
    gaps = [gap for gap, _ in rounds_ms]
    lost = statistics.median(total for _, total in rounds_ms) - 1000 * undisturbed_s
    note = (
        f"gap {statistics.median(gaps):.0f} ms, one step {step_ms:.0f} ms, 20 ms are a fixed sleep of vLLM's; with the "
        f"cache computed anew the requests lose {lost:.0f} ms"
    )
    value, spread = statistics.median(gaps) - step_ms, interquartile_range(gaps)
    return [at_most("pause.gap_ms_beyond_one_decode", value, GOAL_MS, limit="20 ms", spread=spread, note=note)]


async def sample(engine: RemoteEngine, max_tokens: int) -> float:
    """Seconds that all requests take together."""
    started = time.perf_counter()
    groups = await asyncio.gather(
        *(
            engine.sample_group(prompt, NO_PREFIX, sampling(1, max_tokens, index))
            for index, prompt in enumerate(prompts(REQUESTS, 32))
        )
    )
    seconds = time.perf_counter() - started
    if not any(len(group.token_ids) == max_tokens for group in groups):
        raise RuntimeError("no request ran to its limit, so that a decoding step cannot be timed")
    return seconds


async def interrupted(engine: RemoteEngine, max_tokens: int, undisturbed_s: float) -> tuple[float, float]:
    """Milliseconds of the gap and of the whole, with a pause at a random moment of the middle half."""
    started = time.perf_counter()
    running = asyncio.create_task(sample(engine, max_tokens))
    await asyncio.sleep(undisturbed_s * np.random.default_rng().uniform(0.25, 0.75))
    paused = time.perf_counter()
    await engine.pause()
    await engine.resume(0)
    gap_s = time.perf_counter() - paused
    await running
    return 1000 * gap_s, 1000 * (time.perf_counter() - started)
