r"""Reads a step as clauses of tokens: notations and numbers in words brought to one form, each formula one token.

Example: `So the sum is $\dfrac{1}{2} + 3$, forty-two in all.` has the clauses `So the sum is 1/2+3` and `42 in all`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_TOKENS = 60  # of one clause, so that no text takes quadratic time; a longer one is cut

# Minus, dash, operations, powers, one half, constants, arrows, relations, sets; East Asian punctuation.
_SYMBOLS = {
    0x2212: "-",
    0x2013: "-",
    0xD7: r"\times ",
    0xB7: r"\cdot ",
    0xF7: r"\div ",
    0xB0: r"^\circ ",
    0xB2: "^2",
    0xB3: "^3",
    0xBD: " 1/2",
    0x3C0: r"\pi ",
    0x221E: r"\infty ",
    0x221A: r"\sqrt ",
    0x21D2: r"\Rightarrow ",
    0x2192: r"\to ",
    0x2234: r"\therefore ",
    0x2264: r"\le ",
    0x2265: r"\ge ",
    0x2261: r"\equiv ",
    0x2248: r"\approx ",
    0x2208: r"\in ",
    0x222A: r"\cup ",
    0x2229: r"\cap ",
    0x3001: ", ",
    0x3002: ". ",
    0xFF0C: ", ",
    0xFF1A: ": ",
    0xFF1B: "; ",
    0xFF1F: "? ",
}
# Rewrites, in this order. What only decorates goes; of several spellings one stays.
_SPELLINGS = (
    (r"\\(?:begin|end)\{[a-z*]+\}|&", ""),
    (r"\\\\", r"\n"),
    (r"\\(?:Long)?(?:Rightarrow|to|implies|therefore|rightarrow)(?![a-z])", ", "),
    (r"[^\S\n]+", " "),
    (r"(?i)\b(that|it|there|here|what)['\u2019]s\b", r"\1 is"),
    (r"(?<![\w.])\.(?=\d)", "0."),
    (r"\\(?:left|right|displaystyle|limits|[Bb]igg?[lr]?)(?![a-z])", ""),
    (r"\\(?:math(?:bf|rm|it|bb|cal)|text(?:bf|it|rm)?|operatorname|bm)\s*\{([^{}]*)\}", r" \1 "),
    (r"(?<=\d)(?:,|\{,\}|\\[, ])(?=\d{3}(?!\d))", ""),  # between thousands
    (r"\\[,;:! ]|~|\\q?quad(?![a-z])", " "),
    (r"\\[dt]frac", r"\\frac"),
    (r"\\frac\s*(\d)\s*(\d)(?![\w\\({])", r"\1/\2"),
    (r"\\frac\s*\{(-?\w+)\}\s*\{(\w+)\}(?![\w\\({])", r"\1/\2"),
    (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
    (r"\^\s*\{?\s*\\circ(?![a-z])\s*\}?", ""),
    (r"(?<=\d) squared\b", "^2"),
    (r"(?<=\d)\s*(?:percent|per cent|\\?%)", "%"),
    (r"\b(?:minus|negative)\s+(?=\d)", "-"),
    (r"\b(\d{1,9}) hal(?:f|ves)\b", r"\1/2"),
    (r"\bhalf\b", "1/2"),
    (r"(?:(?<=\d) )?(?<!\\)\bpi\b", r"\\pi"),
    (r"\b(\d{1,9}) quarters?\b", r"\1/4"),
    (r"\b(\d{1,9}) (\d{1,9})(?:rd|th)s?\b", r"\1/\2"),
)
_BINARY = r"[=*/^<>]|\\(?:cdot|times|div|in|cup|cap|leq?|geq?|neq?|equiv|approx|pm|mid)(?![a-z])"
_FORMULAS = (
    (r"\*\*|__|\\[()\[\]]|\$", " $ "),  # what encloses words or formulas keeps them apart
    (rf" ?({_BINARY}) ?", r"\1"),
    (r"(\\[A-Za-z]+) (?=[^$ ])", r"\1"),  # LaTeX eats the blanks after a command
    (r"(?<=\d) (?=\\(?:sqrt|frac|pi))", ""),
    (r"([\d)}\]]|(?<![A-Za-z])[A-Za-z]) ?([-+]) ?(?=[\d\\({\[]|[A-Za-z]\b)", r"\1\2"),
    (r"(?<=[^\W\d_])-(?=[^\W\d_]{2})", " "),  # a hyphen between words
    (r"\$", " "),
    (r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+)", r" \1 "),  # written without blanks
    (r" {2,}", " "),
)
_BRACKETS = re.compile(r"[(\[{][^()\[\]{}\n]{1,80}[)\]}]")
_LONG_WORD = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{3}")
_LIST = re.compile(r"(?<!\S)((?=\S{0,80}\d)\S{1,80}?)(?:, (?:and |or )?| (?:and|or) )(?=\S{0,80}\d)")
_SENTENCE_END = re.compile(r"(?<=[.?])\s+|(?<=[^\W\d]!)\s+|[;\n]+")
_CLAUSE_END = re.compile(r",\s+|\u2014|\s-+\s|\s(?=(?:and|but|because|since|so|whose|which|that is|where)\s)")

_RELATION = re.compile(r"=|\\(?:equiv|approx|in)(?![a-z])")
_OPERATION = re.compile(r"[+*/^!]|(?<=[\w)}])-|\\(?:cdot|times|div|frac|sqrt|d?binom|sum|int)")
_ELEMENTARY = ("+", "-", "*", "/", r"\cdot", r"\times", r"\div", r"\frac")
_FUNCTION = re.compile(r"\\(?:gcd|lcm|max|min|log|ln|sin|cos|tan|exp|d?binom|sum|int|lim|lfloor|lceil)(?![a-z])|\d!")
VARIABLE = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")
_PRODUCT = r"(?:\d++(?:\.\d++)?%?|\\sqrt\{\d+\}|\\pi)+"
_QUOTIENT = rf"(?:{_PRODUCT}(?:/{_PRODUCT})?|\\frac\{{-?{_PRODUCT}\}}\{{{_PRODUCT}\}})"
_NUMBER = re.compile(rf"(?:[-+]|\\pm)?{_QUOTIENT}(?:[-+]\d*\\sqrt\{{\d+\}})?")


@dataclass(frozen=True, slots=True)
class Term:
    """A token as an equation: `a+b=2+3=5` has the value `5`; `a+b` and `2+3` are its other sides."""

    value: str
    sides: tuple[str, ...]

    @property
    def is_worked_out(self) -> bool:
        """Whether nothing is left to calculate: a number, a fraction, a sum with roots, or a formula with variables."""
        if _FUNCTION.search(self.value):
            return False
        return bool(VARIABLE.search(self.value) or "," in self.value or _NUMBER.fullmatch(self.value))


@dataclass(frozen=True, slots=True)
class Clause:
    """A piece of a sentence. Tokens are in lower case, terms as written; `before`: what the sentence began with."""

    tokens: tuple[str, ...]
    terms: tuple[Term, ...]
    before: tuple[str, ...]
    is_question: bool


def clauses(text: str) -> Iterator[Clause]:
    """The clauses of a text, in order."""
    for sentence in _SENTENCE_END.split(plain(text)):
        before: tuple[str, ...] = ()
        is_question = sentence.rstrip().endswith("?")
        for part in _CLAUSE_END.split(sentence):
            words = [word for word in (word.strip("\"'`*_#.,:?") for word in part.split()) if word]
            for start in range(0, len(words), MAX_TOKENS):
                piece = words[start : start + MAX_TOKENS]
                tokens = tuple(word.lower() for word in piece)
                yield Clause(tokens, tuple(map(_term, piece)), before, is_question)
                before = (*before, *tokens)[-MAX_TOKENS:]


def plain(text: str) -> str:
    """A text in one notation: numbers as digits, no LaTeX decoration, no blank inside a formula or a list."""
    from text_to_num import alpha2digit

    text = alpha2digit(text.translate(_SYMBOLS), "en", threshold=0.0)
    for pattern, replacement in (*_SPELLINGS, *_FORMULAS):
        text = re.sub(pattern, replacement, text)
    return _LIST.sub(r"\1,", _BRACKETS.sub(_without_blanks, text))


def is_named(token: str) -> bool:
    """Whether a formula stands for a quantity, such as `a+b` or a binomial, and is no mere sum of numbers."""
    return bool(VARIABLE.search(token) or _FUNCTION.search(token))


def is_calculation(side: str) -> bool:
    """Whether one side of an equation is an operation on numbers."""
    side = side.replace("^{-1}", "")  # the inverse of a function
    return bool(_OPERATION.search(side) and re.search(r"\d", side))


def is_compound(side: str) -> bool:
    """Whether it is a calculation with numbers alone, and more than one step's work, which `8*7` and `3/4` are not."""
    if is_named(side) or not is_calculation(side):
        return False
    operations = _OPERATION.findall(side)
    return len(operations) > 1 or operations[0] not in _ELEMENTARY


def _term(word: str) -> Term:
    """Names inside a list are left out: `x=0,x=1` has the value `0,1`."""
    *sides, value = _RELATION.split(re.sub(r"(?<=,)\w=", "", word))
    return Term(value, tuple(filter(None, sides)))


def _without_blanks(match: re.Match[str]) -> str:
    """A bracket that holds no words, such as `(2, 3)`, as one token."""
    return match[0] if _LONG_WORD.search(match[0]) else "".join(match[0].split())
