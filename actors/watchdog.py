"""Says what a run waits for when nothing has happened for long, and in the end stops it, with stacks to read."""

from __future__ import annotations

import asyncio
import faulthandler
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private.state import actors as known_actors
from ray.exceptions import RayError

from actors.fleet import Fleet
from int_ray.errors import Resumable
from int_ray.ports import Progress

LOOKS = 20  # per stall_warning_s
DUMP_DEADLINE_S = 30.0  # per process


class StalledError(Resumable):
    """Nothing has happened for run.stall_abort_s."""


class WatchedProgress:
    """The Progress port; remembers when a phase began or a piece of work was done. Lines are no progress."""

    def __init__(self, inner: Progress) -> None:
        self.inner = inner
        self.say = inner.say
        self.last = asyncio.get_running_loop().time()
        self.name, self.done, self.total = "starting", 0, None

    def phase(self, name: str, total: int | None = None) -> None:
        """See Progress."""
        self.name, self.done, self.total = name, 0, total
        self.last = asyncio.get_running_loop().time()
        self.inner.phase(name, total)

    def advance(self, amount: int = 1) -> None:
        """See Progress."""
        self.done += amount
        self.last = asyncio.get_running_loop().time()
        self.inner.advance(amount)

    def where(self) -> str:
        """The phase and how far it has come."""
        return f"{self.name} ({self.done} of {self.total})" if self.total else self.name


@dataclass
class Watchdog:
    """Looks at a WatchedProgress now and then."""

    progress: WatchedProgress
    fleet: Fleet
    folder: Path  # for stacks
    warning_s: float
    abort_s: float

    async def until_stalled(self) -> str:
        """Warn now and then; returns what to say when nothing has happened for `abort_s`."""
        now, said = asyncio.get_running_loop().time, 0
        while (silent_s := now() - self.progress.last) < self.abort_s:
            if silent_s < self.warning_s:
                said = 0
            elif silent_s >= (said + 1) * self.warning_s:
                said += 1
                self.progress.say(f"{self._story(silent_s)}, waiting for {await self._who_works()}")
            await asyncio.sleep(min(self.warning_s, self.abort_s) / LOOKS)
        return f"{self._story(silent_s)} (run.stall_abort_s); {await self._write_stacks()}"

    async def _who_works(self) -> str:
        try:
            return await asyncio.to_thread(who_works, self.fleet)
        except (RayError, RuntimeError):  # Ray itself may be what is wrong
            return "?"

    async def _write_stacks(self) -> str:
        path = self.folder / f"stacks-{time.strftime('%Y%m%d-%H%M%S')}.txt"
        try:
            write_own_stacks(path)
            await asyncio.to_thread(write_actor_stacks, path)
        except (OSError, RayError, RuntimeError) as error:
            return f"not all stacks could be written to {path.name}: {error}"
        return f"see {path.name}"

    def _story(self, silent_s: float) -> str:
        return f"nothing has happened for {silent_s:.0f} s in the phase {self.progress.where()}"


@asynccontextmanager
async def watched(
    progress: Progress, fleet: Fleet, folder: Path, warning_s: float, abort_s: float
) -> AsyncIterator[WatchedProgress]:
    """Watch what the block tells the Progress that it gets. After `abort_s` the block is cancelled for a StalledError.

    Stacks go to `stacks-*.txt` in `folder`.
    """
    watching, working = WatchedProgress(progress), asyncio.current_task()
    assert working is not None
    watchdog = asyncio.create_task(Watchdog(watching, fleet, folder, warning_s, abort_s).until_stalled())
    watchdog.add_done_callback(lambda task: task.cancelled() or working.cancel())
    try:
        yield watching
    except asyncio.CancelledError:
        if watchdog.done() and working.uncancel() == 0:
            raise StalledError(watchdog.result()) from None
        raise
    finally:
        watchdog.cancel()
        await asyncio.wait([watchdog])


def who_works(fleet: Fleet) -> str:
    """The engines that were asked for something, with process and machine; all other actors where none was."""
    busy = [f"{one.name} ({one.samples} samples, {one.engine.place})" for one in fleet.members if one.samples]
    return ", ".join(busy or map(describe, alive())) or "nobody"


def describe(actor: dict[str, Any]) -> str:
    """What runs there, process and machine."""
    return f"{actor['ActorClassName']} (pid {actor['Pid']} on {actor['Address']['IPAddress']})"


def alive() -> list[dict[str, Any]]:
    """The actors of this run that live, as Ray knows them."""
    job = ray.get_runtime_context().get_job_id()
    return [one for one in known_actors().values() if one["State"] == "ALIVE" and one["JobID"] == job]


def write_own_stacks(path: Path) -> None:
    """Threads and asyncio's tasks of this process."""
    with path.open("w") as file:
        file.write("driver, threads\n")
        file.flush()
        faulthandler.dump_traceback(file)
        for stack, count in Counter(map(awaits, asyncio.all_tasks())).most_common():
            file.write(f"\ndriver, {count} tasks\n{stack}\n")


def awaits(task: asyncio.Task[Any]) -> str:
    """What a task awaits, the innermost last."""
    lines, inner = [], task.get_coro()
    while (frame := getattr(inner, "cr_frame", None)) is not None:
        lines.append(f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}')
        inner = getattr(inner, "cr_await", None)
    return "\n".join([*lines, f"  {inner}" if inner is not None else ""])


def write_actor_stacks(path: Path) -> None:
    """Of the actors on this machine, as far as py-spy may look into them."""
    here = ray.get_runtime_context().get_node_id()
    with path.open("a") as file:
        for actor in alive():
            if actor["Address"]["NodeID"] == here:
                file.write(f"\n{describe(actor)}\n{py_spy(actor['Pid'])}\n")


def py_spy(pid: int) -> str:
    """A process' stacks, or why there are none."""
    command: Sequence[str] = [str(Path(sys.executable).with_name("py-spy")), "dump", "--pid", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DUMP_DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no stacks: {error}"
    return done.stdout or f"no stacks: {done.stderr.strip()}"
