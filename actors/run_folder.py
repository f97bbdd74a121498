"""Everything that a run writes for people and for later commands, as readable files in one folder.

Iterations count from 1 in every name and row; 0 is what there was before the first.

config.yaml  journal.jsonl  metrics.jsonl  tensorboard/  rollouts/  interventions/  evaluations/  checkpoints/
solutions/ (patch.clone: solutions)  drift/ (evaluate.drift)  logged_as*  wandb/ (run.loggers)
groups/  skipped/  quarantine_*.jsonl  summary.json  report.html  trace.json  oracle_calls.jsonl  oracle_answers.jsonl
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.group_journal import GroupJournal
from actors.trace import Trace, traced
from int_ray.distillation_round import DistillationResult
from int_ray.intervention_records import round_records
from int_ray.intervention_round import RoundResult
from int_ray.journal import Journal, LenientJournal, LineFile, Losses, read_json_lines
from int_ray.loggers import Loggers
from int_ray.metrics import SetScore
from int_ray.rollout_records import group_record, read_group
from int_ray.timeline import UPKEEP
from int_ray.types import Problem, RolloutGroup

_LOG = logging.getLogger(__name__)


class RunFolder:
    """Writes the files of one run. Opening an existing folder appends (a resumed run).

    A full disk costs records and ends no run: what was trained is in the weights, not in these files.
    """

    def __init__(self, path: Path, loggers: Loggers | None = None, say: Callable[[str], object] = _LOG.warning) -> None:
        """`loggers` get the numbers of every iteration and evaluation, too, and are closed with the folder.

        `say` gets a line when the disk is full.
        """
        self.path = path
        self.loggers = loggers or Loggers()
        for name in ("rollouts", "interventions", "evaluations", "checkpoints"):
            (path / name).mkdir(parents=True, exist_ok=True)
        self.losses = Losses(path, say)
        self.journal: Journal = LenientJournal(path / "journal.jsonl", self.losses)
        self.groups = GroupJournal(path / "groups")
        self._metrics = LineFile(path / "metrics.jsonl")

    def metrics(self, iteration: int, values: Mapping[str, float]) -> None:
        """One row of numbers for one iteration; an iteration repeated after a resume is the later row."""
        with self.losses.counted():
            self._metrics.append({"iteration": iteration, **values})
        self.loggers.log(iteration, values)

    def rollouts(self, iteration: int, groups: Sequence[RolloutGroup]) -> None:
        """All groups of one iteration."""
        with self.losses.counted():
            _write_lines(self._rollout_file(iteration), map(group_record, groups))

    def read_rollouts(self, iteration: int, problems: Iterable[Problem]) -> list[RolloutGroup]:
        """What `rollouts` wrote, without log-probs; nothing if it is gone, and only problems that are still given."""
        path = self._rollout_file(iteration)
        records = read_json_lines(path) if path.exists() else []
        ids = {record["problem_id"] for record in records}
        sampled = {problem.id: problem for problem in problems if problem.id in ids} if ids else {}
        return [
            read_group(record, sampled[record["problem_id"]]) for record in records if record["problem_id"] in sampled
        ]

    def _rollout_file(self, iteration: int) -> Path:
        return self.path / "rollouts" / f"iteration_{iteration:06d}.jsonl"

    def interventions(self, iteration: int, result: RoundResult) -> None:
        """What became of every proposal of one round."""
        with self.losses.counted():
            _write_lines(self._intervention_file(iteration), round_records(result))

    def round(self, iteration: int, result: RoundResult | DistillationResult) -> None:
        """What came of one round: every proposal, or every solution."""
        if isinstance(result, RoundResult):
            self.interventions(iteration, result)
            return
        folder = self.path / "solutions"
        with self.losses.counted():
            folder.mkdir(exist_ok=True)
            _write_lines(folder / f"iteration_{iteration:06d}.jsonl", [item.record() for item in result.solutions])

    def read_interventions(self, iteration: int) -> list[dict[str, Any]]:
        """The `InterventionRecord`s that `interventions` wrote; none if they are gone."""
        path = self._intervention_file(iteration)
        return read_json_lines(path) if path.exists() else []

    def _intervention_file(self, iteration: int) -> Path:
        return self.path / "interventions" / f"iteration_{iteration:06d}.jsonl"

    def evaluation(self, iteration: int, name: str, groups: Sequence[RolloutGroup], score: SetScore) -> None:
        """Rollouts and scores of one problem set."""
        folder = self.path / "evaluations" / f"iteration_{iteration:06d}"
        with self.losses.counted():
            folder.mkdir(exist_ok=True)
            _write_lines(folder / f"{name}.jsonl", map(group_record, groups))
            write_json(folder / f"{name}.score.json", score.as_dict())
        self.journal.write("evaluated", iteration=iteration, set=name, **score.as_dict())
        means = {f"evaluate/{name}/{figure}": estimate.mean for figure, estimate in score.figures().items()}
        self.loggers.log(iteration, means)

    def drift(self, iteration: int, name: str, *, kl: float | None, entropy: float) -> None:
        """How far the policy has moved from the base model, on one problem set (see actors/drift.py)."""
        self.journal.write("drift", iteration=iteration, set=name, kl=kl, entropy=entropy)
        known = {"kl": kl, "entropy": entropy}
        self.loggers.log(iteration, {f"drift/{name}/{key}": value for key, value in known.items() if value is not None})

    def scores(self) -> dict[int, dict[str, Any]]:
        """Iteration -> set name -> score, of every evaluation so far."""
        found: dict[int, dict[str, Any]] = {}
        for path in sorted((self.path / "evaluations").glob("iteration_*/*.score.json")):
            iteration = int(path.parent.name.removeprefix("iteration_"))
            found.setdefault(iteration, {})[path.name.removesuffix(".score.json")] = json.loads(path.read_text())
        return found

    def close(self) -> None:
        """Flush and close the files."""
        self.journal.close()
        self.groups.close()
        self._metrics.close()
        self.loggers.close()


def traced_folder(folder: RunFolder, trace: Trace) -> RunFolder:
    """The same folder; how long it is written to is recorded."""
    folder.journal = traced(folder.journal, trace, UPKEEP, write="journal")
    folder.groups = traced(folder.groups, trace, UPKEEP, add="groups")
    return traced(folder, trace, UPKEEP, "metrics", "rollouts", "round", "evaluation")


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file."""
    replace_file(path, json.dumps(content, indent=1) + "\n")


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    replace_file(path, "".join(json.dumps(record) + "\n" for record in records))


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file in one step, so that a reader never sees half of it, nor does a crash leave it. Text is UTF-8."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # half of a file would keep what is left of a full disk
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)
