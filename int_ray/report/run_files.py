"""Reads a run folder for people: what is there, what is missing, and which lines cannot be read.

A resumed run goes back to its checkpoint; what an earlier process did after it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import AliasPath, AwareDatetime, BaseModel, Field, FiniteFloat, ValidationError

from int_ray.config_file import ConfigError
from int_ray.report.page import counted

SHORT = 0.01  # phases below this share of the time are shown together
# What other commands write first into their journal -> what they leave, and what people can do with it.
OTHER_COMMANDS = {
    "collecting": ("a collection", "int-ray inspect shows what it has"),
    "selecting": ("a set of hard problems", "its summary.md says what it has"),
    "comparing": ("runs of several arms", "int-ray report FOLDER/seed-*/* shows them side by side"),
    "ablating": ("an ablation without results", "int-ray ablate with --resume auto goes on with it"),
    "evaluating": ("an evaluation without results", "int-ray evaluate with --resume auto goes on with it"),
}
GOES_BACK = ("started", "learner_rebuilt")  # to a checkpoint; what came after it is done again
ENDINGS = ("finished", "interrupted", "failed")
Model = TypeVar("Model", bound=BaseModel)

Iteration = Annotated[int, Field(ge=0, lt=10**9)]
Share = Annotated[float, Field(ge=0, le=1)]
FigureName = Annotated[str, Field(pattern=r"^(pass@[1-9]\d*|unsolved)$")]


class Row(BaseModel):
    """One iteration of metrics.jsonl."""

    iteration: Iteration
    reward: Share = Field(alias="rollout/reward")
    unsolved: Share = Field(alias="rollout/unsolved")
    zero_advantage: Share = Field(alias="rollout/zero_advantage")
    seconds: FiniteFloat | None = Field(default=None, alias="time/iteration_s")


class Score(BaseModel):
    """A mean over problems with its 95% interval."""

    mean: Share
    low: Share
    high: Share


class Event(BaseModel):
    """One line of journal.jsonl; which fields follow `iteration` depends on the event."""

    time: AwareDatetime
    event: str
    iteration: Iteration = 0
    set: str = ""  # evaluated
    num_problems: int = 0
    figures: dict[FigureName, Score] = {}
    problems: int = Field(default=0, alias="intervention/problems")  # intervention_round
    attempts: int = Field(default=0, alias="intervention/attempts")
    tested: int = Field(default=0, alias="intervention/tested")
    kept: int = Field(default=0, alias="intervention/kept")
    outage: str | None = None  # why the oracle could not be asked
    kl: FiniteFloat | None = None  # drift: nats per token from the base model
    entropy: FiniteFloat | None = None  # drift: nats per token
    seconds: dict[str, FiniteFloat] = {}  # finished, interrupted, failed


class Settings(BaseModel):
    """What the report says of config.yaml beside its text."""

    schedule: str = "unknown"
    seed: int = Field(default=0, validation_alias=AliasPath("run", "seed"))
    clone: Literal["interventions", "solutions"] = Field(
        default="interventions", validation_alias=AliasPath("patch", "clone")
    )
    iterations: int | None = Field(default=None, validation_alias=AliasPath("run", "iterations"))
    filters: bool = Field(default=True, validation_alias=AliasPath("patch", "filter"))

    @property
    def clones_solutions(self) -> bool:
        """Whether the patch is the baseline of section 5, distillation."""
        return self.clone == "solutions"


@dataclass
class Run:
    """Everything that the report is made from. `notes` says what is missing or cannot be read."""

    name: str
    rows: list[Row] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    config: str = ""  # text of config.yaml
    settings: Settings = field(default_factory=Settings)
    notes: list[str] = field(default_factory=list)

    def add_row(self, row: Row) -> None:
        """The next line of metrics.jsonl; it may be of an iteration that is done again."""
        while self.rows and self.rows[-1].iteration >= row.iteration:
            self.rows.pop()
        self.rows.append(row)

    def add_event(self, event: Event) -> None:
        """The next line of journal.jsonl."""
        if event.event in GOES_BACK:
            self.events = [earlier for earlier in self.events if earlier.iteration <= event.iteration]
        self.events.append(event)

    @property
    def rounds(self) -> dict[int, Event]:
        """Iteration -> intervention round that the oracle answered; 0: interventions from a file."""
        return {iteration: event for iteration, event in self._asked.items() if event.outage is None}

    @property
    def outages(self) -> dict[int, str]:
        """Iteration -> why the oracle could not be asked then."""
        return {iteration: event.outage for iteration, event in self._asked.items() if event.outage is not None}

    @property
    def _asked(self) -> dict[int, Event]:
        return {event.iteration: event for event in self.events if event.event == "intervention_round"}

    @property
    def num_answered(self) -> int:
        """Rounds that the oracle answered."""
        return sum(iteration > 0 for iteration in self.rounds)

    @property
    def origin(self) -> str:
        """Where the interventions come from, such as `a file and 2 rounds`."""
        rounds = counted(self.num_answered, "round")
        if 0 not in self.rounds:
            return rounds
        return f"a file and {rounds}" if self.num_answered else "a file"

    @property
    def patches(self) -> list[int]:
        """Iterations at whose end the policy was patched; their own rollouts were sampled before."""
        return [iteration for iteration, event in self.rounds.items() if event.kept > 0]

    @property
    def evaluations(self) -> dict[str, list[Event]]:
        """Set -> its evaluations, the first one first."""
        found: dict[str, dict[int, Event]] = {}
        for event in self.events:
            if event.event == "evaluated":
                found.setdefault(event.set, {})[event.iteration] = event
        return {name: list(events.values()) for name, events in found.items()}

    @property
    def lost_checkpoints(self) -> list[int]:
        """Iterations whose checkpoint could not be written, nor was later."""
        last = {one.iteration: one.event for one in self.events if one.event in ("checkpoint", "checkpoint_failed")}
        return [iteration for iteration, event in last.items() if event == "checkpoint_failed"]

    @property
    def drifts(self) -> list[Event]:
        """How far the policy was from the base at each evaluation, on each set (evaluate.drift)."""
        return [event for event in self.events if event.event == "drift"]

    @property
    def ending(self) -> str | None:
        """How the last process of the run ended; None if its journal does not say."""
        return self.events[-1].event if self.events and self.events[-1].event in ENDINGS else None

    @property
    def seconds(self) -> dict[str, float]:
        """Phase -> time spent in it, by all processes of the run that ended by themselves."""
        total: dict[str, float] = {}
        for event in self.events:
            for phase, seconds in event.seconds.items():
                total[phase] = total.get(phase, 0.0) + seconds
        return total


def read_run(folder: Path) -> Run:
    """Raises ConfigError if the folder holds no run, or what `int-ray collect` writes."""
    if not any((folder / name).is_file() for name in ("journal.jsonl", "metrics.jsonl")):
        raise ConfigError([f"{folder} holds no run: it has neither journal.jsonl nor metrics.jsonl"])
    run = Run(folder.resolve().name)
    for row in read_lines(folder / "metrics.jsonl", Row, run.notes):
        run.add_row(row)
    for event in read_lines(folder / "journal.jsonl", Event, run.notes):
        run.add_event(event)
    if lost := run.lost_checkpoints:
        iterations = ", ".join(map(str, lost))
        run.notes.append(f"The checkpoint of iteration {iterations} could not be written; journal.jsonl says why.")
    for event in () if run.rows else run.events:
        if event.event in OTHER_COMMANDS:
            what, next_ = OTHER_COMMANDS[event.event]
            raise ConfigError([f"{folder} holds {what}, not a training run; {next_}"])
    _read_config(folder / "config.yaml", run)
    return run


def read_lines(path: Path, model: type[Model], notes: list[str]) -> Iterator[Model]:
    """The lines of a file that fit `model`; `notes` gets a line about a missing file and one about other lines."""
    if not path.is_file():
        notes.append(f"{path.name} is missing.")
        return
    unreadable = 0
    with path.open("rb") as file:
        for line in file:
            try:
                yield model.model_validate_json(line)
            except ValidationError:
                unreadable += bool(line.strip())
    if unreadable:
        notes.append(f"{counted(unreadable, 'line')} of {path.name} cannot be read.")


def _read_config(path: Path, run: Run) -> None:
    if not path.is_file():
        run.notes.append(f"{path.name} is missing.")
        return
    run.config = path.read_text(encoding="utf-8", errors="replace")
    try:
        run.settings = Settings.model_validate(yaml.safe_load(run.config))
    except (yaml.YAMLError, ValueError):
        run.notes.append(f"{path.name} is not a config; its text is below.")


def phase_shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Phase -> share of the time, the longest first; all evaluations are one phase, and so are the short phases."""
    total = sum(seconds.values()) or 1.0
    shares: dict[str, float] = {}
    for phase, spent in seconds.items():
        name = "evaluating" if phase.startswith("evaluating ") else phase if spent >= SHORT * total else "the rest"
        shares[name] = shares.get(name, 0.0) + spent / total
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
