"""The outcome reward: pull out the final answer, compare it with the reference (paper, section 3). Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable

from int_ray.types import Completion, Outcome

# A box, an escaped character (an escaped brace is text), or a brace. At most two backslashes: some models double them.
BOXES_AND_BRACES = re.compile(r"\\{1,2}boxed\s*\{|\\.|[{}]", re.DOTALL)


def final_answer(text: str) -> str | None:
    r"""What the last closed `\boxed{...}` holds, None if there is none or it is empty. One pass over the text."""
    open_braces: list[tuple[bool, int]] = []  # is it a box, where its content starts
    answer, answer_start = "", -1
    for match in BOXES_AND_BRACES.finditer(text):
        token = match.group()
        if token.endswith("{") and token != r"\{":
            open_braces.append((token != "{", match.end()))
        elif token == "}" and open_braces:
            is_box, start = open_braces.pop()
            if is_box and start > answer_start:
                answer, answer_start = text[start : match.start()], start
    return answer.strip() or None


def exact_match(reference: str, answer: str) -> bool:
    """Whether two answers are the same text up to white space."""
    return reference.split() == answer.split()


def math_match(reference: str, answer: str) -> bool:
    """Whether two answers are mathematically equal, by math-verify.

    May run for ever or eat all memory (`9^{9^{9}}`): call it in a process that can be killed. math-verify's own
    time limits are off, because they need the main thread and turn a slow answer into a wrong one.
    """
    from math_verify import parse, verify

    expected, found = (
        parse(f"\\boxed{{{text}}}", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        for text in (reference, answer)
    )
    return verify(expected, found, timeout_seconds=None, raise_on_error=True)


def is_readable(reference: str) -> bool:
    """Whether math-verify finds mathematics in a reference answer; if not, only the same text would match it.

    May run for ever, as `math_match` may.
    """
    from math_verify import parse

    found = parse(f"\\boxed{{{reference}}}", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    return any(not isinstance(item, str) for item in found)


def outcome_of(reference: str, completion: Completion, verify: Callable[[str, str], bool]) -> Outcome:
    """The verdict on a response, given how to compare the reference with an answer.

    Example: `outcome_of("14", completion, exact_match)`. A response that was cut off has no final answer.
    """
    if not completion.finished:
        return Outcome.TRUNCATED
    answer = final_answer(completion.text)
    if answer is None:
        return Outcome.UNPARSABLE
    return Outcome.CORRECT if verify(reference, answer) else Outcome.WRONG
