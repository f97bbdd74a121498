"""What a question asks for, as far as its wording tells."""

from __future__ import annotations

import re
from dataclasses import dataclass

from int_ray.leaks.statements import VARIABLE, is_compound, is_named, plain
from int_ray.leaks.vocabulary import RESULTS

_REQUEST = re.compile(
    r"(?i)\b(?:find|determine|compute|evaluate|calculate|what|which|how (?:many|much|long)|express|simplify|solve|"
    r"expand|factor|convert)\b"
)
_SENTENCES = re.compile(r"(?<=[.?!])\s+")
_CONDITION = re.compile(r"(?i)\b(?:if|when|where|such that|so that|for which|given|with)\b")
_COUNT = re.compile(r"(?i)\bhow many\b|\bnumber of\b")
_COMMANDS = {"\\lim": "limit", "\\int": "integral", "\\sum": "sum", "\\log": "logarithm"}


@dataclass(frozen=True, slots=True)
class Request:
    """Stems of words, numbers and formulas.

    Example: `Request.of("Two primes have $a+b=9$. Find $a-b$.")` has the formula `a-b`.
    """

    words: frozenset[str]  # of the request itself
    context: frozenset[str]  # of the whole question
    formulas: frozenset[str]  # of the request, such as a+b or 3^{100}; none where something is to be counted

    @classmethod
    def of(cls, question: str) -> Request:
        """Read from the last sentence that requests something, without its conditions."""
        for command, word in _COMMANDS.items():
            question = question.replace(command, f" {word} {command}")
        text = plain(question)
        requests = [
            sentence[match.start() :] for sentence in _SENTENCES.split(text) if (match := _REQUEST.search(sentence))
        ]
        request = requests[-1] if requests else text
        tokens = _tokens(_CONDITION.split(request)[0])
        formulas = [token for token in tokens if is_named(token) and not re.fullmatch(r"\w\w+", token)]
        pattern = r"[=<>]" if "solve" in request.lower() else r"[<>]"
        conditions = [formula for formula in formulas if re.search(pattern, formula)]
        formulas += VARIABLE.findall(" ".join(conditions))  # the p of `Find the smallest prime $p > 50$`
        calculations = list(filter(is_compound, _tokens(request)))  # also in `when 3^{100} is divided by 7`
        if _COUNT.search(request):
            tokens, formulas, calculations = [token for token in tokens if token not in formulas], [], []
        return cls(
            words=frozenset(map(stem, (*tokens, *formulas, *RESULTS))),
            context=frozenset(map(stem, (*_tokens(text), *re.findall(r"\d+", text)))),
            formulas=frozenset((*formulas, *calculations)),
        )


def _tokens(text: str) -> list[str]:
    return [token.strip(".,:;?=") for token in text.split()]


def stem(word: str) -> str:
    """So that measure and measures are one word."""
    return word.lower().removesuffix("s")[:5]
