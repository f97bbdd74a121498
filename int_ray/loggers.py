"""Where a run's numbers go beside its own files, and why none of these places can end a run or hold it up."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

CLOSE_DEADLINE_S = 30.0
_LOG = logging.getLogger(__name__)


class Logger(Protocol):
    """Takes numbers as they come."""

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Numbers by their names, such as `rollout/reward`; an iteration may come more than once."""
        ...

    def close(self) -> None:
        """No more come."""
        ...


class Loggers:
    """All loggers of a run. One that fails is named once and left out: metrics.jsonl has every number anyhow."""

    def __init__(self, say: Callable[[str], object] = _LOG.warning) -> None:
        self._say = say
        self._loggers: dict[str, Logger] = {}

    def add(self, name: str, logger: Logger) -> None:
        """One more; `name` is for people."""
        self._loggers[name] = logger

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Numbers to all of them."""
        for name, logger in list(self._loggers.items()):
            with self._left_out_if_it_fails(name):
                logger.log(iteration, values)

    def close(self) -> None:
        """Close all."""
        for name, logger in list(self._loggers.items()):
            with self._left_out_if_it_fails(name):
                logger.close()
        self._loggers.clear()

    @contextmanager
    def _left_out_if_it_fails(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a service's library may raise: the run goes on without it
            del self._loggers[name]
            reason = harmless(f"{type(error).__name__}: {error}")
            self._say(f"run.loggers: {name} failed and gets no more numbers ({reason}); metrics.jsonl has them all")


def harmless(text: str) -> str:
    """The first line of an error, without passwords in addresses and without any secret of the environment."""
    line = text.strip().partition("\n")[0]
    for name, value in os.environ.items():
        if len(value) >= 6 and re.search("KEY|TOKEN|SECRET|PASSW", name):
            line = line.replace(value, f"[{name}]")
    return re.sub(r"//[^/@\s]+@", "//", line)[:300]


class Background:
    """Opens and feeds a logger in a thread of its own: the run waits for no network."""

    def __init__(self, open_logger: Callable[[], Logger]) -> None:
        self._rows: SimpleQueue[tuple[int, Mapping[str, float]] | None] = SimpleQueue()
        self._error: Exception | None = None
        # A daemon: one that hangs in the network does not keep the process alive.
        self._thread = Thread(target=self._work, args=(open_logger,), daemon=True)
        self._thread.start()

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Queue the numbers. Raises what an earlier call has led to."""
        if self._error is not None:
            raise self._error
        self._rows.put((iteration, dict(values)))

    def close(self) -> None:
        """Wait for the last numbers to be taken. Raises TimeoutError, or what went wrong in the thread."""
        self._rows.put(None)
        self._thread.join(CLOSE_DEADLINE_S)
        if self._error is not None:
            raise self._error
        if self._thread.is_alive():
            raise TimeoutError(f"waited {CLOSE_DEADLINE_S:g} s for it to take the last numbers")

    def _work(self, open_logger: Callable[[], Logger]) -> None:
        try:
            logger = open_logger()
            while (row := self._rows.get()) is not None:
                logger.log(*row)
            logger.close()
        except Exception as error:  # raised in the run's own thread, by the next call
            self._error = error
