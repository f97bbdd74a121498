"""How a command ends: one line per mistake, and an exit code that a script can tell apart."""

from __future__ import annotations

import asyncio
import errno
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import typer

from launch.commands import command_line

EXIT_FAILED, EXIT_CONFIG, EXIT_RESUMABLE = 1, 2, 75


@contextmanager
def exit_on_config_error() -> Iterator[None]:
    """One line per mistake, and exit code 2."""
    from int_ray.config_file import ConfigError

    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        raise typer.Exit(EXIT_CONFIG) from None


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, even where Ctrl-C is ignored, as in the background of a script."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)  # asyncio's own while a loop runs: cancels it in good order
        (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sigterm_sets(stop: asyncio.Event) -> Iterator[None]:
    """In a running loop: the first SIGTERM sets the event; another one does what it did before."""
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGTERM)

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        loop.call_soon_threadsafe(stop.set)

    signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def exit_resumable(command: str, config: str, overrides: Sequence[str], plugins: Sequence[str]) -> Iterator[None]:
    """One line for whatever ends a run early, the command that goes on with it, and an exit code."""
    go_on = f"To go on: {command_line(command, config, overrides, plugins, '--resume', 'auto')}"
    try:
        from int_ray.errors import Resumable, RunError

        try:
            with sigterm_as_ctrl_c(), exit_on_config_error():
                yield
        except (RunError, OSError) as error:
            is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            if not (is_full or isinstance(error, RunError | TimeoutError)):
                raise
            print(f"error: {error}", file=sys.stderr)
            print(go_on, file=sys.stderr)
            raise typer.Exit(EXIT_RESUMABLE if isinstance(error, Resumable) else EXIT_FAILED) from None
    except KeyboardInterrupt:
        print(f"Interrupted. {go_on}", file=sys.stderr)
        raise typer.Exit(EXIT_RESUMABLE) from None
