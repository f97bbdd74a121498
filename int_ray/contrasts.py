"""What the paper's claims are about, measured: differences of arms and iterations, per problem set, seed and problem.

Two problem sets are known by their names, `hard_train` and `hard_test`; all others together are the held-out
benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from int_ray.arms import Method
from int_ray.report.arms import TITLES, Arm
from int_ray.report.lengths import intervention_tokens, solution_tokens
from int_ray.resampling import BySeed, Values, aligned

HARD_TRAIN, HARD_TEST = "hard_train", "hard_test"
SCORES = {"unsolved": "unsolved share"}  # for people
Arms = Mapping[Method, Arm]


class NotTestableError(Exception):
    """Something that a claim is about was not measured: the message says what."""


@dataclass(frozen=True)
class Measured:
    """A difference per problem set, seed and problem."""

    what: str
    sets: Sequence[Values]  # [S, P] each


def _arm(arms: Arms, method: Method) -> Arm:
    if method not in arms:
        raise NotTestableError(f"There is no run of {TITLES[method]}")
    return arms[method]


def _iterations(arms: Sequence[Arm], set_: str) -> list[int]:
    """After which all of them were evaluated on a set, 0 and at least one more."""
    common = sorted(set.intersection(*(set(arm.evaluated(set_)) for arm in arms)))
    if len(common) < 2 or common[0] != 0:
        names = " and ".join(arm.title for arm in arms)
        raise NotTestableError(f"{names}: {set_} was not evaluated before training and after")
    return common


def _scores(score: str, arm: Arm, set_: str, iteration: int) -> BySeed:
    if score == "unsolved":
        return arm.unsolved(set_, iteration)
    k, n = int(score.removeprefix("pass@")), arm.most_rollouts(set_, iteration)
    if 0 < n < k:
        raise NotTestableError(f"{set_} was evaluated with {n} rollouts per problem, and {score} needs {k}")
    return arm.pass_at(k, set_, iteration)


def _difference(left: BySeed, right: BySeed, missing: str) -> Values:
    ours, theirs = aligned(left, right)
    if not ours.size:
        raise NotTestableError(missing)
    return ours - theirs


def benchmarks(arms: Sequence[Arm]) -> list[str]:
    """Sets beside the hard problems that every arm was evaluated on."""
    return [name for name in arms[0].sets if name not in (HARD_TRAIN, HARD_TEST) and all(name in a.sets for a in arms)]


def _sets(arms: Sequence[Arm], set_: str | None, least: int) -> list[str]:
    """One set, or all benchmarks."""
    if set_ is not None:
        return [set_]
    names = benchmarks(arms)
    if len(names) < least:
        raise NotTestableError(
            f"It needs at least {least} sets beside the hard problems; there is {len(names) or 'none'}"
        )
    return names


def gain(method: Method, score: str, set_: str | None, arms: Arms) -> Measured:
    """After training minus before, of one arm; `set_` None: of all benchmarks."""
    arm = _arm(arms, method)
    sets = _sets([arm], set_, 1)
    last = [_iterations([arm], name)[-1] for name in sets]
    found = [
        _difference(
            _scores(score, arm, name, end), _scores(score, arm, name, 0), f"The rollouts of {name} are not there"
        )
        for name, end in zip(sets, last, strict=True)
    ]
    return Measured(
        f"{SCORES.get(score, score)} on {', '.join(sets)}: {arm.title}, iteration {max(last)} minus 0", found
    )


def lead(method: Method, over: Method, score: str, set_: str | None, arms: Arms, least: int = 2) -> Measured:
    """One arm minus another after the last iteration that both were evaluated at; `set_` None: of all benchmarks."""
    both = (_arm(arms, method), _arm(arms, over))
    sets = _sets(both, set_, least)
    last = [_iterations(both, name)[-1] for name in sets]
    found = []
    for name, iteration in zip(sets, last, strict=True):
        ours, theirs = (_scores(score, arm, name, iteration) for arm in both)
        found.append(_difference(ours, theirs, f"No rollouts of {name} are of a seed that both arms have"))
    names = " minus ".join(arm.title for arm in both)
    return Measured(f"{SCORES.get(score, score)} on {', '.join(sets)} after iteration {max(last)}: {names}", found)


def drift_lead(arms: Arms) -> Measured:
    """Distance from the base right after distilling minus that right after patching, in nats per token."""
    both = [_arm(arms, method) for method in ("distillation", "int")]
    for arm in both:
        if not arm.drift_after_patch:
            raise NotTestableError(
                f"{arm.title}: its distance from the base right after the patch was not measured "
                "(schedule: paper with evaluate.drift and evaluate.after_patch)"
            )
    distilled, patched = (arm.drift_after_patch for arm in both)
    sets = [name for name in distilled if name in patched]
    if not sets:
        raise NotTestableError("Their distances from the base were measured on different sets")
    found = [
        _difference(distilled[name], patched[name], f"No problem of {name} has a distance in both arms")
        for name in sets
    ]
    return Measured(f"KL from the base right after the patch, on {', '.join(sets)}: distillation minus InT", found)


def length_lead(arms: Arms) -> Measured:
    """Tokens of a full solution minus those of an intervention, per problem."""
    arm = _arm(arms, "int")
    solutions, source = solution_tokens(arms.get("distillation"), arm)
    missing = "No problem has both an intervention and a full solution of known length"
    found = _difference(solutions, intervention_tokens(arm), missing)
    return Measured(f"tokens of {source} minus tokens of the interventions", [found])
