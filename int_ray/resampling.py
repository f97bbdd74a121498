"""Intervals of what was measured on the same problems with several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from int_ray.metrics import CONFIDENCE, Estimate

RESAMPLES = 5000
Values = NDArray[np.float64]  # [S, P]: one value per seed and problem
BySeed = Mapping[int, Mapping[str, float]]  # seed -> problem -> value


def aligned(*measured: BySeed) -> list[Values]:
    """One array [S, P] each, with the seeds and problems that all of them have, in the same order."""
    seeds = sorted(set.intersection(*(set(values) for values in measured)))
    problems = [set(values[seed]) for values in measured for seed in seeds]
    common = sorted(set.intersection(*problems)) if problems else []
    return [
        np.array([[values[seed][problem] for problem in common] for seed in seeds], float).reshape(
            len(seeds), len(common)
        )
        for values in measured
    ]


def estimate(sets: Sequence[Values], seed: int = 0) -> Estimate:
    """Mean of the means of several problem sets, each [S, P], with its 95% percentile bootstrap interval.

    A resample draws seeds, then the problems of each set. All of its seeds have the same problems, as they really do:
    drawn for each seed anew, one problem that is easy for every seed would count as several. With one seed the interval
    is over problems alone. Of differences of two arms, it is the paired one. Raises ValueError for an empty set.
    """
    if not sets or any(values.size == 0 for values in sets):
        raise ValueError("nothing was measured")
    mean = float(np.mean([values.mean() for values in sets]))
    rng = np.random.default_rng(seed)
    num_seeds = len(sets[0])
    # How often each seed and each problem is drawn, as a share: a resample's mean is one product. [RESAMPLES, S]
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), RESAMPLES) / num_seeds
    means = np.zeros(RESAMPLES)
    for values in sets:
        size = values.shape[1]
        problems = rng.multinomial(size, np.full(size, 1 / size), RESAMPLES) / size  # [RESAMPLES, P]
        means += np.einsum("rs,sp,rp->r", seeds, values, problems, optimize=True) / len(sets)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(mean, float(low), float(high))
