"""The compare task: a second thing the base model can do, so that a policy can be its own oracle.

The prompt shows reference and attempt side by side, one numbered step a line. The reply goes through the steps, `=` for
a right one, and ends with the first wrong one, corrected; or without one, if all are right:

    1:47+6=53|47+6=53
    2:53-9=44|53-9=46
    3:44+2=46|46+2=48      ->  1=2:53-9=44
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import zip_longest

from int_ray.chains.world import MODULUS, SEPARATOR, add, draw_chain, misadd, trace
from int_ray.types import OracleReply, Proposal

_REPLY = re.compile(r"(?:\d+=)*?(?:(\d{1,4}):(\d+[+-]\d+=\d+))?", re.ASCII)


def compare_prompt(solution: str, steps: Sequence[str]) -> str:
    """The user message for a reference solution and the steps of an attempt; boxed answers are left out."""
    pairs = zip_longest(_calculations(solution.split(SEPARATOR)), _calculations(steps), fillvalue="")
    return "\n".join(f"{number}:{right}|{step}" for number, (right, step) in enumerate(pairs, start=1))


def compare_reply(reference: Sequence[str], steps: Sequence[str]) -> str:
    """The right reply for the calculation steps of a reference and of an attempt."""
    reply = ""
    for number, (right, step) in enumerate(zip(reference, steps, strict=True), start=1):
        if step != right:
            return f"{reply}{number}:{right}"
        reply += f"{number}="
    return reply


def parse_reply(reply: str) -> OracleReply:
    """A proposal, or the failure `no_error` or `unparsable_reply`."""
    match = _REPLY.fullmatch(reply.strip())
    if not reply.strip() or match is None:
        return OracleReply(failure="unparsable_reply")
    if match[1] is None:
        return OracleReply(failure="no_error")
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
    return compare_prompt(trace(reference), steps), compare_reply(reference, steps)


def _calculations(steps: Sequence[str]) -> list[str]:
    """The steps before the boxed answer, without spaces and blank lines."""
    return ["".join(step.split()) for step in steps if "\\boxed" not in step]
