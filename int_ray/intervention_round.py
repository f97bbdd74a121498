"""One intervention round: failed rollouts -> oracle -> guards -> test by continuation -> what to clone.

Lines 2-10 of Algorithm 1 for every problem that stayed unsolved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, get_args

from int_ray.interventions import (
    Encode,
    Refusal,
    Splicer,
    best_per_attempt,
    first_per_attempt,
    keep_helpful,
    refuse_duplicates,
)
from int_ray.leaks import refuse_leaks
from int_ray.oracle_config import OracleConfig
from int_ray.oracles.chat import OUTAGES, RETRIED, FaultName
from int_ray.ports import CollectingPorts
from int_ray.samples import patch_sample
from int_ray.segmentation import Segmenter
from int_ray.training_config import PatchConfig
from int_ray.types import Attempt, Intervention, RolloutGroup, TestedIntervention, TrainingSample
from int_ray.unsolved_window import failed_rollouts

UNANSWERED = frozenset(get_args(FaultName))


@dataclass(frozen=True, slots=True, eq=False)
class RoundResult:
    """What became of every proposal of a round, and of the attempts about which there was none."""

    num_problems: int
    num_attempts: int
    tested: tuple[TestedIntervention, ...] = ()  # without continuations where nothing looks at them
    kept: tuple[TestedIntervention, ...] = ()  # of `tested`: to train on
    passed_over: tuple[Intervention, ...] = ()  # valid, but not the first on its attempt (select: first_valid)
    refused: tuple[Refusal, ...] = ()
    faults: tuple[str, ...] = ()  # flaws of replies that did not spoil them
    outage: str | None = None  # why the oracle could not be asked about any attempt
    cloned: ClassVar[str] = "interventions"  # what `kept` holds, for people

    def metrics(self) -> dict[str, float]:
        """Counts for the run's metrics."""
        return {
            "intervention/problems": self.num_problems,
            "intervention/attempts": self.num_attempts,
            "intervention/tested": len(self.tested),
            "intervention/kept": len(self.kept),
            "intervention/passed_over": len(self.passed_over),
            "intervention/refused": len(self.refused),
            "intervention/faults": len(self.faults),
        }

    def samples(self, config: PatchConfig) -> list[TrainingSample]:
        """What is cloned of `kept`."""
        return [patch_sample(item, config) for item in self.kept]

    def story(self) -> str:
        """The round in one sentence."""
        problems = len({item.intervention.attempt.problem.id for item in self.kept})
        parts = [
            f"{self.num_attempts} attempts at {self.num_problems} problems: {len(self.tested)} interventions",
            f"{len(self.refused)} refused{counted_names(refusal.reason for refusal in self.refused)}",
            f"{len(self.faults)} flaws in replies{counted_names(self.faults)}" if self.faults else "",
        ]
        return ", ".join(filter(None, parts)) + f"; {len(self.kept)} kept, on {problems} problems"


class InterventionRound:
    """Asks, splices, tests. Changes no weights."""

    def __init__(
        self,
        ports: CollectingPorts,
        segmenter: Segmenter,
        encode: Encode,
        oracle_config: OracleConfig,
        patch_config: PatchConfig,
        max_tokens: int,
    ) -> None:
        self.ports = ports
        self.segmenter = segmenter
        self.splicer = Splicer(encode, oracle_config.step_separator, oracle_config.max_step_tokens, max_tokens)
        self.oracle_config = oracle_config
        self.patch_config = patch_config

    async def run(self, unsolved: Sequence[RolloutGroup], round_: int) -> RoundResult:
        """Interventions for the given unsolved groups; `round_` (the iteration) enters the seeds of the tests."""
        attempts = [attempt for group in unsolved for attempt in self._attempts(group)]
        self.ports.progress.phase("asking the oracle", len(attempts))
        replies = await self.ports.oracle.intervene(attempts)
        spliced, refused = self.splicer.splice(attempts, replies)
        different, duplicates = refuse_duplicates(spliced)
        valid, leaks = await refuse_leaks(different, self.ports.grader)
        selected = first_per_attempt(valid) if self.oracle_config.select == "first_valid" else valid
        chosen = set(selected)
        result = RoundResult(
            num_problems=len(unsolved),
            num_attempts=len(attempts),
            tested=tuple(TestedIntervention(item, None) for item in selected),
            passed_over=tuple(item for item in valid if item not in chosen),
            refused=(*refused, *duplicates, *leaks),
            faults=tuple(fault for reply in replies for fault in reply.faults),
            outage=find_outage([reply.failure for reply in replies]),
        )
        return await self._test(result, round_)

    async def run_given(self, given: Sequence[TestedIntervention], round_: int) -> RoundResult:
        """The same for interventions that come from a file; those that bring their test along are not tested again."""
        valid, leaks = await refuse_leaks([item.intervention for item in given], self.ports.grader)
        clean = set(valid)
        result = RoundResult(
            num_problems=len({item.intervention.attempt.problem.id for item in given}),
            num_attempts=len(given),
            tested=tuple(item for item in given if item.intervention in clean),
            refused=tuple(leaks),
        )
        return await self._test(result, round_)

    async def _test(self, result: RoundResult, round_: int) -> RoundResult:
        """K continuations of what is in `tested` and has none yet, unless nothing would look at them; then `kept`."""
        tested = result.tested
        best_of = self.oracle_config.select == "best_of"
        if best_of or self.patch_config.filter or self.patch_config.clone_suffix:
            tested = await self._continued(tested, round_)
        candidates = best_per_attempt(tested) if best_of else tested
        kept = keep_helpful(candidates, filter=self.patch_config.filter)
        return replace(result, tested=tuple(tested), kept=tuple(kept))

    def _attempts(self, group: RolloutGroup) -> list[Attempt]:
        """The failed rollouts of one problem that the oracle is shown, cut into steps."""
        return [
            Attempt(group.problem, group.prompt_ids, rollout, self.segmenter.steps(rollout.completion.token_ids))
            for rollout in failed_rollouts(group, self.oracle_config.attempts)
        ]

    async def _continued(self, tested: Sequence[TestedIntervention], round_: int) -> list[TestedIntervention]:
        """The same, those without continuations tested now."""
        open_ = [item.intervention for item in tested if item.continuations is None]
        if not open_:
            return list(tested)
        self.ports.progress.phase("testing interventions", len(open_))
        groups = iter(await self.ports.rollouts.resume_from(open_, self.patch_config.continuations, round_))
        return [replace(item, continuations=item.continuations or next(groups)) for item in tested]


def find_outage(failures: Sequence[str | None]) -> str | None:
    """Why for now nothing gets through to the oracle; None if it answered anything, be it nonsense."""
    if any(failure not in UNANSWERED for failure in failures):
        return None
    return next((failure for failure in failures if failure in OUTAGES | RETRIED), None)


def counted_names(names: Iterable[str]) -> str:
    """Such as ` (2 leak, 1 duplicate)`, the most frequent first."""
    counts = Counter(names).most_common()
    return f" ({', '.join(f'{count} {name}' for name, count in counts)})" if counts else ""
