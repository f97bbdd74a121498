"""Who corrects failed attempts. `exact` runs a registered checker: rules of one kind of problem, no model, no cost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from int_ray.oracles.exact import ExactOracle
from int_ray.types import Attempt, OracleReply


class StepOracle(Protocol):
    """What a user writes to bring an own oracle: one attempt in, one reply out; `propose` may be `async def`."""

    def propose(self, attempt: Attempt) -> OracleReply | Awaitable[OracleReply]:
        """Find the first wrong step that is not recovered from; propose replacements or name why there are none."""
        ...


CHECKERS: dict[str, Callable[[], StepOracle]] = {"chains": ExactOracle}


def register_checker(name: str, checker: Callable[[], StepOracle]) -> None:
    """Make a rule-based checker known to `oracle.checker`; `int-ray train --plugin MODULE` imports who calls this."""
    if name in CHECKERS:
        raise ValueError(f"a checker named {name!r} is already registered")
    CHECKERS[name] = checker
