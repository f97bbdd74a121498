"""One round of distillation, the baseline of section 5: unsolved problems -> whole solutions by the oracle -> clone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from int_ray.intervention_round import counted_names, find_outage
from int_ray.interventions import Encode
from int_ray.oracles.solver import as_response
from int_ray.oracles.teacher import Teacher, Written
from int_ray.ports import Grader, Progress
from int_ray.side_by_side import all_or_none
from int_ray.training_config import PatchConfig
from int_ray.types import Outcome, Problem, RolloutGroup, TokenIds, TrainingSample


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What the oracle wrote about one problem, and what became of it."""

    problem: Problem
    prompt_ids: TokenIds  # [P]
    written: Written
    token_ids: TokenIds  # [T], with the end token; empty where nothing was written
    outcome: Outcome | None  # None where nothing was written
    refusal: str | None  # why it is not cloned: the oracle's failure, the grader's outcome, or too_long

    def sample(self) -> TrainingSample:
        """Prompt and solution; all of the solution is trained, its end token too."""
        trained = np.repeat(np.array([0, 1], np.uint8), [len(self.prompt_ids), len(self.token_ids)])
        return TrainingSample(np.concatenate([self.prompt_ids, self.token_ids]), trained)

    def record(self) -> dict[str, Any]:
        """One line of solutions/ in a run folder."""
        return {
            "problem_id": self.problem.id,
            "question": self.problem.question,
            "answer": self.problem.answer,
            "kept": self.refusal is None,
            "reason": self.refusal,
            "outcome": self.outcome,
            "text": self.written.text,
            "num_tokens": len(self.token_ids),
            "source": asdict(self.written.source) if self.written.source else None,
            "prompt_ids": self.prompt_ids.tolist(),
            "token_ids": self.token_ids.tolist(),
        }


@dataclass(frozen=True, slots=True, eq=False)
class DistillationResult:
    """What became of every solution of a round."""

    solutions: tuple[Solution, ...]
    outage: str | None = None  # why the oracle could not be asked about any problem
    cloned: ClassVar[str] = "solutions"  # what `kept` holds, for people

    @property
    def kept(self) -> list[Solution]:
        """Those to train on."""
        return [item for item in self.solutions if item.refusal is None]

    @property
    def refused(self) -> list[str]:
        """Why the others are not trained on."""
        return [item.refusal for item in self.solutions if item.refusal is not None]

    def samples(self, config: PatchConfig) -> list[TrainingSample]:
        """What is cloned of `kept`."""
        return [item.sample() for item in self.kept]

    def metrics(self) -> dict[str, float]:
        """Counts for the run's metrics, by the names that an intervention round has for them."""
        return {
            "intervention/problems": len(self.solutions),
            "intervention/attempts": len(self.solutions),  # one question about each
            "intervention/tested": sum(item.outcome is not None for item in self.solutions),
            "intervention/kept": len(self.kept),
            "intervention/refused": len(self.refused),
        }

    def story(self) -> str:
        """The round in one sentence."""
        return (
            f"{len(self.solutions)} problems: {len(self.kept)} right solutions by the oracle, "
            f"{len(self.refused)} refused{counted_names(self.refused)}"
        )


class DistillationRound:
    """Asks for one solution per problem and has it graded. Changes no weights."""

    def __init__(
        self, teacher: Teacher, grader: Grader, progress: Progress, encode: Encode, end_id: int, max_tokens: int
    ) -> None:
        """`end_id`: the end-of-sequence token. `max_tokens`: longest response that the policy may write."""
        self.teacher = teacher
        self.grader = grader
        self.progress = progress
        self.encode = encode
        self.end_id = end_id
        self.max_tokens = max_tokens

    async def run(self, unsolved: Sequence[RolloutGroup], round_: int) -> DistillationResult:
        """Solutions of the problems of the given groups; nothing here depends on `round_`."""
        self.progress.phase("asking the oracle for solutions", len(unsolved))
        solutions = await all_or_none(map(self._solution, unsolved))
        failures = [item.written.failure for item in solutions]
        return DistillationResult(tuple(solutions), find_outage(failures))

    async def _solution(self, group: RolloutGroup) -> Solution:
        written = await self.teacher.solve(group.problem)
        self.progress.advance()
        if written.failure is not None:
            return Solution(group.problem, group.prompt_ids, written, np.array([], np.int32), None, written.failure)
        token_ids = np.array([*self.encode(written.text), self.end_id], np.int32)
        (outcome,) = await self.grader.grade(group.problem, [as_response(written.text)])
        refusal = None if outcome is Outcome.CORRECT else str(outcome)
        if len(token_ids) > self.max_tokens:  # the policy could never write it
            refusal = refusal or "too_long"
        return Solution(group.problem, group.prompt_ids, written, token_ids, outcome, refusal)
