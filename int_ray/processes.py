"""What a process needs so that it can be killed at any time and cannot take the machine with it."""

from __future__ import annotations

import logging
import resource
import signal
from collections.abc import Callable
from pathlib import Path

MEMORY_BYTES = 4 * 2**30  # what a process may take beyond what its imports took


def make_expendable(imports: Callable[[], object]) -> None:
    """The process ends at SIGTERM whatever it does, and its memory is limited once `imports` has been called."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends it even inside a long computation in C
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time limits are off
    imports()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, taken + MEMORY_BYTES))
