"""What a person sees: one progress line with the phase, the story in plain lines, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table


class ConsoleProgress:
    """Implements the Progress port: a live line on a terminal, plain lines elsewhere (job logs, pipes)."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._seconds: dict[str, float] = {}  # phase -> time spent in it
        self._phase: tuple[str, float] | None = None

    def __enter__(self) -> ConsoleProgress:
        if self.console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._close_phase()
        if self._bar is not None:
            self._bar.stop()

    def phase(self, name: str, total: int | None = None) -> None:
        """Show a new phase; the previous one is over."""
        self._close_phase()
        if self._bar is None and name not in self._seconds:
            self.say(name[:1].upper() + name[1:] + ("" if total is None else f" ({total})"))
        self._phase = (name, time.monotonic())
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(name, total=total)

    def advance(self, amount: int = 1) -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, amount)

    def say(self, message: str) -> None:
        """One line of the story, with the time since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        self.console.print(f"[{minutes:02d}:{seconds:02d}] {message}", markup=False, highlight=False, soft_wrap=True)

    def _close_phase(self) -> None:
        if self._phase is not None:
            name, started = self._phase
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - started
            self._phase = None

    def seconds(self) -> dict[str, float]:
        """Time spent in each phase; ends the current one."""
        self._close_phase()
        return dict(self._seconds)


def show_summary(summary: Mapping[str, Any], console: Console) -> None:
    """The final tables: evaluation before and after with intervals, then what happened in between."""
    table = Table("set", "figure", "base", "end", title="Evaluation (95% intervals over problems)")
    for name, scores in summary["evaluation"].items():
        for figure, base in scores["base"].items():
            table.add_row(name, figure, _cell(base), _cell(scores["end"][figure]))
        table.add_section()
    if summary["evaluation"]:
        console.print(table)
    story = Table("", "", title="The run", show_header=False)
    for name, value in summary["run"].items():
        story.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    for phase, seconds in sorted(summary["seconds"].items(), key=lambda item: -item[1]):
        story.add_row(f"time {phase}", f"{seconds:.0f} s")
    console.print(story)


def _cell(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
