"""How a command ends: one line per mistake, and an exit code that a script can tell apart."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
def exit_resumable(command: str, config: str, overrides: Sequence[str], plugins: Sequence[str]) -> Iterator[None]:
    """One line for whatever ends a run early, the command that goes on with it, and an exit code."""
    go_on = f"To go on: {command_line(command, config, overrides, plugins, '--resume', 'auto')}"
    try:
        from int_ray.errors import Resumable, RunError

        try:
            with exit_on_config_error():
                yield
        except (RunError, TimeoutError) as error:
            print(f"error: {error}", file=sys.stderr)
            print(go_on, file=sys.stderr)
            raise typer.Exit(EXIT_RESUMABLE if isinstance(error, Resumable) else EXIT_FAILED) from None
    except KeyboardInterrupt:
        print(f"Interrupted. {go_on}", file=sys.stderr)
        raise typer.Exit(EXIT_RESUMABLE) from None
