"""Reads `trace.json` of a run: what engines, learner and the rest did when, and what held the two up.

The file is in Chrome's trace event format, as an array without its closing bracket: one event a line, begin and end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, FiniteFloat, ValidationError

RUN = "run"  # track with one span per process: from the time that everything is up to the end of the last evaluation
LEARNER = "learner"
COORDINATOR = "coordinator"  # track of the phases that a person sees
# Only sampling and updates count as work: moving, saving and checking weights is what an ideal machine would not do.
SAMPLING = "sample_group"
UPDATES = frozenset(("patch", "reinforce"))
UPDATING = "updating"
PUBLISHING = "publish"  # requests that are in flight meanwhile wait
SAVING = "saving"  # phase in which the run waits for a checkpoint
UPKEEP = "upkeep"  # track of all else that only keeps the run safe and visible: journals, metrics
FIGURES = "figures"  # name of the events that hold live figures


@dataclass(frozen=True)
class Span:
    """Something that went on from `start` to `end`, in seconds since the epoch."""

    track: str
    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Lost:
    """A part of a run's time, by what went on meanwhile."""

    seconds: float  # of the run without start-up
    by_cause: Mapping[str, float]  # seconds, longest first

    @property
    def share(self) -> float:
        """Of the run's time; 0 for a run without any."""
        return sum(self.by_cause.values()) / self.seconds if self.seconds else 0.0


class TraceEvent(BaseModel):
    """One line of the file.

    B begins a span, E ends it, M gives a process or a track its name, i is a line of the story, C has live figures.
    """

    ph: Literal["B", "E", "M", "i", "C"]
    pid: int
    tid: int
    ts: FiniteFloat = 0.0  # microseconds
    name: str = ""
    args: dict[str, str | FiniteFloat] = {}


def read_event(line: bytes) -> TraceEvent | None:
    """None for the bracket that opens the array, and for a line that a crash has torn."""
    try:
        return TraceEvent.model_validate_json(line.strip().rstrip(b","))
    except ValidationError:
        return None


def read_spans(path: Path) -> list[Span]:
    """The spans of a trace by their start; those that a crash left open end with the last event of their process.

    No spans where there is no file: the run has not begun, or is older than traces.
    """
    tracks: dict[tuple[int, int], str] = {}
    open_: dict[tuple[int, int], tuple[str, float]] = {}
    last: dict[int, float] = {}  # process -> time of its last event
    spans = []
    for event in _events(path):
        thread, now = (event.pid, event.tid), event.ts / 1e6
        if event.ph == "M":
            if event.name == "thread_name":
                tracks[thread] = str(event.args.get("name", ""))
        elif thread in tracks:
            last[event.pid] = now
            if event.ph == "B":
                open_[thread] = event.name, now
            elif thread in open_:
                spans.append(Span(tracks[thread], *open_.pop(thread), now))
    spans += [Span(tracks[thread], name, start, last[thread[0]]) for thread, (name, start) in open_.items()]
    return sorted(spans, key=lambda span: span.start)


def _events(path: Path) -> Iterator[TraceEvent]:
    if not path.is_file():
        return
    with path.open("rb") as file:
        yield from filter(None, map(read_event, file))


def stretches(spans: Sequence[Span], within: Span, gap: float) -> list[tuple[float, float]]:
    """When any of `spans` went on, as (start, length) from the start of `within`; gaps up to `gap` are closed."""
    found: list[tuple[float, float]] = []
    for span in sorted(spans, key=lambda span: span.start):
        start, end = (min(max(moment, within.start), within.end) - within.start for moment in (span.start, span.end))
        if found and start - sum(found[-1]) <= gap:
            start, end = found[-1][0], max(sum(found[-1]), end)
            found.pop()
        if end > start:
            found.append((start, end - start))
    return found


def idleness(spans: Sequence[Span]) -> Lost:
    """When neither an engine nor the learner worked."""
    return _lost(spans, lambda open_: not open_[UPDATING] and bool(open_[PUBLISHING] or not open_[SAMPLING]))


def overhead(spans: Sequence[Span]) -> Lost:
    """When the run waited for what only keeps it safe and visible: saved, wrote down, reported.

    What goes on beside an update of the learner costs nothing, and so does writing down beside engines that sample.
    Saving counts even then: the learner cannot go on.
    """
    relevant = [span for span in spans if _kind(span) in (RUN, UPDATING, SAMPLING, SAVING, UPKEEP)]

    def is_waiting(open_: Counter[str]) -> bool:
        return not open_[UPDATING] and bool(open_[SAVING] or (open_[UPKEEP] and not open_[SAMPLING]))

    return _lost(relevant, is_waiting)


def _lost(spans: Sequence[Span], is_lost: Callable[[Counter[str]], bool]) -> Lost:
    """Sweeps over all begins and ends inside the RUN spans; `is_lost` sees how many spans of each kind go on.

    The cause of a lost moment is what began last of all that goes on then, such as `learner save`, and on the track of
    the coordinator the name of its phase.
    """
    spans = [span for span in spans if span.end > span.start]
    begins = [(span.start, True, place) for place, span in enumerate(spans)]
    ends = [(span.end, False, place) for place, span in enumerate(spans)]
    going_on: dict[int, Span] = {}  # in the order of their begins
    open_: Counter[str] = Counter()
    seconds, causes, before = 0.0, dict[str, float](), 0.0
    for now, is_begin, place in sorted(begins + ends):
        if open_[RUN] and now > before:
            seconds += now - before
            if is_lost(open_):
                cause = _label(next(reversed(going_on.values())))
                causes[cause] = causes.get(cause, 0.0) + now - before
        before, kind = now, _kind(spans[place])
        open_[kind] += 1 if is_begin else -1
        if kind == SAMPLING:  # no cause of a loss
            continue
        if is_begin:
            going_on[place] = spans[place]
        else:
            del going_on[place]
    return Lost(seconds, dict(sorted(causes.items(), key=lambda item: -item[1])))


def _kind(span: Span) -> str:
    """What a span is to those who ask where the time went; empty for the rest."""
    if span.name in UPDATES:
        return UPDATING
    if span.track in (RUN, UPKEEP):
        return span.track
    is_saving = (span.track, span.name) == (COORDINATOR, SAVING)
    return span.name if is_saving or span.name in (SAMPLING, PUBLISHING) else ""


def _label(span: Span) -> str:
    if span.track == RUN:
        return "nothing"
    return span.name if span.track in (COORDINATOR, UPKEEP) else f"{span.track} {span.name.replace('_', ' ')}"
