"""How long running requests stand still when weights change in flight, without the transfer itself."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from actors.engine_client import Engine, EngineGroup
from benchmarks.engines import NO_PREFIX, Settings, Shape, prompts, sampling, shape_of, with_engine
from benchmarks.measure import Figure, Scale, at_most, interquartile_range

ABOUT_34M = Shape(512, 8, 8192, 8)
GOAL_MS = 50.0
REQUESTS = 32
MAX_TOKENS = 128


def run(scale: Scale) -> list[Figure]:
    """From the call of `pause` to the return of `resume`, less one decoding step."""
    return with_engine(shape_of(scale, ABOUT_34M), partial(measure, scale))


async def measure(scale: Scale, engine: Engine, _: Settings) -> list[Figure]:
    """On an engine that has started."""
    rounds = 7 if scale is Scale.FULL else 2
    warm_up = (await sample(engine, 8))[1]
    version = warm_up[0].policy_version
    undisturbed_s = statistics.median([(await sample(engine, MAX_TOKENS))[0] for _ in range(3)])
    step_ms = 1000 * undisturbed_s / MAX_TOKENS
    rounds_ms = [await interrupted(engine, undisturbed_s, version + index) for index in range(1, rounds + 1)]
    gaps = [gap for gap, _ in rounds_ms]
    lost = statistics.median(total for _, total in rounds_ms) - 1000 * undisturbed_s
    note = (
        f"gap {statistics.median(gaps):.0f} ms, one step {step_ms:.0f} ms, 20 ms are a fixed sleep of vLLM's; with the "
        f"cache computed anew the requests lose {lost:.0f} ms"
    )
    value, spread = statistics.median(gaps) - step_ms, interquartile_range(gaps)
    figure = at_most("pause.gap_ms_beyond_one_decode", value, GOAL_MS, limit="20 ms", spread=spread, note=note)
    return [replace(figure, raw=tuple((gap, step_ms) for gap in gaps))]


async def sample(engine: Engine, max_tokens: int) -> tuple[float, Sequence[EngineGroup]]:
    """Seconds that all requests take together, and what they yield."""
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
    return seconds, groups


async def interrupted(engine: Engine, undisturbed_s: float, version: int) -> tuple[float, float]:
    """Milliseconds of the gap and of the whole, with a pause at a random moment well before the end.

    Raises RuntimeError if no request was running in the gap, or none decoded on with the new version.
    """
    running = asyncio.create_task(sample(engine, MAX_TOKENS))
    await asyncio.sleep(undisturbed_s * np.random.default_rng().uniform(0.25, 0.5))
    paused = time.perf_counter()
    await engine.pause()
    ended = running.done()
    await engine.resume(version)
    gap_s = time.perf_counter() - paused
    whole_s, groups = await running
    if ended:
        raise RuntimeError("all requests ended before the engine resumed: nothing stood still")
    if not any(completion.switches for group in groups for completion in group.completions()):
        raise RuntimeError(f"no request has tokens both of a version before {version} and of it: nothing was paused")
    return 1000 * gap_s, 1000 * whole_s
