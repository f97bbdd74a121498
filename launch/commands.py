"""Commands as they are printed, so that they can be pasted."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Given:
    """What a command was given."""

    command: str  # such as collect
    config: str
    overrides: Sequence[str]
    plugins: Sequence[str]
    dry_run: bool = False
    resumed: bool = False


def program(name: str) -> str:
    """How a shell finds a program of this environment, active or not."""
    return name if shutil.which(name) else shlex.quote(os.path.relpath(Path(sys.executable).with_name(name)))


def command_line(command: str, config: str, overrides: Sequence[str], plugins: Sequence[str], *options: str) -> str:
    """`int-ray train` and the like with everything that it was given, and further `options`."""
    named = [option for plugin in plugins for option in ("--plugin", plugin)]
    return f"{program('int-ray')} {shlex.join([command, config, *overrides, *named, *options])}"
