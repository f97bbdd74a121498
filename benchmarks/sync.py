"""A weight sync over shared memory to a real engine: its copy beside memcpy, the whole beside vLLM's own reload."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import ray
import torch

from actors.engine_client import RemoteEngine
from actors.update_client import UpdateClient
from actors.weight_senders import SharedMemorySender, allocate, copy_weight, copying_threads
from benchmarks.engines import NO_PREFIX, Settings, Shape, prompts, sampling, shape_of, with_engine
from benchmarks.measure import Figure, Scale, alternated, at_most, paired, wall_seconds

ABOUT_500_MB = Shape(1024, 16, 48 * 1024, 16)  # in bfloat16
DEADLINE_S = 300.0
PIECE_BYTES = 2**24  # of the baseline's copy
EXACT = 0.1  # log-probs of bfloat16 against float32


def run(scale: Scale) -> list[Figure]:
    """Transport alone, then the whole."""
    return with_engine(shape_of(scale, ABOUT_500_MB), partial(measure, scale))


async def measure(scale: Scale, engine: RemoteEngine, settings: Settings) -> list[Figure]:
    """On an engine that has started."""
    pairs = 5 if scale is Scale.FULL else 2
    master = load(settings, torch.float32)
    figures = [transport(load(settings, torch.bfloat16), pairs), casting(master, pairs)]
    return [*figures, *await whole(engine, master, pairs)]


def load(settings: Settings, dtype: torch.dtype) -> torch.nn.Module:
    """The engine's model as a learner has it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(settings.model.path, dtype=dtype)


def transport(model: torch.nn.Module, pairs: int) -> Figure:
    """Weights of the engine's dtype into shared memory, parameter by parameter, beside a flat copy of equal bytes."""
    weights = [parameter.detach() for parameter in model.parameters()]
    num_bytes = sum(weight.nbytes for weight in weights)
    with copying_threads() as threads:
        measured = paired(copier(weights, threads), memcpy(num_bytes, threads), pairs)
    return at_most("sync.transport_over_memcpy", measured, 1.5, limit="1.0", note=f"{num_bytes / 1e6:.0f} MB")


def casting(master: torch.nn.Module, pairs: int) -> Figure:
    """The same from fp32 masters, which are cast on the way, beside a flat copy that moves as many bytes."""
    weights = [parameter.detach() for parameter in master.parameters()]
    traffic = sum(weight.nbytes * 3 // 2 for weight in weights)
    with copying_threads() as threads:
        measured = paired(copier(weights, threads), memcpy(traffic // 2, threads), pairs)
    note = "torch's cast writes through the cache, memcpy past it"
    return at_most("sync.cast_over_memcpy_of_equal_traffic", measured, 1.5, limit="1.0", note=note)


def copier(weights: list[torch.Tensor], threads: ThreadPoolExecutor) -> Callable[[], None]:
    """Copies all weights into a file in /dev/shm that nobody else reads."""
    sizes = [2 * weight.numel() for weight in weights]
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="int_ray-") as file:
        allocate(file.fileno(), sum(sizes))
        buffer = torch.from_file(file.name, shared=True, size=sum(sizes), dtype=torch.uint8)
    flat = [part.view(torch.bfloat16) for part in buffer.split(sizes)]
    slots = [part.view(weight.shape) for part, weight in zip(flat, weights, strict=True)]

    def copy() -> None:
        deque(threads.map(copy_weight, weights, slots), maxlen=0)

    return copy


def memcpy(num_bytes: int, threads: ThreadPoolExecutor) -> Callable[[], None]:
    """Copies so many bytes from and to memory that has been touched, in pieces of one size."""
    source, target = np.full(num_bytes, 1, np.uint8), np.full(num_bytes, 0, np.uint8)
    pieces = [slice(first, first + PIECE_BYTES) for first in range(0, num_bytes, PIECE_BYTES)]
    sources, targets = ([array[piece] for piece in pieces] for array in (source, target))

    def copy() -> None:
        deque(threads.map(np.copyto, targets, sources), maxlen=0)

    return copy


async def whole(engine: RemoteEngine, master: torch.nn.Module, pairs: int) -> list[Figure]:
    """fp32 masters to an engine that decodes with them, beside vLLM's reload of tensors that its worker has already.

    And the same with nothing copied: what is left of the difference then is calls, what is gone is the copy.
    """
    sender = SharedMemorySender(UpdateClient([engine.handle], 1, DEADLINE_S), "bfloat16")

    def send() -> None:
        sender.send(master, is_main=True)

    def call() -> float:
        with patch("actors.weight_senders.copy_weight"):
            return wall_seconds(send)

    total = alternated(partial(wall_seconds, send), partial(reload_inside, engine), pairs)
    calls = alternated(call, partial(reload_inside, engine), pairs)
    await check(engine, master, send)
    note = "the copy runs beside the reload, on another core where there is one; a call per part of 64 MB"
    return [
        at_most("sync.total_over_reload", total, 1.15, limit="1.0", note=note),
        at_most("sync.calls_over_reload", calls, 1.15, limit="1.0", note="the same with nothing copied"),
    ]


def reload_inside(engine: RemoteEngine) -> float:
    """Seconds of a reload in vLLM's worker."""

    def in_actor(actor: Any) -> list[float]:  # in a thread beside the actor's event loop
        loop = actor._llm.engine_core.resources.output_queue_task.get_loop()
        call = actor._llm.collective_rpc(reload_in_worker)
        return asyncio.run_coroutine_threadsafe(call, loop).result(DEADLINE_S)

    run_in_actor: Any = engine.handle.__ray_call__
    return ray.get(run_in_actor.remote(in_actor))[0]


def reload_in_worker(worker: Any) -> float:
    """Seconds of what every sync makes vLLM do, from private memory; runs in vLLM's worker."""
    transfer = worker.weight_transfer_engine
    if not hasattr(transfer, "private"):
        transfer.private = [(name, weight.clone()) for name, weight in transfer._weights]
    started = time.perf_counter()
    transfer.start_weight_update()
    transfer.model.load_weights(transfer.private)
    transfer.finish_weight_update()
    return time.perf_counter() - started


async def check(engine: RemoteEngine, master: torch.nn.Module, send: Callable[[], None]) -> None:
    """Change the weights, send them, and compare log-probs. Raises RuntimeError if the engine has others."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in master.parameters():
            parameter += 0.3 * parameter.abs().mean() * torch.randn_like(parameter)
    send()
    (prompt,) = prompts(1, 32)
    group = await engine.sample_group(prompt, NO_PREFIX, sampling(1, 16, 0))
    ids = torch.from_numpy(np.concatenate([prompt, group.token_ids]).astype(np.int64))
    with torch.no_grad():
        log_p = master(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    expected = log_p.gather(-1, ids[len(prompt) :, None])[:, 0].numpy()
    error = float(np.abs(group.rollout_logprobs - expected).max())
    if not error <= EXACT:
        raise RuntimeError(f"after the sync engine and learner differ by {error:.2g} in a log-prob")
