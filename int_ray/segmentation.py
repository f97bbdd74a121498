"""Cut a response into reasoning steps on its token ids, without losing any (paper, section 4.1).

Text decides where steps begin and end, token ids are what is cut: `concat(ids of the steps) == ids of the response`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from int_ray.types import Step, TokenIds

Decode = Callable[[Sequence[int]], str]  # special tokens kept, spaces not cleaned up

REPLACEMENT = "\ufffd"  # what decoders write for bytes that are no character (yet)
MAX_HELD_TOKENS = 8  # a character has at most 4 bytes, so that more tokens without one are garbage
BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")  # one or more lines of nothing but white space
NOTHING_SAID = re.compile(r"\s*(?:<[^<>\s]+>\s*)?")  # white space, or a special token such as <|im_end|> or <think>


@dataclass(frozen=True)
class Segmenter:
    """Cuts the responses of one tokenizer into steps.

    Example: `Segmenter(decode, ("wait", "maybe"), "</think>").steps(completion.token_ids)`
    """

    decode: Decode
    keywords: Sequence[str]
    thinking_end: str | None = None

    def steps(self, token_ids: TokenIds) -> tuple[Step, ...]:
        """The steps of a response [T]; no token, no step."""
        return segment(token_pieces(token_ids.tolist(), self.decode), self.keywords, self.thinking_end)


def token_pieces(token_ids: Sequence[int], decode: Decode) -> list[str]:
    """The text that each token adds [T]; a character of several tokens is added by the token that completes it.

    Decodes a few tokens at a time: the last ones that ended with a whole character, as context (tokenizers treat a
    first token differently), and those since.
    """
    pieces: list[str] = []
    start = clean = 0  # the window starts at `start`; at `clean` the text last ended with a whole character
    told = ""  # the window's text that earlier tokens have added
    for end in range(1, len(token_ids) + 1):
        text = decode(token_ids[start:end])
        whole = text.rstrip(REPLACEMENT)
        if whole == text:
            pieces.append(text[len(told) :])
            start, clean = clean, end
            told = decode(token_ids[start:end])
        elif end - clean < MAX_HELD_TOKENS and end < len(token_ids):
            pieces.append(whole[len(told) :])
            told = max(told, whole, key=len)
        else:  # Only the very last replacement character can still become another one.
            last = end == len(token_ids)
            pieces.append(text[len(told) : None if last else -1])
            start, clean = end - MAX_HELD_TOKENS // 2, end
            told = decode(token_ids[start:end])[:-1]
    return pieces


def segment(pieces: Sequence[str], keywords: Sequence[str], thinking_end: str | None = None) -> tuple[Step, ...]:
    """Steps over the tokens that `pieces` are the texts of; together they hold every token once.

    A step ends after blank lines and starts before each keyword (whole word, any case, with the blanks before it). A
    boundary inside a token belongs to the earlier step. All from `thinking_end` on is one last step that cannot be
    replaced. White space and special tokens make no step of their own; a last special token is in its step's tokens,
    but not in its text.
    """
    text = "".join(pieces)
    starts = [0, *accumulate(map(len, pieces))]  # [T + 1], where each token's text starts
    thinking_stop = text.find(thinking_end) if thinking_end else -1
    reasoning = text if thinking_stop < 0 else text[:thinking_stop]
    end = len(pieces) if thinking_stop < 0 else bisect_left(starts, thinking_stop)
    cuts = sorted(bisect_left(starts, position) for position in _boundaries(reasoning, keywords))
    spans = _spans(pieces[:end], cuts)
    last = spans[-1][1] if spans else 0
    steps = [Step(first, stop, "".join(pieces[first:stop])) for first, stop in spans]
    if last < len(pieces):  # what follows the thinking part, or a response that says nothing
        steps.append(Step(last, len(pieces), "".join(pieces[last:]), replaceable=end == len(pieces)))
    return (*steps[:-1], _without_end_token(steps[-1], pieces[-1])) if steps else ()


def _boundaries(text: str, keywords: Sequence[str]) -> Iterator[int]:
    """Character positions before which a step ends."""
    for match in BLANK_LINES.finditer(text):
        yield match.end()
    if not keywords:
        return
    words = "|".join(map(re.escape, keywords))
    for match in re.finditer(rf"(?<!\w)(?:{words})(?!\w)", text, re.IGNORECASE):
        position = match.start()
        while position > 0 and text[position - 1] in " \t":
            position -= 1
        yield position


def _spans(pieces: Sequence[str], cuts: Sequence[int]) -> list[tuple[int, int]]:
    """Token spans between the cuts; one that says nothing joins the one before it, or if it is the first the next."""
    spans: list[tuple[int, int]] = []
    start = 0
    for end in (*cuts, len(pieces)):
        if not all(map(NOTHING_SAID.fullmatch, pieces[start:end])):
            spans.append((start, end))
        elif spans:
            spans[-1] = (spans[-1][0], end)
        else:
            continue
        start = end
    return spans


def _without_end_token(step: Step, last_piece: str) -> Step:
    end_token = last_piece.strip() and NOTHING_SAID.fullmatch(last_piece)
    return replace(step, text=step.text.removesuffix(last_piece)) if end_token else step
