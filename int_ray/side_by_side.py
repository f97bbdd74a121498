"""Coroutines side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


async def all_or_none(parts: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all side by side; results in order. The first failure cancels the others."""
    waiting = list(parts)
    if len(waiting) == 1:
        return [await waiting[0]]  # without a task of its own: a stream samples its groups one by one
    tasks = [asyncio.create_task(part) for part in waiting]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Run `work` while the block runs, whose end cancels it. Raises, then, what ended it before."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])  # unlike awaiting it, lets a cancellation of the block's own task through
        if not task.cancelled():
            task.result()
