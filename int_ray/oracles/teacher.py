"""Whole solutions in the oracle's own words: what distillation clones (section 5, patch.clone: solutions)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from int_ray.oracles.chat import Fault
from int_ray.oracles.prompts import prompt_hash
from int_ray.oracles.solver import Solver, solve_prompt
from int_ray.types import Problem, Source


@dataclass(frozen=True, slots=True)
class Written:
    """One solution, not yet graded, or the named reason why there is none."""

    text: str = ""
    failure: str | None = None
    source: Source | None = None


class Teacher(Protocol):
    """Solves problems without their reference answers."""

    async def solve(self, problem: Problem) -> Written:
        """One solution. An oracle that cannot be reached is a `failure`, not an exception."""
        ...


@runtime_checkable
class SolvingChecker(Protocol):
    """A checker (oracle.kind: exact) that can also write solutions."""

    def solve(self, problem: Problem) -> str | None:
        """A whole solution with its final answer in a box; None if it knows none."""
        ...


class CheckerTeacher:
    """A rule-based checker as teacher: no model, no cost."""

    def __init__(self, kind: str, checker: SolvingChecker) -> None:
        self.kind = kind
        self.checker = checker

    async def solve(self, problem: Problem) -> Written:
        """What the checker writes."""
        text = self.checker.solve(problem)
        source = Source(self.kind)
        return Written(failure="no_solution", source=source) if text is None else Written(text, source=source)


class ModelTeacher:
    """A language model as teacher; it is never paid twice for the same question."""

    def __init__(self, kind: str, solver: Solver) -> None:
        self.kind = kind
        self.solver = solver

    async def solve(self, problem: Problem) -> Written:
        """What the model writes, and the bill."""
        prompt, heard = solve_prompt(problem), await self.solver.hear(problem)
        source = Source(
            oracle=self.kind,
            model=self.solver.chat.model.name,
            prompt=prompt.name,
            prompt_hash=prompt_hash(prompt),
            input_tokens=heard.result.input_tokens,
            output_tokens=heard.result.output_tokens,
            cost=heard.cost,
            cached=heard.cached,
        )
        if isinstance(heard.result, Fault):
            return Written(failure=heard.result.name, source=source)
        return Written(heard.result.text, source=source)
