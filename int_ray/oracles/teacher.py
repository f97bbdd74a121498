"""Whole solutions in the oracle's own words: what distillation clones (section 5, patch.clone: solutions)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from int_ray.background import BACKGROUND
from int_ray.oracle_config import OracleConfig
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
        """A whole solution with its final answer in a box; None if it knows none. Called in several threads at once."""
        ...


class CheckerTeacher:
    """A rule-based checker, or a user's own oracle, as teacher: no cost that is counted."""

    def __init__(self, kind: str, checker: SolvingChecker, config: OracleConfig) -> None:
        self.source = Source(kind)
        self.checker = checker
        self.deadline_s = config.deadline_s
        self.gate = asyncio.Semaphore(config.concurrency)

    async def solve(self, problem: Problem) -> Written:
        """What the checker writes; failures: timeout, no_solution, or the name of what it raised."""
        async with self.gate:
            written = asyncio.get_running_loop().run_in_executor(BACKGROUND, self._ask, problem)
            try:
                return await asyncio.wait_for(written, self.deadline_s)
            except TimeoutError:
                return Written(failure="timeout", source=self.source)

    def _ask(self, problem: Problem) -> Written:
        try:
            text = self.checker.solve(problem)
        except Exception as error:  # whatever a user's own code may raise: the other problems are asked about anyhow
            return Written(failure=f"error: {type(error).__name__}", source=self.source)
        if text is None:
            return Written(failure="no_solution", source=self.source)
        if not isinstance(text, str):  # as the user's code says
            return Written(failure="error: no text", source=self.source)
        return Written(text, source=self.source)


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
