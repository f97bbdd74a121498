"""Where a run stands while it is being written: every look reads only what was appended since the one before."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError

from int_ray.config_file import ConfigError
from int_ray.report.run_files import OTHER_COMMANDS, Event, Row, Run, Settings
from int_ray.timeline import COORDINATOR, FIGURES, TraceEvent, read_event

STORY_LINES = 6
RECENT = 10  # iterations that the time left is judged by


class Tail:
    """Whole lines of a file that grows; one that is only half written is left for the next look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0

    def lines(self) -> Iterator[bytes]:
        """What was appended since the last call; nothing where there is no file yet."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                yield line


class LiveRun:
    """A run folder as it is at the last `look`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = Run(folder.resolve().name)
        self.phase: tuple[str, float] | None = None  # name, and since when in seconds since the epoch
        self.figures: Mapping[str, float] = {}  # names as in actors/gauges.py
        self.story: deque[str] = deque(maxlen=STORY_LINES)
        self.heard = 0.0  # when the run wrote its trace last, in seconds since the epoch
        self._metrics = Tail(folder / "metrics.jsonl")
        self._journal = Tail(folder / "journal.jsonl")
        self._trace = Tail(folder / "trace.json")
        self._phases: set[tuple[int, int]] = set()  # process and track of the coordinators

    @classmethod
    def open(cls, folder: Path) -> LiveRun:
        """Raises ConfigError where no run has begun."""
        if not (folder / "journal.jsonl").is_file():
            raise ConfigError([f"{folder} holds no run: it has no journal.jsonl; a run writes one when it begins"])
        live = cls(folder)
        live.look()
        others = [OTHER_COMMANDS[event.event] for event in live.run.events if event.event in OTHER_COMMANDS]
        if others:
            what, next_ = others[0]
            raise ConfigError([f"{folder} holds {what}, not a training run; {next_}"])
        return live

    def look(self) -> None:
        """Read what is new. Lines that cannot be read are left out."""
        if self.run.settings.iterations is None:
            self._read_settings()
        for line in self._metrics.lines():
            try:
                self.run.add_row(Row.model_validate_json(line))
            except ValidationError:
                continue
        for line in self._journal.lines():
            try:
                self.run.add_event(Event.model_validate_json(line))
            except ValidationError:
                continue
        for event in filter(None, map(read_event, self._trace.lines())):
            self._take(event)

    def _read_settings(self) -> None:
        path = self.folder / "config.yaml"
        if path.is_file():
            try:
                self.run.settings = Settings.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
            except (yaml.YAMLError, ValueError):
                return  # half written: the next look tries again

    def _take(self, event: TraceEvent) -> None:
        self.heard = max(self.heard, event.ts / 1e6)
        track = (event.pid, event.tid)
        if event.ph == "M" and event.name == "process_name":  # the run was resumed
            self.phase, self.figures = None, {}
        elif event.ph == "M" and event.args.get("name") == COORDINATOR:
            self._phases.add(track)
        elif event.ph == "B" and track in self._phases:
            self.phase = event.name, event.ts / 1e6
        elif event.ph == "i":
            self.story.append(event.name)
        elif event.ph == "C" and event.name == FIGURES:
            self.figures = {name: value for name, value in event.args.items() if isinstance(value, float)}

    @property
    def iteration(self) -> int:
        """How many are done."""
        return self.run.rows[-1].iteration if self.run.rows else 0

    @property
    def seconds_left(self) -> float | None:
        """Of the iterations to come, judged by the last ones; evaluations are not known before. None: nobody knows."""
        recent = [row.seconds for row in self.run.rows[-RECENT:] if row.seconds is not None]
        if not recent or self.run.settings.iterations is None or self.run.ending:
            return None
        return (self.run.settings.iterations - self.iteration) * sum(recent) / len(recent)

    @property
    def silence(self) -> float:
        """Seconds since the run wrote its trace, which it does every few seconds; 0 before it has begun to."""
        return max(0.0, time.time() - self.heard) if self.heard else 0.0

    @property
    def kept(self) -> int:
        """Interventions that were trained on, of all rounds."""
        return sum(event.kept for event in self.run.rounds.values())
