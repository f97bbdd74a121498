"""One intervention round: failed rollouts -> oracle -> guards -> test by continuation -> what to clone.

Lines 2-10 of Algorithm 1 for every problem that stayed unsolved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from int_ray.config import PatchConfig
from int_ray.interventions import Encode, keep_helpful, splice_all
from int_ray.oracle_config import OracleConfig
from int_ray.ports import Ports
from int_ray.segmentation import Segmenter
from int_ray.types import Attempt, Intervention, RolloutGroup, TestedIntervention
from int_ray.unsolved_window import failed_rollouts


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round produced; `refused` has (problem id, named reason) of every attempt that led to nothing."""

    num_problems: int
    num_attempts: int
    tested: tuple[TestedIntervention, ...] = ()
    kept: tuple[TestedIntervention, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()

    def metrics(self) -> dict[str, float]:
        """Counts for the run's metrics."""
        return {
            "intervention/problems": self.num_problems,
            "intervention/attempts": self.num_attempts,
            "intervention/tested": len(self.tested),
            "intervention/kept": len(self.kept),
            "intervention/refused": len(self.refused),
        }

    def story(self) -> str:
        """The round in one sentence."""
        reasons = Counter(reason for _, reason in self.refused).most_common()
        refused = f" ({', '.join(f'{count} {reason}' for reason, count in reasons)})" if reasons else ""
        problems = len({item.intervention.attempt.problem.id for item in self.kept})
        return (
            f"{self.num_attempts} attempts at {self.num_problems} problems: {len(self.tested)} interventions, "
            f"{len(self.refused)} refused{refused}; {len(self.kept)} kept, on {problems} problems"
        )


class InterventionRound:
    """Asks, splices, tests. Changes no weights."""

    def __init__(
        self,
        ports: Ports,
        segmenter: Segmenter,
        encode: Encode,
        oracle_config: OracleConfig,
        patch_config: PatchConfig,
        max_tokens: int,
    ) -> None:
        self.ports = ports
        self.segmenter = segmenter
        self.encode = encode
        self.oracle_config = oracle_config
        self.patch_config = patch_config
        self.max_tokens = max_tokens

    async def run(self, unsolved: Sequence[RolloutGroup], round_: int) -> RoundResult:
        """Interventions for the given unsolved groups; `round_` (the iteration) enters the seeds of the tests."""
        attempts = [attempt for group in unsolved for attempt in self._attempts(group)]
        self.ports.progress.phase("asking the oracle", len(attempts))
        replies = await self.ports.oracle.intervene(attempts)
        interventions, rejections = splice_all(
            attempts, replies, self.encode, self.oracle_config.step_separator, self.max_tokens
        )
        tested = await self._test(interventions, round_)
        silent = [
            (attempt.problem.id, reply.failure)
            for attempt, reply in zip(attempts, replies, strict=True)
            if reply.failure is not None
        ]
        return RoundResult(
            num_problems=len(unsolved),
            num_attempts=len(attempts),
            tested=tuple(tested),
            kept=tuple(keep_helpful(tested, filter=self.patch_config.filter)),
            refused=(*silent, *((rejection.problem_id, rejection.reason) for rejection in rejections)),
        )

    def _attempts(self, group: RolloutGroup) -> list[Attempt]:
        """The failed rollouts of one problem that the oracle is shown, cut into steps."""
        return [
            Attempt(group.problem, group.prompt_ids, rollout, self.segmenter.steps(rollout.completion.token_ids))
            for rollout in failed_rollouts(group, self.oracle_config.attempts)
        ]

    async def _test(self, interventions: Sequence[Intervention], round_: int) -> list[TestedIntervention]:
        """K continuations of each; none where nothing that follows looks at them."""
        if not (self.patch_config.filter or self.patch_config.clone_suffix):
            return [TestedIntervention(intervention, None) for intervention in interventions]
        self.ports.progress.phase("testing interventions", len(interventions))
        groups = await self.ports.rollouts.resume_from(interventions, self.patch_config.continuations, round_)
        return [TestedIntervention(*pair) for pair in zip(interventions, groups, strict=True)]
