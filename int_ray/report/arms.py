"""Several runs as the arms of one experiment: each arm has a run per seed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, FiniteFloat

from int_ray.arms import SEED_FOLDER, Method, leaves, method_of
from int_ray.config_file import ConfigError
from int_ray.metrics import pass_at_k
from int_ray.report.lines import Line
from int_ray.report.run_files import Run, read_lines, read_run
from int_ray.types import Outcome

TITLES: Mapping[str, str] = {"standard_rl": "standard RL", "distillation": "distillation", "int": "InT"}
NUMBERED = re.compile(r"[-_](?:seed[-_]?)?\d+$")  # runs/int-0, runs/int-1: seeds of the arm int


class _Rollout(BaseModel):
    outcome: Outcome


class _Group(BaseModel):
    """What counts of a line of evaluations/iteration_*/SET.jsonl."""

    problem_id: str
    rollouts: list[_Rollout]


class _Moved(BaseModel):
    """A line of drift/iteration_*/SET.jsonl."""

    problem_id: str
    kl: FiniteFloat


class _Solution(BaseModel):
    """What counts of a line of solutions/iteration_*.jsonl."""

    problem_id: str
    kept: bool
    num_tokens: int


@dataclass(frozen=True)
class Count:
    """Right rollouts of one problem."""

    correct: int
    n: int
    ungraded: int


@dataclass
class SeedRun:
    """One run of an arm."""

    folder: Path
    seed: int
    run: Run
    _counts: dict[tuple[int, str], dict[str, Count]] = field(default_factory=dict)

    def counts(self, iteration: int, set_: str) -> Mapping[str, Count]:
        """Problem -> its rollouts in one evaluation; nothing, and a note, if the file is gone."""
        if (iteration, set_) not in self._counts:
            path = self.folder / "evaluations" / f"iteration_{iteration:06d}" / f"{Path(set_).name}.jsonl"
            groups = read_lines(path, _Group, self.run.notes)
            self._counts[iteration, set_] = {group.problem_id: _count(group) for group in groups}
        return self._counts[iteration, set_]

    @cached_property
    def drift_after_patch(self) -> dict[str, dict[str, float]]:
        """Set -> problem -> KL from the base in nats per token, after iteration 1."""
        sets = {event.set for event in self.run.drifts if event.iteration == 1 and event.kl is not None}
        folder = self.folder / "drift" / "iteration_000001"
        return {
            name: {
                line.problem_id: line.kl
                for line in read_lines(folder / f"{Path(name).name}.jsonl", _Moved, self.run.notes)
            }
            for name in sorted(sets)
        }

    @cached_property
    def solution_tokens(self) -> dict[str, float]:
        """Problem -> tokens of the oracle's full solution of it, as it was cloned (patch.clone: solutions)."""
        files = sorted((self.folder / "solutions").glob("iteration_*.jsonl"))
        solutions = [one for path in files for one in read_lines(path, _Solution, self.run.notes)]
        return {one.problem_id: float(one.num_tokens) for one in solutions if one.kept}

    @cached_property
    def lines(self) -> list[Line]:
        """Everything that was proposed, of all rounds."""
        folder = self.folder / "interventions"
        files = [folder / f"iteration_{iteration:06d}.jsonl" for iteration in self.run.rounds]
        return [line for path in files if path.is_file() for line in read_lines(path, Line, self.run.notes)]


def _count(group: _Group) -> Count:
    right = sum(rollout.outcome is Outcome.CORRECT for rollout in group.rollouts)
    ungraded = sum(not rollout.outcome.is_graded for rollout in group.rollouts)
    return Count(right, len(group.rollouts), ungraded)


@dataclass
class Arm:
    """Runs that differ in the seed alone."""

    name: str
    runs: dict[int, SeedRun] = field(default_factory=dict)  # by seed, in order
    left_out: list[SeedRun] = field(default_factory=list)  # not finished, while others are
    place: int = 0  # the same for a method in every report; it chooses colour and line

    @property
    def title(self) -> str:
        """For people: the method's, if the runs that have its name are of it."""
        return TITLES[self.name] if self.name == self.method else self.name

    @property
    def method(self) -> Method:
        """What is compared in the paper's section 6."""
        settings = next(iter(self.runs.values())).run.settings
        return method_of(settings.schedule, settings.clone)

    @property
    def sets(self) -> list[str]:
        """Names of the evaluated problem sets."""
        return list(dict.fromkeys(name for member in self.runs.values() for name in member.run.evaluations))

    def evaluated(self, set_: str) -> list[int]:
        """Iterations after which every seed was evaluated on a set; 0: before training."""
        found = [{event.iteration for event in member.run.evaluations.get(set_, ())} for member in self.runs.values()]
        return sorted(set.intersection(*found))

    def patched_only(self, set_: str) -> int | None:
        """The iteration after which the patched policy was evaluated before any RL (schedule: paper); None: none."""
        return 1 if self._patches_first and 1 in self.evaluated(set_) else None

    @property
    def _patches_first(self) -> bool:
        return all(m.run.settings.schedule == "paper" and 1 in m.run.patches for m in self.runs.values())

    def pass_at(self, k: int, set_: str, iteration: int) -> dict[int, dict[str, float]]:
        """Seed -> problem -> unbiased pass@k. Problems with fewer than k rollouts are left out."""
        return {
            seed: {
                name: pass_at_k(count.n, count.correct, k)
                for name, count in member.counts(iteration, set_).items()
                if count.n >= k
            }
            for seed, member in self.runs.items()
        }

    def unsolved(self, set_: str, iteration: int) -> dict[int, dict[str, float]]:
        """Seed -> problem -> 1 where not one rollout is right, else 0; without those that the grader left open."""
        return {
            seed: {
                name: float(not count.correct)
                for name, count in member.counts(iteration, set_).items()
                if count.correct or not count.ungraded
            }
            for seed, member in self.runs.items()
        }

    @property
    def drift_after_patch(self) -> dict[str, dict[int, dict[str, float]]]:
        """Set -> seed -> problem -> KL from the base in nats per token, right after the patch and before any RL.

        The sets that every seed was measured on then; none without schedule: paper.
        """
        if not self._patches_first:
            return {}
        found = {seed: member.drift_after_patch for seed, member in self.runs.items()}
        common = sorted(set.intersection(*map(set, found.values())))
        return {name: {seed: sets[name] for seed, sets in found.items()} for name in common}

    def most_rollouts(self, set_: str, iteration: int) -> int:
        """The largest k for which every problem has enough rollouts; 0 of nothing."""
        counts = [c.n for member in self.runs.values() for c in member.counts(iteration, set_).values()]
        return min(counts, default=0)


def read_arms(folders: Sequence[Path]) -> list[Arm]:
    """Runs, and folders `FOLDER/seed-*/ARM/` of runs, sorted into arms in a fixed order. Raises ConfigError.

    An arm is named after the folder of its runs: ARM, or what is left of it without a number at its end. Where some of
    its runs are finished, the others are left out; where none is, all count as far as every one of them went.
    """
    arms: dict[str, Arm] = {}
    for folder in [run for given in folders for run in _expand(given)]:
        run = read_run(folder)
        place = SEED_FOLDER.fullmatch(folder.resolve().parent.name)
        name = run.name if place else NUMBERED.sub("", run.name)
        seed = int(place[1]) if place else run.settings.seed
        members = arms.setdefault(name, Arm(name)).runs
        if seed in members:
            raise ConfigError([f"{members[seed].folder} and {folder} are both seed {seed} of {name}; leave one out"])
        members[seed] = SeedRun(folder, seed, run)
    for arm in arms.values():
        finished = {seed: one for seed, one in arm.runs.items() if one.run.ending == "finished"}
        arm.left_out = [one for seed, one in arm.runs.items() if finished and seed not in finished]
        arm.runs = dict(sorted((finished or arm.runs).items()))
    methods = list(TITLES)
    ordered = sorted(arms.values(), key=lambda arm: (methods.index(arm.method), arm.name != arm.method))
    further = count(len(methods))
    for arm, before in zip(ordered, [None, *ordered], strict=False):
        is_first = before is None or before.method != arm.method
        arm.place = methods.index(arm.method) if is_first else next(further)
    return ordered


def is_experiment(folder: Path) -> bool:
    """Whether the folder holds runs as `FOLDER/seed-*/ARM/`."""
    return any(SEED_FOLDER.fullmatch(child.name) for child in folder.glob("seed-*"))


def _expand(folder: Path) -> list[Path]:
    if not is_experiment(folder):
        return [folder]
    runs = sorted(path.parent for path in folder.glob("seed-*/*/journal.jsonl"))
    if not runs:
        raise ConfigError([f"{folder} holds no runs yet: looked for seed-*/ARM/journal.jsonl"])
    return runs


def differing_settings(arm: Arm) -> list[str]:
    """Settings in which the runs of an arm differ, beside seed and folder: they are no mere repetitions."""
    configs = [_settings(member.run.config) for member in arm.runs.values()]
    names = {name for config in configs for name in config} - {"run.seed", "run.folder"}
    return sorted(name for name in names if any(config.get(name) != configs[0].get(name) for config in configs))


def _settings(text: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return leaves(tree) if isinstance(tree, dict) else {}
