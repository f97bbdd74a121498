"""The compare task: a second thing the base model can do, so that a policy can be its own oracle.

The prompt shows reference and attempt, one numbered step a line; the reply is the first wrong step, corrected:

    1:47+6=53
    2:53-9=44
    ?
    1:47+6=53
    2:53-9=46              ->  2:53-9=44
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from int_ray.chains.world import MODULUS, SEPARATOR, add, draw_chain, misadd, trace
from int_ray.types import OracleReply, Proposal

NO_ERROR = "none"
_REPLY = re.compile(r"([1-9]\d?):(\d+[+-]\d+=\d+)")


def compare_prompt(solution: str, steps: Sequence[str]) -> str:
    """The user message for a reference solution and the steps of an attempt; boxed answers are left out."""
    return f"{_numbered(solution.split(SEPARATOR))}\n?\n{_numbered(steps)}"


def parse_reply(reply: str) -> OracleReply:
    """A proposal, or the failure `no_error` or `unparsable_reply`."""
    if reply.strip() == NO_ERROR:
        return OracleReply(failure="no_error")
    match = _REPLY.fullmatch(reply.strip())
    if match is None:
        return OracleReply(failure="unparsable_reply")
    return OracleReply((Proposal(int(match[1]), match[2]),))


def draw_item(rng: random.Random) -> tuple[str, str]:
    """A random (prompt, right reply): attempts with flawed facts, with a random slip, with both, or without error."""
    chain = draw_chain(rng, rng.randint(2, 6))
    slip = rng.randrange(len(chain.operands)) if rng.random() < 0.5 else None
    flawed = rng.random() < 0.5
    attempt = iter(range(len(chain.operands)))

    def execute(value: int, operand: int) -> int:
        if next(attempt) == slip:
            return rng.randrange(MODULUS)
        return misadd(value, operand) if flawed else add(value, operand)

    steps, reference = chain.steps(execute), chain.steps()
    wrong = (
        f"{number}:{right}"
        for number, (step, right) in enumerate(zip(steps, reference, strict=True), 1)
        if step != right
    )
    return compare_prompt(trace(reference), steps), next(wrong, NO_ERROR)


def _numbered(steps: Sequence[str]) -> str:
    """One step a line, without its spaces and blank lines: `1:47+6=53`."""
    lines = ["".join(step.split()) for step in steps if "\\boxed" not in step]
    return "\n".join(f"{number}:{line}" for number, line in enumerate(lines, 1))
