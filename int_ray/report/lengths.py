"""How long interventions are beside full solutions, in tokens (paper, Figure 3)."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean

from int_ray.report.arms import Arm
from int_ray.report.lines import Line
from int_ray.resampling import BySeed


def intervention_tokens(arm: Arm) -> BySeed:
    """Seed -> problem -> mean length of what the oracle wrote about its attempts; refused proposals are left out."""
    return {seed: _by_problem(member.lines) for seed, member in arm.runs.items()}


def _by_problem(lines: Iterable[Line]) -> dict[str, float]:
    lengths: dict[str, list[int]] = {}
    for line in lines:
        if line.status != "refused" and line.intervention_tokens:
            lengths.setdefault(line.problem, []).append(line.intervention_tokens)
    return {problem: mean(found) for problem, found in lengths.items()}


def solution_tokens(distillation: Arm | None, interventions: Arm) -> tuple[BySeed, str]:
    """Seed -> problem -> length of a full solution, and whose they are.

    Those that the oracle wrote for the distillation arm, or else the problems' reference solutions, whose tokens are
    estimated by the characters per token of the attempts.
    """
    if distillation is not None:
        written = {seed: member.solution_tokens for seed, member in distillation.runs.items()}
        if any(written.values()):
            return written, "the oracle's full solutions"
    estimated = {seed: _estimated(member.lines) for seed, member in interventions.runs.items()}
    return estimated, "the reference solutions (estimated)"


def _estimated(lines: Iterable[Line]) -> dict[str, float]:
    lines = list(lines)
    known = [line for line in lines if line.attempt_tokens]
    tokens = sum(line.attempt_tokens or 0 for line in known)
    if not tokens:
        return {}
    characters = sum(len(step) for line in known for step in line.steps)
    return {line.problem: len(line.solution) * tokens / characters for line in lines if line.solution and characters}
