"""Garbage collections that do not stop a loop which feeds engines."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rare_collections() -> Iterator[None]:
    """A full one walks everything that was imported and every rollout that is kept: 0.1 s without work for any engine.

    What is there is left out, and few are made. Afterwards all is as it was, or libraries complain of leaks at the end.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(5_000, 2, 1000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
