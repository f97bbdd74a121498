"""What a run reports about its rollouts: shares of groups without a signal, and pass@k with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from int_ray.types import Outcome, RolloutGroup

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SetScore:
    """How a policy does on one problem set (paper, section 6.1). `pass_at` maps k to the estimate."""

    num_problems: int
    pass_at: Mapping[int, Estimate]
    unsolved: Estimate  # share of problems; those that the grader left undetermined count on neither side
    ungraded: float  # share of rollouts that the grader could not judge; pass@k counts them as not correct

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; `figures` maps `pass@8` and the like to mean, low and high."""
        figures = {name: asdict(estimate) for name, estimate in self.figures().items()}
        return {"num_problems": self.num_problems, "figures": figures, "ungraded": self.ungraded}

    def figures(self) -> dict[str, Estimate]:
        """What a person compares: `pass@k` for every k, then `unsolved`."""
        return {**{f"pass@{k}": estimate for k, estimate in self.pass_at.items()}, "unsolved": self.unsolved}


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased chance that one of `k` rollouts at least is correct, after c of `n` were: 1 - C(n-c,k)/C(n,k)."""
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} rollouts per problem, there are {n}")
    return 1.0 - comb(n - correct, k) / comb(n, k)


def estimate_mean(values: Sequence[float], seed: int) -> Estimate:
    """Mean of one value per problem, with the percentile bootstrap interval over problems; 0 of nothing."""
    return estimate_average([values], seed)


def estimate_average(sets: Sequence[Sequence[float]], seed: int) -> Estimate:
    """Mean of the means of several problem sets; the bootstrap draws the problems of each set anew, not the sets."""
    mean = _mean([_mean(values) for values in sets])
    if all(len(set(values)) <= 1 for values in sets):  # also one problem each: nothing to resample
        return Estimate(mean, mean, mean)
    from scipy.stats import bootstrap

    def mean_of_means(*samples: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.mean([np.mean(sample, axis=axis) for sample in samples], axis=0)

    interval = bootstrap(
        tuple(values if len(values) > 1 else [*values, *values] for values in sets if values),  # scipy wants two
        mean_of_means,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high))


def evaluate_set(groups: Sequence[RolloutGroup], ks: Sequence[int], seed: int) -> SetScore:
    """Score the rollouts of one problem set, one group per problem. `seed` fixes the bootstrap's resamples."""
    if not groups:
        raise ValueError("an evaluation set without problems has no score")
    tries = [(len(group.rollouts), sum(r.outcome is Outcome.CORRECT for r in group.rollouts)) for group in groups]
    return SetScore(
        num_problems=len(groups),
        pass_at={k: estimate_mean([pass_at_k(n, correct, k) for n, correct in tries], seed) for k in ks},
        unsolved=estimate_mean([group.is_unsolved for group in groups if not group.is_undetermined], seed),
        ungraded=_mean([not rollout.outcome.is_graded for group in groups for rollout in group.rollouts]),
    )


def unsolved_ratio(groups: Sequence[RolloutGroup]) -> float:
    """Share of problems with no correct rollout; groups that the grader left undetermined count on neither side."""
    return _mean([group.is_unsolved for group in groups if not group.is_undetermined])


def zero_advantage_ratio(groups: Sequence[RolloutGroup]) -> float:
    """Share of groups whose judged rollouts are all wrong or all right, so that GRPO learns nothing from them."""
    return _mean([group.has_zero_advantage for group in groups])


def rollout_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """The numbers of one iteration's rollouts: mean reward of the judged ones, shares, mean length in tokens."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    shares = {f"outcome/{outcome}": _mean([rollout.outcome is outcome for rollout in rollouts]) for outcome in Outcome}
    return {
        "rollout/reward": _mean([rollout.reward for rollout in rollouts if rollout.outcome.is_graded]),
        "rollout/unsolved": unsolved_ratio(groups),
        "rollout/zero_advantage": zero_advantage_ratio(groups),
        "rollout/response_tokens": _mean([len(rollout.completion.token_ids) for rollout in rollouts]),
        **shares,
    }


def staleness_metrics(groups: Sequence[RolloutGroup], policy_version: int) -> dict[str, float]:
    """How many versions the one that sampled a token is behind `policy_version`: mean and most over tokens."""
    tokens = total = most = 0
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        length, switches = len(rollout.completion.token_ids), rollout.completion.switches
        if length:
            oldest = policy_version - rollout.policy_version
            tokens += length
            total += oldest * length - sum(length - switch for switch in switches)
            most = max(most, oldest)
    return {"rollout/staleness_mean": total / tokens if tokens else 0.0, "rollout/staleness_max": float(most)}


def _mean(values: Sequence[float]) -> float:
    """The mean, 0 of nothing."""
    return sum(values) / len(values) if values else 0.0
