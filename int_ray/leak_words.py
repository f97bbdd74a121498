"""Vocabulary of the leak guard, and what a question asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from int_ray.statements import plain

# In several languages; east asian ones are written without blanks, so that the word is part of its token.
ANSWER = re.compile(
    r"answers?|choice|option|respuesta|réponse|antwort|risposta|resposta|ответ|.*答案.*|.*答え.*|.*정답.*|.*답은"
)
DENIED = re.compile(r"not|cannot|\w+n't|never|no|nicht|kein|pas|не|.*不.*|than|below|above|between|least|most")
SUPPOSED = re.compile(r"if|suppos\w*|assum\w*|imagine|were|would|could|might|may|unless|whether")
MULTIPLIED = re.compile(r"times|more|less|fewer|greater|larger|smaller|higher|lower|plus|minus")
ARITHMETIC = re.compile(r"(?:add|subtract|multipl|divid|halv|doubl|squar)\w*|sum|product|difference|plus|minus|times")
ANNOUNCE = frozenset(["gives", "give", "yields", "yield", "shows", "get", "obtain", "find"])
# Words that do not say what a value is the value of.
EMPTY = ANNOUNCE | frozenset(
    re.findall(
        r"\w+",
        """a about again all also altogether am an and are as at be been being by clearly come comes coming conclude
        consequently directly end equal equals exactly exist exists final finally for from giving had has have hence
        here how i in indeed is it its itself just know known leave leaves leaving left make makes making me mean means
        must my namely need now obtained obtains obviously of on one only our out overall precisely remain remains
        required said see shall should show simply so such that the then there therefore these they this those thus to
        turn turns up us was we well what which will wanted whose with yielding""",
    )
)

_REQUEST = re.compile(
    r"(?i)\b(?:find|determine|compute|evaluate|calculate|what|which|how (?:many|much|long)|express|simplify|solve|"
    r"expand|factor|convert)\b"
)
_CONDITION = re.compile(r"(?i)\b(?:if|when|where|such that|so that|for which|given|with)\b")
_COUNT = re.compile(r"(?i)\bhow many\b|\bnumber of\b")
_COMMANDS = {"\\lim": "limit", "\\int": "integral", "\\sum": "sum", "\\log": "logarithm"}
# Words for anything that a question asks for.
_RESULTS = ("result", "solution", "sum", "total", "value", "number", "set", "length", "ways", "arrangements")


@dataclass(frozen=True, slots=True)
class Request:
    """What a question asks for."""

    words: frozenset[str]  # stems and numbers of the request itself
    context: frozenset[str]  # of the whole question
    formulas: frozenset[str]  # what has a name, such as x or a+b; none where something is to be counted

    @classmethod
    def of(cls, question: str) -> Request:
        """Read from the last request in the question, without its conditions."""
        for command, word in _COMMANDS.items():
            question = question.replace(command, f" {word} {command}")
        text = plain(question)
        starts = [match.start() for match in _REQUEST.finditer(text)]
        request = text[starts[-1] :] if starts else text
        tokens = [token.strip(".,:;?") for token in _CONDITION.split(request)[0].split()]
        formulas = [token for token in tokens if re.search(r"[A-Za-z]", token) and not re.fullmatch(r"\w\w+", token)]
        return cls(
            words=frozenset(map(stem, (*(token for token in tokens if token not in formulas), *_RESULTS))),
            context=frozenset(stem(token.strip(".,:;?")) for token in text.split()),
            formulas=frozenset() if _COUNT.search(request) else frozenset(formulas),
        )


def stem(word: str) -> str:
    """So that measure and measures are one word."""
    return word.lower().removesuffix("s")[:5]
