"""How the laptop world's oracle writes whole solutions: line by line, tens and units apart, unlike any policy there.

It stands for the style of a larger model: the same answers, worked out in a way that the base model never samples. Its
alphabet is the policy's: a model this small does not learn to write words from a few solutions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from int_ray.chains.world import MODULUS, Chain, add

_QUESTION = re.compile(r"(\d+)((?:[+-]\d+)+)=\?")


def worked_out(question: str) -> str | None:
    r"""The right solution of a chain such as `47+6-9=?`; None if it is no chain.

    Example: `40+7+6=40+13=53\n50+3-9=50-6=44\n\boxed{44}`
    """
    found = _QUESTION.fullmatch(question)
    if found is None:
        return None
    chain = Chain(int(found[1]), tuple(map(int, re.findall(r"[+-]\d+", found[2]))))
    return "\n".join([*_lines(chain), f"\\boxed{{{chain.result}}}"])


def _lines(chain: Chain) -> Iterator[str]:
    """One line per operand; a sum outside of 0 to 99 is followed by what it is in this world."""
    for value, operand, result in chain.walk(add):
        tens, units = value // 10 * 10, value % 10
        total = tens + units + operand
        line = f"{tens}+{units}{operand:+d}={tens}{units + operand:+d}={total}"
        yield line if 0 <= total < MODULUS else f"{line}={result}"
