"""`int-ray train`: check everything that can be checked, then start the cluster parts and run the coordinator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from actors.checkpoint import CheckpointError, Checkpoints, verify
from actors.storage import JOURNAL, open_storage
from int_ray.background import BACKGROUND
from int_ray.config import Config
from int_ray.config_checks import batch_arithmetic
from int_ray.config_file import ConfigError, dump_config, load_config
from int_ray.model_checks import require_trainable
from int_ray.preflight import Inputs, is_local, load_inputs, require_kernels
from int_ray.trackers import open_loggers, require_loggers
from int_ray.types import ProblemSets, RunState
from launch.console import ConsoleProgress, introduce, show_summary
from launch.exits import sigterm_sets
from launch.memory import memory_lines
from launch.preparation import (
    check_folder,
    check_same_problems,
    import_plugins,
    journalled_end,
    report_quarantined,
    show_plan,
)
from launch.report import conclude

if TYPE_CHECKING:
    from actors.coordinator import Coordinator

# A resumed run cannot change these: they say which problems an iteration has and what its saved trigger means.
FIXED = (
    "schedule",
    "problems.train",
    "problems.mixed",
    "problems.decontaminate",
    "rollout.batch_size",
    "rollout.mixed",
    "run.seed",
)


Answer = TypeVar("Answer")
Assemble = Callable[..., "AbstractAsyncContextManager[Coordinator]"]  # called as actors.assembly.assemble is


@dataclass(frozen=True)
class Start:
    """Where training begins: a state and, unless it is a fresh run, the checkpoint that holds the weights."""

    state: RunState
    checkpoint: Path | None
    passed_over: tuple[str, ...] = ()  # what is wrong with newer checkpoints


def run_training(
    path: str, overrides: Sequence[str], *, dry_run: bool, resume: str | None, plugins: Sequence[str] = ()
) -> None:
    """Raises ConfigError for what the user can fix, RunError and KeyboardInterrupt for what `--resume` goes on from."""
    console = Console()
    import_plugins(plugins)
    config = load_config(path, overrides)
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    fetched = [] if dry_run else fetch_run(config, resume, say)
    start = find_start(config, resume)
    if dry_run:
        show_plan(config, batch_arithmetic(config), console)
        if is_local(config.model.path):
            require_trainable(config)
            for line in memory_lines(config):
                say(line)
        return
    with ConsoleProgress(console) as progress:
        for line in [*introduce(config), *fetched]:
            progress.say(line)
        progress.say(f"Checking the model and the problems of {path}")
        require_kernels(config)
        require_loggers(config)
        inputs = load_inputs(config)
        require_trainable(config)
        for line in memory_lines(config):
            progress.say(line)
        assembly = import_module("actors.assembly")  # seconds: here, where a Ctrl-C ends the process at once
        summary = asyncio.run(train(config, inputs, start, progress, assembly.assemble))
    show_summary(summary, console)
    for line in conclude(path, overrides, plugins, config):
        say(line)


async def train(
    config: Config, inputs: Inputs, start: Start, progress: ConsoleProgress, assemble: Assemble
) -> dict[str, Any]:
    """One run in its folder, from `start` to the end; returns its summary, which is written down as well."""
    from actors.run_folder import RunFolder, replace_file, write_json
    from actors.summary import summarise

    began = time.monotonic()
    trained_on = {"train": inputs.problems, "mixed": inputs.mixed}
    kept = check_same_problems(config.run.folder, "started", trained_on)
    folder = RunFolder(config.run.folder, open_loggers(config, progress.say), progress.say)
    replace_file(folder.path / "config.yaml", dump_config(config))
    _report_start(inputs, start, folder.path, progress)
    folder.journal.write("started", iteration=start.state.iteration, schedule=config.schedule, problem_sets=kept)
    sets = {name: loaded.problems for name, loaded in inputs.evaluation_sets.items()}
    problems = ProblemSets(inputs.problems.problems, sets, inputs.mixed.problems, inputs.interventions.items)
    with journalled_end(folder, progress):
        async with assemble(
            config, inputs.tokenizer, problems, folder, progress, checkpoint=start.checkpoint
        ) as coordinator:
            with sigterm_sets(coordinator.stop):
                state = await coordinator.run(start.state, start.checkpoint)
        summary = summarise(folder, state, time.monotonic() - began, progress.seconds())
        write_json(folder.path / "summary.json", summary)
    return summary


def _report_start(inputs: Inputs, start: Start, folder: Path, progress: ConsoleProgress) -> None:
    """Say where the run begins and what was loaded; rows that cannot be used are listed in the run folder."""
    for mistake in start.passed_over:
        progress.say(f"Passed over, and renamed to .corrupt: {mistake}")
    if start.checkpoint is not None:
        if start.passed_over:
            Checkpoints(start.checkpoint.parent, 1).set_aside(start.checkpoint)
        progress.say(f"Going on after iteration {start.state.iteration}, from {start.checkpoint}")
    mixed = {"mixed": inputs.mixed} if inputs.mixed.problems else {}
    loaded = {"train": inputs.problems, **mixed, **inputs.evaluation_sets}
    progress.say("Problems: " + ", ".join(f"{name} {len(item.problems)}" for name, item in loaded.items()))
    report_quarantined({**loaded, "interventions": inputs.interventions}, folder, progress)


def fetch_run(config: Config, resume: str | None, say: Callable[[str], object] = print) -> list[str]:
    """Where a run is to go on that has no journal here, bring what run.storage has, and say what it was.

    Raises ConfigError, also where another run would be written into a store that holds one.
    """
    folder, url = config.run.folder, config.run.storage
    if url is None:
        return []
    storage = open_storage(url)
    if (folder / JOURNAL).exists():
        return []
    deadline_s = config.run.storage_deadline_s
    if resume == "auto":
        say(f"Fetching what {url} has of the run, for {deadline_s:g} s at most (run.storage_deadline_s)")
        name = _asked(url, partial(storage.fetch, folder), deadline_s)
        return [] if name is None else [f"Fetched {name} of {url}"]
    say(f"Asking {url} whether it holds a run")
    if _asked(url, storage.checkpoints, deadline_s):
        raise ConfigError(
            [f"run.storage: {url} already holds a run; add --resume auto to go on with it, or choose another"]
        )
    return []


def _asked(url: str, work: Callable[[], Answer], deadline_s: float) -> Answer:
    """What a store says; one line for its errors, of which every store has its own. Raises ConfigError."""
    answer = BACKGROUND.submit(work)
    try:
        error = answer.exception(deadline_s)
    except TimeoutError:  # the wait's own: a store's is an answer
        raise ConfigError([f"run.storage: {url}: no end within {deadline_s:g} s (run.storage_deadline_s)"]) from None
    if error is not None:
        raise ConfigError([f"run.storage: {url}: {str(error) or type(error).__name__}"]) from None
    return answer.result()


def find_start(config: Config, resume: str | None) -> Start:
    """A fresh state, or what `--resume` asks for. Raises ConfigError."""
    check_folder(config, "started", FIXED, resumed=resume is not None)
    if resume is None:
        return Start(RunState(), None)
    try:
        if resume != "auto":
            return Start(verify(Path(resume)), Path(resume))
        checkpoint, state, mistakes = Checkpoints(config.run.folder / "checkpoints", 1).latest()
        return Start(state, checkpoint, tuple(map(str, mistakes)))
    except CheckpointError as error:
        raise ConfigError([f"--resume: {error}"]) from None
