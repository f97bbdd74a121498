"""Seeded batches that a resumed run finds again by the iteration's number alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from int_ray.data.stored import Part, StoredProblems
from int_ray.types import Problem

Order = NDArray[np.int64]


class ProblemBatches:
    """Endless seeded epochs over the problems, cut into batches.

    Without weights an epoch has every problem once. With weights it has as many draws as there are problems, shared
    out between the parts by their weights and spread evenly, so that every batch has about the same shares; within a
    part the problems come in endless seeded passes, each problem once per pass. A batch that reaches beyond the end of
    an epoch goes on with the next one, so that nothing is left out.
    """

    def __init__(self, problems: Sequence[Problem], batch_size: int, seed: int) -> None:
        if batch_size and not problems:
            raise ValueError(f"batches of {batch_size} problems need problems, and there are none")
        self.problems = problems
        self.batch_size = batch_size
        self.seed = seed
        parts = problems.parts if isinstance(problems, StoredProblems) else ()
        self.mixture = Mixture(parts, seed) if any(part.weight for part in parts) else None
        self.epoch_length = self.mixture.epoch_length if self.mixture else len(problems)
        self._orders: dict[int, Order] = {}  # of the last batch's epochs

    def batch(self, iteration: int) -> tuple[Problem, ...]:
        """The problems of one iteration, counted from 0."""
        positions = range(iteration * self.batch_size, (iteration + 1) * self.batch_size)
        places = [divmod(position, self.epoch_length) for position in positions]
        self._orders = {epoch: self._order(epoch) for epoch in {epoch for epoch, _ in places}}
        return tuple(self.problems[int(self._orders[epoch][place])] for epoch, place in places)

    def _order(self, epoch: int) -> Order:
        if epoch in self._orders:
            return self._orders[epoch]
        if self.mixture:
            return self.mixture.order(epoch)
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.problems))


class Mixture:
    """Draws from several parts in the shares of their weights.

    With sizes n_s and weights w_s, an epoch has k_s = max(1, round(sum(n) w_s / sum(w))) draws from part s: numbers
    e k_s to (e + 1) k_s - 1 of its endless passes, in epoch e. The j-th of them stands at (j + u) / k_s of the epoch, u
    uniform in [0, 1).
    """

    def __init__(self, parts: Sequence[Part], seed: int) -> None:
        self.seed = seed
        self.sizes = [part.size for part in parts]
        weights = [part.weight or 0.0 for part in parts]
        self.draws = [max(1, round(sum(self.sizes) * weight / sum(weights))) for weight in weights]
        self.epoch_length = sum(self.draws)

    def order(self, epoch: int) -> Order:
        """Which problem stands at which place of an epoch. [epoch_length]"""
        spread = np.random.default_rng([self.seed, epoch])
        places = [(np.arange(draws) + spread.random(draws)) / draws for draws in self.draws]
        starts = np.cumsum([0, *self.sizes])
        drawn = [starts[part] + self._drawn(part, epoch) for part in range(len(self.sizes))]
        return np.concatenate(drawn)[np.argsort(np.concatenate(places), kind="stable")]

    def _drawn(self, part: int, epoch: int) -> Order:
        """Problems of one part, numbered from 0 within it, that it contributes to an epoch. [draws]"""
        size, draws = self.sizes[part], self.draws[part]
        first_pass, skipped = divmod(epoch * draws, size)
        passes = range(first_pass, first_pass + (skipped + draws - 1) // size + 1)
        orders = [np.random.default_rng([self.seed, number, part + 1]).permutation(size) for number in passes]
        return np.concatenate(orders)[skipped : skipped + draws]
