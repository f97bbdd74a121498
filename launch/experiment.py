"""What the commands share that fill a folder of their own, without being a training run: `int-ray collect` and others.

Each goes the same way: read the config, check the folder, show a plan or load what is needed, work, say what came out.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from rich.console import Console

from int_ray.config import Config
from int_ray.config_checks import engine_gpus, num_gpus
from int_ray.config_file import dump_config, load_config
from int_ray.data.problems import LoadedProblems
from int_ray.oracle_config import OracleConfig
from int_ray.preflight import Inputs, check_local_inputs, is_local, load_inputs
from launch.commands import Given
from launch.console import ConsoleProgress
from launch.memory import memory_lines
from launch.preparation import check_folder, import_plugins, journalled_end, report_quarantined, show_settings

if TYPE_CHECKING:
    from actors.run_folder import RunFolder
    from int_ray.result_folder import ResultFolder

# What rollouts depend on of the model, in `Experiment.fixed`.
MODEL = (
    "model.path",
    "model.revision",
    "model.dtype",
    "model.max_length",
    "model.chat_template_kwargs",
    "model.instruction",
)

# All of the oracle but what it may cost, how long it may take, and where its answers are kept.
ORACLE = tuple(
    f"oracle.{name}"
    for name in OracleConfig.model_fields
    if name not in ("budget", "prices", "limits", "cache", "on_outage", "workers", "concurrency", "deadline_s")
)

Loaded = TypeVar("Loaded")  # what is read before anything starts
Folder = TypeVar("Folder", bound="RunFolder | ResultFolder")
Result = TypeVar("Result")


class Experiment(ABC, Generic[Loaded, Folder, Result]):
    """One call of such a command."""

    purpose: ClassVar[str]  # what it does, for people
    reads: ClassVar[str] = "the model and the problems"  # what it checks before it starts
    begins: ClassVar[str]  # journal event that every process of the command begins with
    fixed: ClassVar[Sequence[str]]  # settings, or sections of them, that what is there already depends on
    without: ClassVar[Sequence[str]]  # overrides that leave out what the command does not need
    assembly: ClassVar[str]  # module that takes seconds to import
    learns: ClassVar[bool] = False  # it needs the learner beside the engines

    def __init__(self, given: Given) -> None:
        """Raises ConfigError."""
        import_plugins(given.plugins)
        self.given = given
        self.config = self.read()

    def run(self) -> None:
        """Raises ConfigError for what the user can fix, RunError and KeyboardInterrupt for what can be resumed."""
        console = Console()
        check_folder(self.config, self.begins, self.fixed, resumed=self.given.resumed)
        self.check_resumed()
        if self.given.dry_run:
            show_settings(self.config, self.plan(), self.check(), console)
            for line in self.memory() if is_local(self.config.model.path) else ():
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            return
        with ConsoleProgress(console) as progress:
            for line in self.introduce():
                progress.say(line)
            loaded = self.load()
            for line in self.memory():
                progress.say(line)
            import_module(self.assembly)  # here, where a Ctrl-C ends the process at once
            result = asyncio.run(self._work(loaded, progress))
        self.show(result, console)
        for line in self.what_next(result):
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    async def _work(self, loaded: Loaded, progress: ConsoleProgress) -> Result:
        from actors.run_folder import replace_file

        event = self.event(loaded)
        folder = self.open()
        replace_file(folder.path / "config.yaml", dump_config(self.config))
        folder.journal.write(self.begins, **event)
        sets = self.sets(loaded)
        sizes = [f"{name} {len(item.problems)}" for name, item in sets.items()]
        progress.say(f"Problems: {', '.join(sizes)}")
        report_quarantined(sets, folder.path, progress)
        with journalled_end(folder, progress):
            return await self.work(loaded, folder, progress)

    def read(self) -> Config:
        """The config without what the command does not need. Raises ConfigError."""
        return load_config(self.given.config, [*self.given.overrides, *self.without])

    def introduce(self) -> list[str]:
        """What is about to happen, before the first wait."""
        return [
            f"{self.purpose}; everything is written to {self.config.run.folder}",
            f"Checking {self.reads} of {self.given.config}",
        ]

    def check_resumed(self) -> None:
        """Further checks of the folder. Raises ConfigError."""
        return

    def check(self) -> list[str]:
        """Names that a dry run cannot look up; raises ConfigError for what it can."""
        return check_local_inputs(self.config)

    def plan(self) -> list[tuple[str, str]]:
        """What the command takes, for --dry-run."""
        rollout = self.config.rollout
        return [
            *self.sizes(),
            ("rollout engines", f"{rollout.num_engines} x {rollout.tensor_parallel_size} device(s)"),
            ("GPUs", str(self.gpus())),
        ]

    def gpus(self) -> int:
        """GPUs that are needed."""
        return num_gpus(self.config) if self.learns else engine_gpus(self.config)

    def memory(self) -> list[str]:
        """What each GPU will hold, if there is a learner to share them with."""
        return memory_lines(self.config) if self.learns else []

    @abstractmethod
    def sizes(self) -> list[tuple[str, str]]:
        """How much work it is, for --dry-run."""

    @abstractmethod
    def load(self) -> Loaded:
        """Read what is needed. Raises ConfigError."""

    @abstractmethod
    def sets(self, loaded: Loaded) -> Mapping[str, LoadedProblems]:
        """The problems by the names that the folder has for them."""

    def event(self, loaded: Loaded) -> dict[str, Any]:
        """What the journal keeps of the beginning. Raises ConfigError where that cannot be resumed."""
        return {}

    @abstractmethod
    def open(self) -> Folder:
        """The folder, new or to go on with."""

    @abstractmethod
    async def work(self, loaded: Loaded, folder: Folder, progress: ConsoleProgress) -> Result:
        """All of the work."""

    @abstractmethod
    def show(self, result: Result, console: Console) -> None:
        """The final table."""

    @abstractmethod
    def what_next(self, result: Result) -> list[str]:
        """Where the files are, and what can be done with them."""


class OnTrainingProblems(Experiment[Inputs, Folder, Result]):
    """One that works through the training problems with one model."""

    def load(self) -> Inputs:
        """Tokenizer and problems. Raises ConfigError."""
        return load_inputs(self.config)

    def sets(self, loaded: Inputs) -> Mapping[str, LoadedProblems]:
        """The training problems."""
        return {"train": loaded.problems}
