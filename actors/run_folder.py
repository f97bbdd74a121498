"""Everything that a run writes for people and for later commands, as readable files in one folder.

Iterations count from 1 in every name and row; 0 is what there was before the first.

config.yaml  journal.jsonl  metrics.jsonl  tensorboard/  rollouts/  interventions/  evaluations/  checkpoints/
quarantine_*.jsonl  summary.json
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from int_ray.intervention_round import RoundResult
from int_ray.journal import Journal, open_for_appending, read_json_lines
from int_ray.metrics import SetScore
from int_ray.types import Completion, Outcome, Problem, Rollout, RolloutGroup, TestedIntervention


class RunFolder:
    """Writes the files of one run. Opening an existing folder appends (a resumed run)."""

    def __init__(self, path: Path, *, tensorboard: bool = True) -> None:
        self.path = path
        for name in ("rollouts", "interventions", "evaluations", "checkpoints"):
            (path / name).mkdir(parents=True, exist_ok=True)
        self.journal = Journal(path / "journal.jsonl")
        self._metrics = open_for_appending(path / "metrics.jsonl")
        self._board = _open_tensorboard(path / "tensorboard") if tensorboard else None

    def metrics(self, iteration: int, values: Mapping[str, float]) -> None:
        """One row of numbers for one iteration; an iteration repeated after a resume is the later row."""
        self._metrics.write(json.dumps({"iteration": iteration, **values}) + "\n")
        self._metrics.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, iteration)

    def rollouts(self, iteration: int, groups: Sequence[RolloutGroup]) -> None:
        """All groups of one iteration."""
        _write_lines(self._rollout_file(iteration), map(group_record, groups))

    def read_rollouts(self, iteration: int, problems: Mapping[str, Problem]) -> list[RolloutGroup]:
        """What `rollouts` wrote, without log-probs; nothing if it is gone, and only problems that are still given."""
        path = self._rollout_file(iteration)
        records = read_json_lines(path) if path.exists() else []
        return [
            read_group(record, problems[record["problem_id"]]) for record in records if record["problem_id"] in problems
        ]

    def _rollout_file(self, iteration: int) -> Path:
        return self.path / "rollouts" / f"iteration_{iteration:06d}.jsonl"

    def interventions(self, iteration: int, result: RoundResult) -> None:
        """All interventions of one round, kept or not, and why the others were refused."""
        records = [
            *(intervention_record(tested, kept=tested in result.kept) for tested in result.tested),
            *({"refused": reason, "problem_id": problem_id} for problem_id, reason in result.refused),
        ]
        _write_lines(self.path / "interventions" / f"iteration_{iteration:06d}.jsonl", records)

    def evaluation(self, iteration: int, name: str, groups: Sequence[RolloutGroup], score: SetScore) -> None:
        """Rollouts and scores of one problem set."""
        folder = self.path / "evaluations" / f"iteration_{iteration:06d}"
        folder.mkdir(exist_ok=True)
        _write_lines(folder / f"{name}.jsonl", map(group_record, groups))
        write_json(folder / f"{name}.score.json", score.as_dict())
        self.journal.write("evaluated", iteration=iteration, set=name, **score.as_dict())
        if self._board is not None:
            for figure, estimate in score.figures().items():
                self._board.add_scalar(f"evaluate/{name}/{figure}", estimate.mean, iteration)

    def scores(self) -> dict[int, dict[str, Any]]:
        """Iteration -> set name -> score, of every evaluation so far."""
        found: dict[int, dict[str, Any]] = {}
        for path in sorted((self.path / "evaluations").glob("iteration_*/*.score.json")):
            iteration = int(path.parent.name.removeprefix("iteration_"))
            found.setdefault(iteration, {})[path.name.removesuffix(".score.json")] = json.loads(path.read_text())
        return found

    def metric_rows(self) -> list[dict[str, float]]:
        """The rows written so far, one per iteration, the latest of a repeated one."""
        rows = {row["iteration"]: row for row in read_json_lines(self.path / "metrics.jsonl")}
        return [rows[iteration] for iteration in sorted(rows)]

    def close(self) -> None:
        """Flush and close the files."""
        self.journal.close()
        self._metrics.close()
        if self._board is not None:
            self._board.close()


def group_record(group: RolloutGroup) -> dict[str, Any]:
    """A group as JSON: the texts for people, the ids for machines."""
    return {
        "problem_id": group.problem.id,
        "question": group.problem.question,
        "answer": group.problem.answer,
        "prompt_ids": group.prompt_ids.tolist(),
        "prefix_ids": group.prefix_ids.tolist(),
        "rollouts": [
            {
                "outcome": rollout.outcome,
                "policy_version": rollout.policy_version,
                "seed": rollout.completion.seed,
                "finished": rollout.completion.finished,
                "text": rollout.completion.text,
                "token_ids": rollout.completion.token_ids.tolist(),
            }
            for rollout in group.rollouts
        ],
    }


def read_group(record: Mapping[str, Any], problem: Problem) -> RolloutGroup:
    """The group that `group_record` wrote; its log-probs are NaN, for unknown."""
    rollouts = []
    for row in record["rollouts"]:
        ids = np.array(row["token_ids"], np.int32)
        unknown = np.full(len(ids), np.nan, np.float32)
        completion = Completion(ids, unknown, row["text"], row["finished"], row["seed"])
        rollouts.append(Rollout(completion, Outcome(row["outcome"]), row["policy_version"]))
    prompt_ids, prefix_ids = (np.array(record[name], np.int32) for name in ("prompt_ids", "prefix_ids"))
    return RolloutGroup(problem, prompt_ids, prefix_ids, tuple(rollouts))


def intervention_record(tested: TestedIntervention, *, kept: bool) -> dict[str, Any]:
    """An intervention as JSON: where it comes from, what it replaces, and how its test went."""
    intervention, continuations = tested.intervention, tested.continuations
    attempt, proposal = intervention.attempt, intervention.proposal
    return {
        "problem_id": attempt.problem.id,
        "question": attempt.problem.question,
        "policy_version": attempt.rollout.policy_version,
        "attempt_seed": attempt.rollout.completion.seed,
        "steps": [step.text for step in attempt.steps],
        "location": proposal.location,
        "replaced": attempt.steps[proposal.location - 1].text,
        "content": proposal.content,
        "intervention_tokens": len(intervention.intervention_ids),
        "success_rate": continuations.success_rate if continuations else None,
        "kept": kept,
        "continuations": group_record(continuations)["rollouts"] if continuations else [],
    }


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file in one step, so that a reader never sees half of it."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _open_tensorboard(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
