"""What the commands that sample share: before they start anything, and when it has ended."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from int_ray.arms import is_below, leaves
from int_ray.config import Config
from int_ray.config_file import ConfigError, dump_config, load_config
from int_ray.data.problems import LoadedProblems, write_quarantine
from int_ray.errors import Resumable
from int_ray.given_interventions import LoadedInterventions
from int_ray.journal import read_json_lines
from int_ray.ports import Progress
from int_ray.preflight import check_local_inputs

if TYPE_CHECKING:
    from actors.run_folder import RunFolder
    from int_ray.result_folder import ResultFolder
    from launch.console import ConsoleProgress


def import_plugins(modules: Sequence[str]) -> None:
    """Import what users bring, from the working directory too. Raises ConfigError."""
    if modules and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` would; Ray hands it on to its workers
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            raise ConfigError([f"--plugin {module}: {error}"]) from None


def show_plan(config: Config, rows: Sequence[tuple[str, str]], console: Console) -> None:
    """The resolved config, and rows of a resource plan; hub names are not looked up. Raises ConfigError."""
    show_settings(config, rows, check_local_inputs(config), console)


def show_settings(
    config: Config, rows: Sequence[tuple[str, str]], not_checked: Sequence[str], console: Console
) -> None:
    """The same after other checks, which left out the names `not_checked`."""
    console.print(dump_config(config), markup=False, highlight=False, soft_wrap=True)
    table = Table("plan", "value", title="Resources and batches")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for name in not_checked:
        console.print(f"not checked: {name} is a hub name", markup=False, highlight=False)


def report_quarantined(
    loaded: Mapping[str, LoadedProblems | LoadedInterventions], folder: Path, progress: Progress
) -> None:
    """Say what was chosen and left out; the rows that cannot be used are listed in the run folder."""
    for name, item in loaded.items():
        for note in item.notes if isinstance(item, LoadedProblems) else ():
            progress.say(f"{name}: {note}")
        if item.quarantined:
            path = folder / f"quarantine_{name}.jsonl"
            write_quarantine(path, item.quarantined)
            progress.say(f"{len(item.quarantined)} rows of {name} cannot be used and were left out; {path} says why")


def check_folder(config: Config, begins: str, fixed: Sequence[str], *, resumed: bool) -> None:
    """Raises ConfigError if run.folder holds anything but the run to resume.

    `begins` is the journal event that every run of this command begins with, `fixed` are the settings and sections
    it must keep.
    """
    folder = config.run.folder
    if folder.exists() and not folder.is_dir():
        raise ConfigError([f"run.folder: {folder} is a file; choose another"])
    if not folder.exists():
        return
    if not resumed and any(folder.iterdir()):
        raise ConfigError(
            [f"run.folder: {folder} already holds a run; add --resume auto to go on with it, or choose another"]
        )
    journal = folder / "journal.jsonl"
    events = [event["event"] for event in read_json_lines(journal)] if journal.exists() else []
    if events and begins not in events:
        raise ConfigError([f"run.folder: {folder} holds a run of another command; choose another"])
    if (folder / "config.yaml").exists():
        _check_unchanged(config, load_config(folder / "config.yaml"), fixed)


def _check_unchanged(config: Config, before: Config, fixed: Sequence[str]) -> None:
    """Raises ConfigError if a setting differs that a resumed run must keep; of a section, all of them."""
    was, is_now = (leaves(item.model_dump(mode="json")) for item in (before, config))
    mistakes = [
        f"{key}: {is_now.get(key)!r}, but the run to resume has {was.get(key)!r}; keep it, or choose another run.folder"
        for key in sorted(was.keys() | is_now.keys())
        if is_below(key, fixed) and was.get(key) != is_now.get(key)
    ]
    if mistakes:
        raise ConfigError(mistakes)


def check_same_problems(folder: Path, begins: str, loaded: Mapping[str, LoadedProblems]) -> dict[str, str]:
    """Raises ConfigError if the run to resume began with other problems; its batches are places in their order.

    Returns what the event `begins` is to keep of them, as `problem_sets`.
    """
    journal = folder / "journal.jsonl"
    before: dict[str, str] = {}
    for event in read_json_lines(journal) if journal.exists() else ():
        if event["event"] == begins:
            before |= event.get("problem_sets", {})
    now = {name: item.identity() for name, item in loaded.items()}
    mistakes = [
        f"problems.{name}: {found} are left, but the run to resume began with {before[name]}; bring back the data and "
        "the settings that leave rows out, or choose another run.folder"
        for name, found in now.items()
        if before.get(name, found) != found
    ]
    if mistakes:
        raise ConfigError(mistakes)
    return now


@contextmanager
def journalled_end(folder: RunFolder | ResultFolder, progress: ConsoleProgress) -> Iterator[None]:
    """Write into the journal how the block ended and where its time went; close the folder."""
    ended, reason = "failed", {}
    try:
        yield
        ended = "finished"
    except Resumable as error:
        ended, reason = "interrupted", {"reason": str(error)}
        raise
    except (asyncio.CancelledError, KeyboardInterrupt):
        ended = "interrupted"
        raise
    finally:
        folder.journal.write(ended, seconds=progress.seconds(), **reason)
        folder.close()
