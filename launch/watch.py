"""`int-ray watch`: where a run stands, in a terminal, until it ends."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from int_ray.config_file import ConfigError, load_config
from int_ray.journal import read_json_lines
from int_ray.report.live import LiveRun
from int_ray.report.page import visible
from launch.exits import EXIT_FAILED, EXIT_RESUMABLE
from launch.submission import EXIT_DETACHED, exit_code, follow_to_the_end

if TYPE_CHECKING:
    from actors.job_client import JobClient

LOOK_EVERY_S = 1.0
SILENT_S = 60.0  # a run that lives writes far more often
BARS = "▁▂▃▄▅▆▇█"
EXITS = {"finished": 0, "failed": EXIT_FAILED, "interrupted": EXIT_RESUMABLE}


def run_watch(run: str, *, address: str | None, once: bool) -> int:
    """Show the run of a folder or, with `address`, the job of that id. Returns what the run exits with, 0 while it goes
    on. Raises ConfigError, ClusterError.
    """
    if (Path(run) / "journal.jsonl").is_file() or address is None:
        return watch_folder(Path(run), Console(), once=once)
    from actors.job_client import connect_jobs

    return watch_job(connect_jobs(address), address, run, once=once)


def watch_folder(folder: Path, console: Console, *, once: bool) -> int:
    """Until the run ends, or once; Ctrl-C stops watching and leaves the run alone. Raises ConfigError."""
    live = LiveRun.open(folder)
    if once or not console.is_terminal:
        console.print(picture(live))
        return EXITS.get(live.run.ending or "", 0)
    try:
        with Live(picture(live), console=console, auto_refresh=False) as screen:
            while live.run.ending is None:
                time.sleep(LOOK_EVERY_S)
                live.look()
                screen.update(picture(live), refresh=True)
    except KeyboardInterrupt:
        return EXIT_DETACHED
    return EXITS[live.run.ending]


def watch_job(client: JobClient, address: str, job_id: str, *, once: bool) -> int:
    """The run folder of a job if this machine can read it, else its log. Raises ClusterError."""
    from actors.job_client import ClusterError, first_line

    try:
        details = client.get_job_info(job_id)
    except (RuntimeError, OSError) as error:  # requests' errors are OSErrors
        raise ClusterError(f"{address} tells nothing about job {job_id}: {first_line(error)}") from None
    folder = folder_of(details.entrypoint)
    if folder is not None and has_begun(folder, details.start_time):
        return watch_folder(folder, Console(), once=once)
    if once:
        print(client.get_job_logs(job_id), end="")
        return exit_code(details) if details.status.is_terminal() else 0
    return follow_to_the_end(client, address, job_id)


def folder_of(entrypoint: str) -> Path | None:
    """run.folder of a submitted command, if it says so, or its config is here, too; a relative one is the job's own."""
    try:
        words = shlex.split(entrypoint)
    except ValueError:  # half of a quotation: no command of `int-ray submit`
        return None
    if words[:4] != ["python", "-m", "launch.cli", "train"] or len(words) < 5:
        return None
    settings = [word for word in words[5:] if "=" in word]
    named = [word.partition("=")[2] for word in settings if word.startswith("run.folder=")]
    try:
        folder = Path(named[-1]) if named else load_config(words[4], settings).run.folder
    except ConfigError:
        return None
    return folder if folder.is_absolute() else None


def has_begun(folder: Path, job_start_ms: int | None) -> bool:
    """Whether the journal is this job's already: a resumed run's ends with how the one before ended until it begins."""
    journal = folder / "journal.jsonl"
    if job_start_ms is None or not journal.is_file():
        return False
    begun = [event.get("time", "") for event in read_json_lines(journal) if event.get("event") == "started"]
    # A journal has whole seconds.
    return bool(begun) and datetime.fromisoformat(begun[-1]).timestamp() >= job_start_ms // 1000


def picture(live: LiveRun) -> RenderableType:
    """Everything at a glance."""
    table = Table.grid(padding=(0, 2))
    for name, value in rows(live):
        table.add_row(Text(name, style="dim"), Text(visible(value)))
    story = [Text(visible(line), style="dim", overflow="ellipsis", no_wrap=True) for line in live.story]
    return Group(table, Text(), *story)


def rows(live: LiveRun) -> list[tuple[str, str]]:
    """What is shown, name by name."""
    run = live.run
    total = run.settings.iterations or "?"
    left = f", about {clock(live.seconds_left)} left without evaluations" if live.seconds_left else ""
    shown = [("run", run.name), ("now", now(live)), ("iteration", f"{live.iteration} of {total}{left}")]
    for name, title in (("reward", "reward"), ("unsolved", "unsolved"), ("zero_advantage", "no signal")):
        values = [getattr(row, name) for row in run.rows]
        if values:
            shown.append((title, f"{sparkline(values)} {values[-1]:.3f}"))
    for name, events in run.evaluations.items():
        figures = ", ".join(f"{figure} {score.mean:.3f}" for figure, score in events[-1].figures.items())
        when = f"after iteration {events[-1].iteration}" if events[-1].iteration else "before training"
        shown.append((name, f"{figures} ({when})"))
    if run.rounds:
        shown.append(("interventions", f"{live.kept} kept, from {run.origin}"))
    return [*shown, *machines(live)]


def machines(live: LiveRun) -> list[tuple[str, str]]:
    """Engines, speed and bill, as the run tells them every few seconds; nothing before it does."""
    figures = live.figures
    if not figures:
        return []
    engines = f"{figures.get('engines', 0):.0f} at work"
    for name, word in (("engines_lost", "lost"), ("engines_joined", "joined")):
        if figures.get(name):
            engines += f", {figures[name]:.0f} {word}"
    load = f"{figures.get('samples_in_flight', 0):.0f} samples in flight"
    if figures.get("requests_waiting"):
        load += f", {figures['requests_waiting']:.0f} requests waiting"
    speed = f"{figures.get('tokens_per_second', 0):,.0f} tokens/s"
    shown = [("engines", f"{engines}; {load}; {speed}")]
    if figures.get("oracle_calls"):
        cost = f", cost {figures['oracle_cost']:,.3f}" if figures.get("oracle_cost") else ""
        calls, tokens = figures["oracle_calls"], figures.get("oracle_tokens", 0)
        shown.append(("oracle", f"{calls:,.0f} calls, {tokens:,.0f} tokens{cost}"))
    return shown


def now(live: LiveRun) -> str:
    """Its phase and since when, or how it ended."""
    if live.run.ending:
        return live.run.ending
    phase = "starting" if live.phase is None else f"{live.phase[0]}, for {clock(time.time() - live.phase[1])}"
    if live.silence > SILENT_S:
        return f"{phase}; silent for {clock(live.silence)}: killed, or cut off from its folder"
    return phase


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Shares as bars, means of equal parts where there are more than `width`.

    Example: `sparkline([0, 0.5, 1])` is `▁▅█`.
    """
    size = max(1, -(-len(values) // width))
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    return "".join(BARS[min(7, int(8 * sum(part) / len(part)))] for part in parts)


def clock(seconds: float) -> str:
    """Such as `2 h 05 min`, `3 min`, `40 s`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(0, seconds):.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 90 else f"{minutes} min"
