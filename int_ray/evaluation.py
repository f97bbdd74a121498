"""What `int-ray evaluate` says about a policy: pass@k, response lengths and truncation, on every set and on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from int_ray.metrics import Estimate, SetScore, estimate_average, estimate_mean, pass_at_k
from int_ray.types import Outcome


@dataclass(frozen=True, slots=True)
class Tally:
    """What the rollouts of one problem came to, without their texts."""

    correct: int
    ungraded: int
    truncated: int
    tokens: tuple[int, ...]  # of every response

    @property
    def n(self) -> int:
        """Rollouts."""
        return len(self.tokens)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Tally:
        """Of one line that `rollout_records.group_record` wrote. Raises KeyError or ValueError if it is none."""
        outcomes = [Outcome(rollout["outcome"]) for rollout in record["rollouts"]]
        return cls(
            correct=outcomes.count(Outcome.CORRECT),
            ungraded=sum(not outcome.is_graded for outcome in outcomes),
            truncated=outcomes.count(Outcome.TRUNCATED),
            tokens=tuple(len(rollout["token_ids"]) for rollout in record["rollouts"]),
        )


@dataclass(frozen=True, slots=True)
class Score(SetScore):
    """How a policy does on one set, and how long its responses are."""

    response_tokens: Estimate  # mean over problems of the mean over rollouts
    truncated: Estimate  # share of rollouts that the token limit cut off


@dataclass(frozen=True, slots=True)
class CheckpointScores:
    """One policy on every set; `average` maps k to pass@k with the same weight for each set (paper, Table 2)."""

    path: str
    sets: Mapping[str, Score]
    average: Mapping[int, Estimate]


def score_set(tallies: Sequence[Tally], ks: Sequence[int], seed: int) -> Score:
    """The score of one set, one tally per problem, all with as many rollouts. `seed` fixes the bootstrap's resamples.

    A rollout that could not be graded counts as not correct; where it leaves open whether a problem is solved at all,
    the problem is on neither side of `unsolved`.
    """
    if not tallies:
        raise ValueError("an evaluation set without problems has no score")

    def mean(values: Sequence[float]) -> Estimate:
        return estimate_mean(values, seed)

    rollouts = sum(tally.n for tally in tallies)
    return Score(
        num_problems=len(tallies),
        pass_at={k: mean([pass_at_k(tally.n, tally.correct, k) for tally in tallies]) for k in ks},
        unsolved=mean([tally.correct == 0 for tally in tallies if tally.correct or not tally.ungraded]),
        ungraded=sum(tally.ungraded for tally in tallies) / rollouts,
        response_tokens=mean([sum(tally.tokens) / tally.n for tally in tallies]),
        truncated=mean([tally.truncated / tally.n for tally in tallies]),
    )


def score_checkpoint(path: str, sets: Mapping[str, Sequence[Tally]], ks: Sequence[int], seed: int) -> CheckpointScores:
    """The scores on every set, and the average with a bootstrap over the problems within each set."""

    def mean(k: int) -> Estimate:
        values = [[pass_at_k(tally.n, tally.correct, k) for tally in tallies] for tallies in sets.values()]
        return estimate_average(values, seed)

    scores = {name: score_set(tallies, ks, seed) for name, tallies in sets.items()}
    return CheckpointScores(path, scores, {k: mean(k) for k in ks})


def curve_sizes(n: int, ks: Sequence[int]) -> list[int]:
    """The k of a curve of pass@k over k: 1, 2, 4 and so on up to n, n itself, and those that were asked for."""
    return sorted({*ks, *(2**power for power in range(n.bit_length())), n})
