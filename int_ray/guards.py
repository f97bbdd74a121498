"""What a proposed step must not be, as far as its text tells. Each refusal has a name, which is counted.

Duplicates and lengths are judged in `interventions`, leaks of the answer in `leaks`.
"""

from __future__ import annotations

import re
from typing import Literal

from int_ray.language import is_other_language
from int_ray.segmentation import BLANK_LINES
from int_ray.types import Attempt, Proposal

GuardName = Literal[
    "location_out_of_range",  # the attempt has no step there
    "after_thinking",  # what follows the thinking part is no reasoning
    "empty",
    "unchanged",  # the replaced step itself, up to white space
    "several_steps",  # a blank line inside; an intervention is a single step (paper, section 4.1)
    "boxed",  # a box ends the solution: it is for the policy to write
    "other_language",  # than problem and attempt
    "too_long",  # oracle.max_step_tokens
    "no_room",  # rollout.max_tokens leaves no token for a continuation
    "duplicate",  # of an earlier proposal about the problem, up to white space
    "leak",  # of the final answer
]

# What a step may begin with before it says anything: blanks, and the tag that opens the thinking part.
OPENING = re.compile(r"\s*(?:<\w+>\s*)?")


def objection(attempt: Attempt, proposal: Proposal) -> GuardName | None:
    """The first guard that says no, as far as proposal and attempt alone can tell."""
    if not 1 <= proposal.location <= len(attempt.steps):
        return "location_out_of_range"
    replaced = attempt.steps[proposal.location - 1]
    if not replaced.replaceable:
        return "after_thinking"
    return _objection_to_content(attempt, frame(replaced.text)[1], proposal.content.strip())


def _objection_to_content(attempt: Attempt, replaced: str, content: str) -> GuardName | None:
    if not content:
        return "empty"
    if "".join(content.split()) == "".join(replaced.split()):
        return "unchanged"
    if BLANK_LINES.search(content):
        return "several_steps"
    if "\\boxed" in content:
        return "boxed"
    if is_other_language(attempt.problem.question, attempt.rollout.completion.text, content):
        return "other_language"
    return None


def frame(text: str) -> tuple[str, str, str]:
    """A step's text as opening, what it says, and trailing white space."""
    written = text.rstrip()
    said = OPENING.sub("", written, count=1)
    return written[: len(written) - len(said)], said, text[len(written) :]
