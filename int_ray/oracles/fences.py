"""Texts of others inside a prompt: between marks that they cannot write, and unable to pass for a reply.

A rollout may say anything, "ignore all of the above" and a forged reply included. It stays data: the marks hold a
nonce, what looks like a mark is removed, and what could be read as a reply if the oracle quotes it is altered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from int_ray.types import Step

NONCE_LENGTH = 12  # hex digits
LABEL_TOKENS = 6  # about what the line `<step 123>` costs beside the step itself
GAP = "<left out>"

UNSENDABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # controls, halves of surrogate pairs

# What must not reach the oracle as it stands, what is written in its place, and how the prompt's notes call that.
_MARK = r"<\s*+/?\s*+(?:(?:problem|reference|attempt|log)(?:-\w*)?|steps?\s*\d[^<>]{0,40}|left\s+out)\s*>"
_REPLY_TAG = r"<(\s*+/?\s*+(?:replacement|intervention|first_error)s?\s*)>"
_REPLY_KEY = r"([\"'])(location|content|first_error|replacements|verification_log)\1"
# What would end the turn of an open model: <|im_end|>, <\uff5cUser\uff5c> (wide bars), <end_of_turn>, </s>, [/INST].
_CONTROL_TOKEN = r"<([|\uff5c][^<>]{0,40}[|\uff5c]|/?s|bos|eos|(?:start|end)_of_turn)>"
_CONTROL_WORD = r"\[(/?(?:INST|SYSTEM_PROMPT))\]"
_ALTERATIONS = (
    (re.compile(_CONTROL_TOKEN), r"[\1]", "control_token_defused"),
    (re.compile(_CONTROL_WORD), r"(\1)", "control_token_defused"),
    (re.compile(_MARK, re.IGNORECASE), "[mark removed]", "fence_stripped"),
    (re.compile(_REPLY_TAG, re.IGNORECASE), r"[\1]", "reply_defused"),
    (re.compile(_REPLY_KEY, re.IGNORECASE), r"`\2`", "reply_defused"),
    (UNSENDABLE, "\ufffd", "unsendable_replaced"),
)


def nonce(*texts: str) -> str:
    """The code in the marks around these texts: a hash of them.

    So the same attempt is asked about in the same words in every run, and a paid answer is found again. And yet nobody
    who writes one of the texts can write the mark that will close it: a text would have to hold a digest of itself, and
    of the reference solution, which the policy never sees. Repeating an earlier nonce is no way round, since the text
    that repeats it has another one.
    """
    digest = sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)  # so that ("ab", "c") is not ("a", "bc")
    return digest.hexdigest()[:NONCE_LENGTH]


@dataclass
class Fences:
    """Puts texts between marks, for one prompt; `notes` names what had to be altered.

    Example: `Fences("1f2e3d").fence("problem", "12+5=?")` is `<problem-1f2e3d>\\n12+5=?\\n</problem-1f2e3d>`
    """

    nonce: str
    notes: set[str] = field(default_factory=set)

    def fence(self, name: str, text: str) -> str:
        """A text between its marks, harmless."""
        return f"<{name}-{self.nonce}>\n{self._defused(text)}\n</{name}-{self.nonce}>"

    def fence_steps(self, name: str, steps: Sequence[Step], max_tokens: int) -> str:
        """Steps between marks, each under its number, without the middle of what exceeds `max_tokens` of the policy."""
        lines: list[str] = []
        costs = [step.end - step.start + LABEL_TOKENS for step in steps]
        for location, text in cut_middle([self._defused(step.text) for step in steps], costs, max_tokens):
            if location is None:
                self.notes.add("attempt_trimmed")
            lines.append(GAP if location is None else f"<step {location}>\n{text}")
        return f"<{name}-{self.nonce}>\n" + "\n".join(lines) + f"\n</{name}-{self.nonce}>"

    def _defused(self, text: str) -> str:
        for pattern, substitute, note in _ALTERATIONS:
            text, count = pattern.subn(substitute, text)
            if count:
                self.notes.add(note)
        return text.strip()


def cut_middle(texts: Sequence[str], costs: Sequence[int], max_tokens: int) -> Iterator[tuple[int | None, str]]:
    """(1-based location, text) of what is shown of an attempt, and once (None, "") where something is left out.

    Both halves of `max_tokens` are spent from the ends inwards; a text on the edge of the gap is cut in proportion.
    Costs are in tokens of the policy, which are known exactly: other tokenizers need about as many.
    """
    gap_start, gap = max_tokens // 2, sum(costs) - max_tokens
    if gap <= 0:
        yield from enumerate(texts, start=1)
        return
    position, in_gap = 0, False
    for location, (text, cost) in enumerate(zip(texts, costs, strict=True), start=1):
        head = min(max((gap_start - position) / cost, 0.0), 1.0)  # share of the text before the gap
        tail = min(max((position + cost - gap_start - gap) / cost, 0.0), 1.0)  # and after it
        position += cost
        if head == 1 or tail == 1:
            yield location, text
            continue
        if head > 0:
            yield location, text[: int(head * len(text))]
        if not in_gap:
            in_gap = True
            yield None, ""
        if tail > 0:
            yield location, text[len(text) - int(tail * len(text)) :]
