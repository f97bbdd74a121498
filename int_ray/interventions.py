"""From what an oracle proposes to what may be trained on: splice on token ids, guards, filter (paper, section 4.1).

A guard that says no gives a `Rejection` with a name, which is counted, never an exception.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from int_ray.types import Attempt, Intervention, OracleReply, Problem, Proposal, TestedIntervention

Encode = Callable[[str], Sequence[int]]  # text -> ids, no special tokens added
Reason = Literal["location_out_of_range", "after_thinking", "empty", "unchanged", "leak", "too_long", "duplicate"]

# What a step may begin with before it says anything: blanks, and the tag that opens the thinking part.
OPENING = re.compile(r"\s*(?:<\w+>\s*)?")
DISTINCTIVE_LENGTH = 4  # characters from which an answer is not met by chance


@dataclass(frozen=True, slots=True)
class Rejection:
    """A proposal that a guard refused, and why."""

    problem_id: str
    proposal: Proposal
    reason: Reason


def splice(
    attempt: Attempt, proposal: Proposal, encode: Encode, default_separator: str, max_tokens: int
) -> Intervention | Rejection:
    """Put the proposed step in the place of the one at its location; everything after that is dropped.

    The new step takes over the replaced one's white space, so that it ends in the same separator. `max_tokens` is the
    longest response, prefix included.
    """
    reason = _objection(attempt, proposal)
    if reason is not None:
        return Rejection(attempt.problem.id, proposal, reason)
    replaced = attempt.steps[proposal.location - 1]
    opening, _, separator = _frame(replaced.text)
    intervention_ids = np.array(encode(opening + proposal.content.strip() + (separator or default_separator)), np.int32)
    prefix_ids = attempt.rollout.completion.token_ids[: replaced.start]
    if len(prefix_ids) + len(intervention_ids) >= max_tokens:
        return Rejection(attempt.problem.id, proposal, "too_long")
    return Intervention(attempt, proposal, prefix_ids, intervention_ids)


def splice_all(
    attempts: Sequence[Attempt],
    replies: Sequence[OracleReply],
    encode: Encode,
    default_separator: str,
    max_tokens: int,
) -> tuple[list[Intervention], list[Rejection]]:
    """`splice` every proposal about every attempt; the same ids for the same problem a second time are a duplicate."""
    interventions: dict[tuple[str, bytes], Intervention] = {}
    rejections: list[Rejection] = []
    for attempt, reply in zip(attempts, replies, strict=True):
        for proposal in reply.proposals:
            spliced = splice(attempt, proposal, encode, default_separator, max_tokens)
            if isinstance(spliced, Rejection):
                rejections.append(spliced)
                continue
            key = (attempt.problem.id, spliced.resume_ids.tobytes())
            if key in interventions:
                rejections.append(Rejection(attempt.problem.id, proposal, "duplicate"))
            else:
                interventions[key] = spliced
    return list(interventions.values()), rejections


def keep_helpful(tested: Sequence[TestedIntervention], *, filter: bool) -> list[TestedIntervention]:
    """Those from which the policy reached a right answer; all of them without `filter` (Table 1)."""
    return [item for item in tested if item.helps or not filter]


def leaks_answer(problem: Problem, prefix_text: str, content: str) -> bool:
    r"""Whether a step gives the final answer away instead of leading towards it.

    It does if it boxes anything, says in words what the answer is, consists of nothing else, or holds an answer of 4 or
    more characters that neither the question nor the prefix has. A short answer such as 2 may well occur in a step,
    and a calculation may end in it.
    """
    answer, step = _normalized(problem.answer), _normalized(content)
    as_token = _whole(answer)
    in_words = rf"\banswer\s*(?:[:=]|\bis\b|\bequals\b|\b\w+ be\b)[\W_]*{as_token}"
    if "\\boxed" in content or step.strip(" .:=!") == answer or re.search(in_words, step):
        return True
    known = f"{_normalized(problem.question)}\n{_normalized(prefix_text)}"
    return len(answer) >= DISTINCTIVE_LENGTH and bool(re.search(as_token, step)) and not re.search(as_token, known)


def _objection(attempt: Attempt, proposal: Proposal) -> Reason | None:
    """The first guard that says no, as far as the text alone can tell."""
    if not 1 <= proposal.location <= len(attempt.steps):
        return "location_out_of_range"
    replaced = attempt.steps[proposal.location - 1]
    if not replaced.replaceable:
        return "after_thinking"
    if not proposal.content.strip():
        return "empty"
    if proposal.content.split() == _frame(replaced.text)[1].split():
        return "unchanged"
    prefix_text = "".join(step.text for step in attempt.steps[: proposal.location - 1])
    return "leak" if leaks_answer(attempt.problem, prefix_text, proposal.content) else None


def _frame(text: str) -> tuple[str, str, str]:
    """A step's text as opening, what it says, and trailing white space."""
    written = text.rstrip()
    said = OPENING.sub("", written, count=1)
    return written[: len(written) - len(said)], said, text[len(written) :]


def _whole(answer: str) -> str:
    """Pattern of an answer that is no part of a longer word or number."""
    before = r"(?<![\w.])" if answer[:1].isalnum() else ""
    after = r"(?!\w|\.\d)" if answer[-1:].isalnum() else ""
    return before + re.escape(answer) + after


def _normalized(text: str) -> str:
    """Lower case without mathematical decoration, so that `$1,024$` and `1024 ` read the same."""
    text = re.sub(r"\\(?:left|right|displaystyle|[,;:! ()\[\]])|[$*]", " ", text).replace("\\dfrac", "\\frac")
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    return re.sub(r"\s*([^\w\s])\s*", r"\1", " ".join(text.split())).lower()
