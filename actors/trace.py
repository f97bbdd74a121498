"""Records what engines, learner and everything around them do when, for https://ui.perfetto.dev and for `idleness`.

The recording stays outside: what a run works with is wrapped, and knows nothing of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from inspect import iscoroutinefunction
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar, cast

from int_ray.ports import Progress
from int_ray.timeline import COORDINATOR, FIGURES

Part = TypeVar("Part")


class Trace:
    """Appends to `trace.json` in Chrome's trace event format; each event is written as it happens.

    The array is never closed, which the format allows, so that a crash costs nothing and a resumed run goes on with it
    as another process.
    """

    def __init__(self, path: Path) -> None:
        before = path.read_text(encoding="ascii") if path.exists() else ""
        whole = before[: before.rfind("\n") + 1]  # without a line that a crash has torn
        self._file = path.open("a", buffering=1, encoding="ascii")
        self._file.truncate(len(whole))
        if not whole:
            self._file.write("[\n")
        self._process = 1 + whole.count('"process_name"')
        self._clock = time.time() - time.monotonic()
        self._lock = RLock()  # the run folder is also written from threads
        self._threads: dict[str, int] = {}
        self._open: dict[str, int] = {}  # track -> spans that go on in it
        self._begun: dict[str, tuple[str, int]] = {}  # track -> name and time of what goes on in it
        self.seconds: dict[tuple[str, str], float] = {}  # track and name -> length of the last such span
        self._in_phase = False
        self._name("process_name", 0, f"run since {time.strftime('%Y-%m-%d %H:%M:%S')}")

    @contextmanager
    def span(self, track: str, name: str) -> Iterator[None]:
        """Something goes on in `track`. Spans that overlap are drawn as one, with the name of the first."""
        self._begin(track, name)
        try:
            yield
        finally:
            self._end(track)

    def phase(self, name: str) -> None:
        """The coordinator's phase from now on."""
        if self._in_phase:
            self._end(COORDINATOR)
        self._in_phase = True
        self._begin(COORDINATOR, name)

    def say(self, message: str) -> None:
        """A line of the run's story."""
        self._write(ph="i", tid=0, ts=self._now(), name=message, s="p")

    def figures(self, values: Mapping[str, float]) -> None:
        """What the run's live figures are now; drawn as curves."""
        self._write(ph="C", tid=0, ts=self._now(), name=FIGURES, args=dict(values))

    def close(self) -> None:
        """End the last phase, close the file."""
        if self._in_phase:
            self._end(COORDINATOR)
        with self._lock:
            self._file.close()

    def _begin(self, track: str, name: str) -> None:
        with self._lock:
            if track not in self._threads:
                self._threads[track] = len(self._threads) + 1
                self._name("thread_name", self._threads[track], track)
            self._open[track] = self._open.get(track, 0) + 1
            if self._open[track] == 1:
                now = self._now()
                self._begun[track] = name, now
                self._write(ph="B", tid=self._threads[track], ts=now, name=name)

    def _end(self, track: str) -> None:
        with self._lock:
            self._open[track] -= 1
            if self._open[track] == 0:
                name, begun = self._begun.pop(track)
                now = self._now()
                self.seconds[track, name] = (now - begun) / 1e6
                self._write(ph="E", tid=self._threads[track], ts=now)

    def _name(self, kind: str, thread: int, name: str) -> None:
        self._write(ph="M", tid=thread, name=kind, args={"name": name})

    def _now(self) -> int:
        """Microseconds since the epoch; never goes back."""
        return round((self._clock + time.monotonic()) * 1e6)

    def _write(self, **event: Any) -> None:
        with self._lock:
            if self._file.closed:  # a request that is cancelled may end later than the run
                return
            try:
                self._file.write(json.dumps(event | {"pid": self._process}) + ",\n")
            except OSError:  # a full disk ends the recording, not the run
                with suppress(OSError):
                    self._file.close()


class _Traced:
    """Stands in for an object; some of its methods are recorded."""

    def __init__(self, inner: object, trace: Trace, track: str, spans: Mapping[str, str]) -> None:
        self._inner = inner
        self._trace = trace
        self._track = track
        self._spans = spans  # method -> name of its span

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        if name not in self._spans:
            return attribute
        span = self._spans[name]

        async def recorded(*arguments: Any, **named: Any) -> Any:
            with self._trace.span(self._track, span):
                return await attribute(*arguments, **named)

        def recorded_at_once(*arguments: Any, **named: Any) -> Any:
            with self._trace.span(self._track, span):
                return attribute(*arguments, **named)

        return recorded if iscoroutinefunction(attribute) else recorded_at_once


def traced(part: Part, trace: Trace, track: str, *methods: str, **named: str) -> Part:
    """`part`, its `methods` recorded in `track` under their names, others as `method=name`.

    Example: `traced(learner, trace, "learner", "patch", "reinforce", "save")`
    """
    return cast(Part, _Traced(part, trace, track, {method: method for method in methods} | named))


class TracedProgress:
    """The Progress port, its phases and its story recorded."""

    def __init__(self, inner: Progress, trace: Trace) -> None:
        self._inner = inner
        self._trace = trace
        self.advance = inner.advance

    def phase(self, name: str, total: int | None = None) -> None:
        """Record the phase, show it."""
        self._trace.phase(name)
        self._inner.phase(name, total)

    def say(self, message: str) -> None:
        """Record the line, show it."""
        self._trace.say(message)
        self._inner.say(message)
