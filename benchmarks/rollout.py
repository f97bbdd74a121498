"""The rollout actor beside bare vLLM, each in a process of its own: the same arguments, prompts and seeds, in turn."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from actors.engine_client import RemoteEngine
from actors.vllm_settings import engine_arguments, engine_environment, vllm_parameters
from benchmarks.engines import NO_PREFIX, Settings, Shape, prompts, sampling, shape_of, with_engine
from benchmarks.measure import Figure, Scale, at_least

ABOUT_100M = Shape(768, 12, 16384, 12)
DEADLINE_S = 300.0
Tokens = list[list[int]]  # of each sample


def run(scale: Scale) -> list[Figure]:
    """Tokens per second of the actor over those of `LLM.generate`."""
    return with_engine(shape_of(scale, ABOUT_100M), partial(measure, scale))


async def measure(scale: Scale, engine: RemoteEngine, settings: Settings) -> list[Figure]:
    """On an engine that has started; the bare one starts here."""
    work = (16, 4, 24) if scale is Scale.FULL else (4, 2, 8)  # prompts, samples of each, tokens
    measured: list[tuple[float, float]] = []
    with bare_vllm(settings, *work) as bare:
        (_, tokens), (_, expected) = await ours(engine, *work), ask(bare)  # the warm-up
        if tokens != expected:
            raise RuntimeError("the actor and bare vLLM sampled different tokens from the same seeds")
        for index in range(5 if scale is Scale.FULL else 2):
            if index % 2 == 0:
                measured.append(((await ours(engine, *work))[0], ask(bare)[0]))
            else:
                bare_s, _ = ask(bare)
                measured.append(((await ours(engine, *work))[0], bare_s))
    count = sum(map(len, tokens))
    rates = ", ".join(f"{count / min(seconds):.0f}" for seconds in zip(*measured, strict=True))
    note = f"best tokens/s, ours and bare: {rates}; ours adds a Ray message per group and the texts"
    return [at_least("rollout.tokens_per_s_over_vllm", measured, 0.95, limit="1.0", note=note)]


async def ours(engine: RemoteEngine, num_prompts: int, n: int, max_tokens: int) -> tuple[float, Tokens]:
    """Seconds and tokens, one request per group, all at once."""
    started = time.perf_counter()
    groups = await asyncio.gather(
        *(
            engine.sample_group(prompt, NO_PREFIX, sampling(n, max_tokens, 1000 * index))
            for index, prompt in enumerate(prompts(num_prompts, 32))
        )
    )
    completions = [one for group in groups for one in group.completions()]
    return time.perf_counter() - started, [one.token_ids.tolist() for one in completions]


def ask(bare: Connection) -> tuple[float, Tokens]:
    """The same of the other process. Raises RuntimeError if it takes too long or has died."""
    bare.send("generate")
    return receive(bare)


def receive(bare: Connection) -> Any:
    """The next message of the other process."""
    try:
        if not bare.poll(DEADLINE_S):
            raise RuntimeError(f"waited {DEADLINE_S:.0f} s for bare vLLM")
        return bare.recv()
    except EOFError:
        raise RuntimeError("bare vLLM died; its last words are in the log") from None


@contextmanager
def bare_vllm(settings: Settings, num_prompts: int, n: int, max_tokens: int) -> Iterator[Connection]:
    """A process that generates whenever it is asked to; ready when this returns."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve_bare_vllm, args=(there, settings, num_prompts, n, max_tokens))
    process.start()
    there.close()
    try:
        receive(here)
        yield here
    finally:
        here.close()
        process.join(30)
        if process.is_alive():
            process.kill()


def serve_bare_vllm(connection: Connection, settings: Settings, num_prompts: int, n: int, max_tokens: int) -> None:
    """Generate until the other side hangs up."""
    configs = settings.model, settings.rollout, settings.learner
    os.environ |= engine_environment(*configs)
    from vllm import LLM

    llm = LLM(**engine_arguments(*configs))
    requests: Sequence[Any] = [{"prompt_token_ids": prompt.tolist()} for prompt in prompts(num_prompts, 32)]
    parameters = [vllm_parameters(sampling(n, max_tokens, 1000 * index)) for index in range(num_prompts)]
    connection.send("ready")
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        started = time.perf_counter()
        results = llm.generate(requests, parameters, use_tqdm=False)
        seconds = time.perf_counter() - started
        connection.send((seconds, [list(one.token_ids) for result in results for one in result.outputs]))
