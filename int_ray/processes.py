"""What a process needs so that it can be killed at any time and cannot take the machine with it."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
MEMORY_BYTES = 4 * 2**30  # what a process may take beyond what its imports took


_guards: list[subprocess.Popen[bytes]] = []  # each ends when its end of a pipe is closed: with this process


def end_as_a_family() -> None:
    """This process ends with its parent, also while it is stopped; those that it starts end with it, however it ends.

    Ray kills the children of an actor that dies alone. Where a whole node goes, its processes just stop.
    """
    _end_with_parent()
    if os.getpgid(0) != os.getpid():
        os.setpgid(0, 0)
    # A shell waits for this process's end of a pipe to close, and kills its process group. It must not be a child: Ray
    # kills an actor's children, and would begin with it.
    command = ["sh", "-c", f"exec 3<&0; (read _ <&3; kill -s KILL -- -{os.getpid()}) &"]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    guard.wait()
    _guards.append(guard)


def make_expendable(imports: Callable[[], object]) -> None:
    """It ends at SIGTERM or with its parent, whatever it does; its memory is limited once `imports` has been called.

    To the kernel the thread that started it is its parent: one that makes a pool has to live as long as the pool.
    """
    _end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends it even inside a long computation in C
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time limits are off
    imports()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, taken + MEMORY_BYTES))


def _end_with_parent() -> None:
    """The kernel kills this process when the thread that started it ends, even inside a long computation in C."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it died before the kernel was told
        os._exit(1)
