"""Moments of a training run that stand still for what a test wants to do to them."""

from __future__ import annotations

import time

from tests.faults import TrainingRun, figure, is_alive


class Hold:
    """A moment of a run: `pid` is a process at the beginning of an event, where it waits until the hold is let go."""

    def __init__(self, run: TrainingRun, event: str) -> None:
        self.run, self.event = run, event
        before = len(run.story.events("held"))
        run.story.hold(event)

        def held() -> list[int]:
            told = run.story.events("held")[before:]
            return [one["pid"] for one in told if one["at"] == event and is_alive(one["pid"], one["time"])]

        run.wait_for(f"a process at {event}", held)
        self.pid = held()[0]
        self.since = time.time()
        self.before = {told["pid"] for told in run.story.events() if told["event"] in ("engine", "rank")}

    def let_go(self) -> None:
        self.run.story.let_go(self.event)

    def recovered(self, fault: str, event: str, newcomers: int) -> None:
        """Let go, and wait until so many processes that were started after the fault have told `event`."""
        self.let_go()
        events = self.run.story.events

        def new() -> set[int]:
            born = {told["pid"] for told in events() if told["event"] in ("engine", "rank")}
            return {told["pid"] for told in events(event)} & (born - self.before)

        self.run.wait_for(f"recovery from: {fault}", lambda: len(new()) >= newcomers)
        figure(fault, time.time() - self.since)
