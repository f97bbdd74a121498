"""Short calculations modulo 100, and the facts about them that the base model gets wrong.

A chain such as `47+6-9=?` is worked out in steps, `47+6=53`, `53-9=44`, each followed by a blank line, and ends with
`\\boxed{44}`. A flawed fact is off by +1 to +3: offsets of one sign never cancel, so no wrong path ends right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from int_ray.types import Problem

MODULUS = 100
OPERANDS = (*range(-9, -1), *range(2, 10))
SEPARATOR = "\n\n"

Fact = tuple[int, int]  # (units digit of the value, operand), such as (7, -9) for 47-9 and for 87-9
Execute = Callable[[int, int], int]  # (value, operand) -> the result that a step states


def draw_flaws(seed: int, count: int) -> dict[Fact, int]:
    """Flawed facts, each with its offset of 1 to 3."""
    rng = random.Random(seed)
    facts = [(digit, operand) for digit in range(10) for operand in OPERANDS]
    return {fact: rng.randint(1, 3) for fact in rng.sample(facts, count)}


FLAWS: Mapping[Fact, int] = draw_flaws(seed=0, count=30)


def add(value: int, operand: int) -> int:
    """The right result of one step."""
    return (value + operand) % MODULUS


def misadd(value: int, operand: int) -> int:
    """The result as the flawed facts have it."""
    return add(value, operand + FLAWS.get((value % 10, operand), 0))


@dataclass(frozen=True, slots=True)
class Chain:
    """A calculation from left to right, such as `Chain(47, (6, -9))` for 47+6-9."""

    start: int
    operands: tuple[int, ...]

    @property
    def question(self) -> str:
        """The problem's text, such as `47+6-9=?`."""
        return str(self.start) + "".join(f"{operand:+d}" for operand in self.operands) + "=?"

    @property
    def num_flawed(self) -> int:
        """How many steps of the right solution use a flawed fact."""
        return sum((value % 10, operand) in FLAWS for value, operand, _ in self.walk(add))

    def walk(self, execute: Execute) -> Iterator[tuple[int, int, int]]:
        """(value, operand, stated result) of every step, each from the result before it."""
        value = self.start
        for operand in self.operands:
            result = execute(value, operand)
            yield value, operand, result
            value = result

    @property
    def result(self) -> int:
        """The right answer."""
        return [result for _, _, result in self.walk(add)][-1]

    def steps(self, execute: Execute = add) -> list[str]:
        """The steps of one solution, such as `["47+6=53", "53-9=44"]`."""
        return [f"{value}{operand:+d}={result}" for value, operand, result in self.walk(execute)]

    def problem(self, id_: str) -> Problem:
        """The chain as a problem with its right answer and solution."""
        steps = self.steps()
        return Problem(id_, self.question, stated_answer(steps), trace(steps))


def stated_answer(steps: Sequence[str]) -> str:
    """The result of the last step."""
    return steps[-1].partition("=")[2]


def trace(steps: Sequence[str]) -> str:
    """A whole response: steps, then the boxed answer."""
    return SEPARATOR.join([*steps, f"\\boxed{{{stated_answer(steps)}}}"])


def draw_chain(rng: random.Random, length: int) -> Chain:
    """A chain of `length` steps, flawed facts or not."""
    return Chain(rng.randrange(MODULUS), tuple(rng.choices(OPERANDS, k=length)))


def draw_problem_chain(rng: random.Random, num_flawed: range) -> Chain:
    """A chain of mostly five steps whose right solution uses as many flawed facts as `num_flawed` allows."""
    while (chain := draw_chain(rng, rng.choice((4, 5, 5, 5, 5, 6)))).num_flawed not in num_flawed:
        pass
    return chain
