"""When two questions are the same: by their text, whatever the white space, case, punctuation and LaTeX spacing."""

from __future__ import annotations

import hashlib
import re
import unicodedata

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

# What separates and means nothing: math marks, LaTeX spaces and brackets that grow, punctuation. A decimal point stays,
# and so do ! and ', because 5! is not 5 and f' is not f.
SPACING = re.compile(r"\\[,;:! ()\[\]]|\\(?:q?quad|left|right|displaystyle)(?![a-z])|[$~\"“”„?;:,]|\.(?!\d)")
TOKEN = re.compile(r"\\[a-z]+|[^\W\d_]+|\d+(?:\.\d+)?|[^\w\s]|_")


def normalised(question: str) -> str:
    r"""The words, numbers and signs of a question, separated by single blanks.

    Example: `normalised("Find  $x\, +1$.") == normalised("find $x+1$") == "find x + 1"`.
    """
    text = SPACING.sub(" ", unicodedata.normalize("NFKC", question).lower())
    return " ".join(TOKEN.findall(text)) or question


def key_of(text: str) -> int:
    """64 bits that stand for a text: among a million texts, two share theirs with a chance of 1 in 30 million."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def question_key(question: str) -> int:
    """The same for questions that are the same."""
    return key_of(normalised(question))


def repeats(keys: Keys) -> list[tuple[int, int]]:
    """Every position whose key has occurred before, with the position of its first occurrence."""
    order = np.argsort(keys, kind="stable")
    in_order = keys[order]
    is_first = np.r_[True, in_order[1:] != in_order[:-1]][: len(keys)]
    starts, later = np.flatnonzero(is_first), np.flatnonzero(~is_first)
    first = starts[np.searchsorted(starts, later, side="right") - 1]
    return sorted(zip(order[later].tolist(), order[first].tolist(), strict=True))
