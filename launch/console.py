"""What a person sees: one progress line with the phase, the story in plain lines, a table at the end."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from int_ray.config import Config
from int_ray.report.run_files import phase_shares
from launch.commands import command_line, program


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

    def forget_times(self) -> None:
        """Count the time of every phase anew, for another run on the same console."""
        self._close_phase()
        self._seconds = {}

    def seconds(self) -> dict[str, float]:
        """Time spent in each phase; ends the current one."""
        self._close_phase()
        return dict(self._seconds)


def introduce(config: Config) -> list[str]:
    """What is about to happen, before the first wait."""
    trigger = config.trigger
    plans = {
        "never": "plain RL, no interventions",
        "paper": "the oracle is asked once, about every problem that starts unsolved; then a patch, then RL",
        "plateau": f"RL; once at least {trigger.threshold:.0%} of the problems stay unsolved for {trigger.patience} "
        "iterations, the oracle is asked and the policy is patched",
    }
    return [
        f"{config.run.iterations} iterations of {config.rollout.batch_size} problems x {config.rollout.n} rollouts; "
        f"everything is written to {config.run.folder}",
        f"Schedule {config.schedule}: {plans[config.schedule]}",
    ]


def show_summary(summary: Mapping[str, Any], console: Console) -> None:
    """The final tables: evaluation before and after with intervals, then what happened in between."""
    table = Table("set", "figure", "base", "end", title="Evaluation (95% intervals over problems)")
    for name, scores in summary["evaluation"].items():
        base, end = scores["base"], scores["end"]
        for figure, score in base.items():
            if figure in end:  # evaluate.k may change on a resume
                table.add_row(name, figure, _cell(score), _cell(end[figure]))
        table.add_section()
    if summary["evaluation"]:
        console.print(table)
    story = Table("", "", title="The run", show_header=False)
    for name, value in _story(summary).items():
        story.add_row(name, value)
    console.print(story)


def _story(summary: Mapping[str, Any]) -> dict[str, str]:
    run, phases, spent = summary["run"], phase_shares(summary["seconds"]), summary["oracle"].get("spent")
    return {
        "iterations": str(run["iterations"]),
        **({"checkpoints not written": ", ".join(map(str, lost))} if (lost := run.get("lost_checkpoints")) else {}),
        "interventions": f"{run['interventions_kept']} kept of {run['interventions_tested']} tested, from "
        f"{run['interventions_from']}",
        **({"spent on the oracle": spent} if spent else {}),
        "last iteration": "no record of it was written"
        if run["last_reward"] is None
        else f"reward {run['last_reward']:.3f}, unsolved {run['last_unsolved']:.0%}",
        "time": f"{run['wall_time_s'] / 60:.1f} min: "
        + ", ".join(f"{phase} {share:.0%}" for phase, share in phases.items()),
        "neither sampling nor updating": _lost(summary["idle"], digits=0),
        "waiting for safety and records": _lost(summary["overhead"], digits=1),
    }


def _lost(lost: Mapping[str, Any], digits: int) -> str:
    """Example: `8% of the time after start-up, most of it in learner save 3%, weight sync publish 2%`."""
    largest = list(lost["seconds"].items())[:3]
    causes = ", ".join(f"{cause} {seconds / lost['of_seconds']:.{digits}%}" for cause, seconds in largest)
    return f"{lost['share']:.{digits}%} of the time after start-up" + (f", most of it in {causes}" if causes else "")


def what_next(path: str, overrides: Sequence[str], plugins: Sequence[str], config: Config, report: Path) -> list[str]:
    """Where the report is, and commands that can be pasted."""
    folder, other = config.run.folder, "plateau" if config.schedule == "never" else "never"
    kept = [item for item in overrides if not item.startswith(("schedule=", "run.folder="))]
    compared = [*kept, f"schedule={other}", f"run.folder={folder}-{other}"]
    purpose = "the same with interventions" if other == "plateau" else "plain RL, to compare with"
    return [
        f"Report: {report.resolve().as_uri()}",
        f"Next, {purpose}: {command_line('train', path, compared, plugins)}",
        f"All curves: {program('tensorboard')} --logdir {shlex.quote(str(folder))}",
    ]


def _cell(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
