"""Group-relative advantages (paper, section 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-6  # added to the standard deviation, as in verl


def group_advantages(rewards: NDArray[np.floating], *, std: bool) -> NDArray[np.float64]:
    """A_i = r_i - mean(r) over one group's rewards [n]; with `std` also divided by their sample deviation.

    A group of one is its own mean: its advantage is 0.
    """
    centered = rewards.astype(np.float64) - rewards.mean()
    if not std or len(rewards) < 2:
        return centered
    return centered / (centered.std(ddof=1) + EPSILON)


def overlong_penalties(
    lengths: NDArray[np.integer], max_tokens: int, buffer: int, factor: float
) -> NDArray[np.float64]:
    """What to add to the rewards of responses of these lengths in tokens [n] (DAPO's soft punishment).

    0 up to `max_tokens - buffer`, then linear down to `-factor` at `max_tokens`; a buffer of 0 turns it off.
    """
    if buffer == 0:
        return np.zeros(len(lengths))
    excess = np.clip(lengths - (max_tokens - buffer), 0, buffer)
    return -factor * excess / buffer
