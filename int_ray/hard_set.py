"""Hard problems: those that a policy fails in every one of n rollouts (paper, section 6.1). Pure functions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from int_ray.evaluation import Tally
from int_ray.report.page import counted

T = TypeVar("T")


class Verdict(StrEnum):
    """What the rollouts of a problem say."""

    SOLVED = "solved"
    HARD = "hard"
    UNDETERMINED = "undetermined"  # no success, but the grader failed on some


def wave_sizes(n: int) -> list[int]:
    """Rollouts of each wave, `n` in all: 1, 3, then as many again each time, so that solved problems stop early."""
    totals = [0, *(total for total in (1, *(4 * 2**power for power in range(n.bit_length()))) if total < n), n]
    return [after - before for before, after in pairwise(totals)]


def verdict_of(waves: Sequence[Tally]) -> Verdict:
    """Of all rollouts that a problem had."""
    if any(wave.correct for wave in waves):
        return Verdict.SOLVED
    return Verdict.UNDETERMINED if any(wave.ungraded for wave in waves) else Verdict.HARD


def split(items: Sequence[T], test: int, seed: int) -> tuple[list[T], list[T]]:
    """Train and test, each in the given order; `test` drawn by seed, but at most half of the items."""
    drawn = np.random.default_rng(seed).permutation(len(items))[: min(test, len(items) // 2)]
    held_out = set(drawn.tolist())
    train, chosen = ([item for i, item in enumerate(items) if (i in held_out) is want] for want in (False, True))
    return train, chosen


@dataclass(frozen=True)
class HardSet:
    """What came of a selection."""

    problems: int
    verdicts: Mapping[Verdict, int]  # number of problems
    solved_within: dict[int, int]  # rollouts -> problems that had a success by then
    rollouts: int
    rollouts_without_stop: int  # if solved problems had gone on
    mean_tokens: float
    truncated: float  # share of rollouts
    train: int
    test: int
    oracle: Counter[str] | None = field(default=None)  # what came of asking it; None: it was not asked

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dict(vars(self))

    def rows(self) -> list[tuple[str, str]]:
        """For people."""
        share = f"{self.verdicts[Verdict.HARD] / self.problems:.1%}" if self.problems else "0%"
        saved = 1 - self.rollouts / self.rollouts_without_stop if self.rollouts_without_stop else 0.0
        asked = self.oracle or {}
        return [
            ("problems", str(self.problems)),
            ("solved", str(self.verdicts[Verdict.SOLVED])),
            *((f"solved within {counted(n, 'rollout')}", str(count)) for n, count in self.solved_within.items()),
            ("hard (no success)", f"{self.verdicts[Verdict.HARD]} ({share})"),
            ("undetermined (grader failed)", str(self.verdicts[Verdict.UNDETERMINED])),
            *((f"of the hard ones, oracle: {name}", str(count)) for name, count in sorted(asked.items())),
            ("train", str(self.train)),
            ("test", str(self.test)),
            ("rollouts", f"{self.rollouts} ({saved:.0%} saved by stopping early)"),
            ("mean response", f"{self.mean_tokens:.0f} tokens, {self.truncated:.1%} cut off"),
        ]


def describe(sampled: Iterable[Sequence[Tally]], n: int, train: int, test: int, oracle: Counter[str] | None) -> HardSet:
    """The statistics of a selection; `sampled` has the waves of every problem."""
    every = list(sampled)
    verdicts = [verdict_of(waves) for waves in every]
    stops = [sum(wave.n for wave in waves) for waves in every if verdict_of(waves) is Verdict.SOLVED]
    within = np.cumsum(wave_sizes(n)).tolist()
    tokens = [length for waves in every for wave in waves for length in wave.tokens]
    return HardSet(
        problems=len(every),
        verdicts={verdict: verdicts.count(verdict) for verdict in Verdict},
        solved_within={total: sum(stop <= total for stop in stops) for total in within},
        rollouts=len(tokens),
        rollouts_without_stop=n * len(every),
        mean_tokens=sum(tokens) / len(tokens) if tokens else 0.0,
        truncated=sum(wave.truncated for waves in every for wave in waves) / len(tokens) if tokens else 0.0,
        train=train,
        test=test,
        oracle=oracle,
    )


def rows_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as JSON lines; what JSON has no form for, such as dates, as text."""
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
