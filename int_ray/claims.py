"""The paper's claims, judged from runs of its three arms: standard RL, distillation + RL, InT + RL.

Every verdict is computed: a difference, its 95% interval by a paired bootstrap over seeds and problems
(int_ray/resampling.py), and a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from int_ray.arms import Method
from int_ray.contrasts import (
    HARD_TEST,
    HARD_TRAIN,
    Arms,
    Measured,
    NotTestableError,
    drift_lead,
    gain,
    lead,
    length_lead,
)
from int_ray.metrics import Estimate
from int_ray.report.arms import Arm
from int_ray.report.page import counted
from int_ray.resampling import estimate

K = 8  # Figure 7, Table 2
MARGIN = 0.05  # a change of pass@1 that is too small to matter
Verdict = Literal["reproduced", "not reproduced", "not testable"]


@dataclass(frozen=True)
class Rule:
    """What the interval of a difference has to be for the claim to hold."""

    words: str
    holds: Callable[[Estimate], bool]


ABOVE_0 = Rule("above 0", lambda found: found.low > 0)
BELOW_0 = Rule("below 0", lambda found: found.high < 0)
NO_GAIN = Rule(f"below {MARGIN}", lambda found: found.high < MARGIN)
NO_LOSS = Rule(f"above -{MARGIN}", lambda found: found.low > -MARGIN)


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper, how it is measured, and when it holds."""

    says: str
    source: str
    measure: Callable[[Arms], Measured]
    rule: Rule


@dataclass(frozen=True)
class Judgement:
    """A claim and what the runs say to it."""

    says: str
    source: str
    verdict: Verdict
    why: str
    what: str = ""  # the difference
    difference: Estimate | None = None
    seeds: int = 0
    problems: int = 0

    @property
    def extent(self) -> str:
        """What the difference is over, such as `3 seeds, 64 problems`."""
        return f"{counted(self.seeds, 'seed')}, {counted(self.problems, 'problem')}"


def judge_claims(arms: Sequence[Arm]) -> list[Judgement]:
    """Every claim, in the paper's order. Arms of one method beside the one that has its name are left aside."""
    chosen: dict[Method, Arm] = {}
    for arm in arms:  # those with the method's name come first
        chosen.setdefault(arm.method, arm)
    return [_judge(claim, chosen) for claim in CLAIMS]


def _judge(claim: Claim, arms: Arms) -> Judgement:
    try:
        measured = claim.measure(arms)
    except NotTestableError as reason:
        return Judgement(claim.says, claim.source, "not testable", f"{reason}.")
    found = estimate(measured.sets)
    seeds, problems = len(measured.sets[0]), sum(values.shape[1] for values in measured.sets)
    holds = claim.rule.holds(found)
    why = f"It holds: the interval lies {claim.rule.words}."
    if not holds:
        why = f"It would hold if the interval lay {claim.rule.words}."
    if seeds == problems == 1:
        why = "One seed and one problem have no interval."
        return Judgement(claim.says, claim.source, "not testable", why, measured.what, found, seeds, problems)
    if seeds == 1:
        why += " One seed: the interval is over problems alone."
    verdict = "reproduced" if holds else "not reproduced"
    return Judgement(claim.says, claim.source, verdict, why, measured.what, found, seeds, problems)


CLAIMS = (
    Claim(
        "RL on the base model stays stuck on the hard training problems.",
        "Fig. 8a",
        partial(gain, "standard_rl", "pass@1", HARD_TRAIN),
        NO_GAIN,
    ),
    Claim(
        "InT + RL solves more hard test problems than standard RL.",
        "Fig. 7, Table 2",
        partial(lead, "int", "standard_rl", f"pass@{K}", HARD_TEST),
        ABOVE_0,
    ),
    Claim(
        "InT + RL solves more hard test problems than distillation + RL.",
        "Fig. 7, Table 2",
        partial(lead, "int", "distillation", f"pass@{K}", HARD_TEST),
        ABOVE_0,
    ),
    Claim(
        "InT + RL leaves fewer training problems unsolved (zero-advantage ratio) than standard RL.",
        "Fig. 8c",
        partial(lead, "int", "standard_rl", "unsolved", HARD_TRAIN),
        BELOW_0,
    ),
    Claim(
        "Distillation + RL loses held-out pass@1.",
        "Fig. 8b",
        partial(gain, "distillation", "pass@1", None),
        BELOW_0,
    ),
    Claim("InT + RL keeps held-out pass@1.", "Fig. 8b", partial(gain, "int", "pass@1", None), NO_LOSS),
    Claim(
        "InT + RL ends with a higher held-out pass@1 than distillation + RL.",
        "Fig. 8b",
        partial(lead, "int", "distillation", "pass@1", None, least=1),
        ABOVE_0,
    ),
    Claim("Cloning interventions moves the model less than cloning solutions.", "Fig. 5", drift_lead, ABOVE_0),
    Claim("Interventions are shorter than full solutions.", "Fig. 3", length_lead, ABOVE_0),
    Claim(
        "InT + RL is better than standard RL on average over the benchmarks.",
        "Table 2",
        partial(lead, "int", "standard_rl", "pass@1", None),
        ABOVE_0,
    ),
    Claim(
        "InT + RL is better than distillation + RL on average over the benchmarks.",
        "Table 2",
        partial(lead, "int", "distillation", "pass@1", None),
        ABOVE_0,
    ),
)
