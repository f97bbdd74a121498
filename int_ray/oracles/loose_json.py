r"""JSON as language models write it: LaTeX with single backslashes, Python's quotes and words, a comma too many.

Text is rewritten into strict JSON in one pass, which takes linear time and cannot overflow the stack; then `json` reads
it. Strict JSON keeps its meaning, except where an escape makes a LaTeX command: `\neq` is no line break before "eq".
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

MAX_DEPTH = 16  # a reply needs 3

UnreadableName = Literal[
    "no_json",  # no list and no object
    "broken_json",  # it closes, but cannot be read
    "unfinished_json",  # it never closes: the text was cut off
    "too_deep",  # more than 16 lists and objects in one another
    "duplicate_key",  # an object has a key twice, and nobody can say which one is meant
]


class Unreadable(ValueError):
    """Why something is no value; inside of one, it stands for an object with a duplicate key."""

    def __init__(self, name: UnreadableName) -> None:
        super().__init__(name)
        self.name: UnreadableName = name


# A quote ends a string only where a string may end, so that quotation marks within it need no backslash.
_STRING = r"""{q}(?:[^{q}\\]|\\.|{q}(?!\s*+(?:[,:\]}}]|\Z)))*+{q}?"""
_DOUBLE, _SINGLE = _STRING.format(q='"'), _STRING.format(q="'")
_TOKEN = re.compile(
    rf"(?P<string>{_DOUBLE}|{_SINGLE})"
    r"""|(?P<open>[\[{])|(?P<close>[\]}])|(?P<mark>(?:[:\s]|,(?!\s*+[\]}]))++)|(?P<comma_too_many>,)"""
    r"""|(?P<word>[^\[\]{}"',:\s][^\[\]{}"',:]*+)""",
    re.DOTALL,
)
_BRACKET = re.compile(r"[\[{]")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?")
_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}

_UNICODE = re.compile("u[0-9a-fA-F]{4}")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|[A-Za-z]++|.)|\"", re.DOTALL)
# What begins like a line break or a tab of JSON, but is LaTeX. What begins with \b or \f always is, and with \r if more
# letters follow: nobody means a backspace.
_COMMAND = re.compile(
    r"""nabla|natural|ncong|ne|nearrow|neg|neq|newline|nexists|ngeq|ngtr|nleftarrow|nleq|nless|nmid|nolimits|nonumber
    |normalsize|not|notag|notin|nparallel|nprec|nrightarrow|nsim|nsubseteq|nsucc|nsupseteq|nu|nwarrow
    |tag|tan|tanh|tau|tbinom|text|textbf|textit|textrm|textsf|textstyle|texttt|textup|tfrac|therefore|theta
    |thickapprox|thicksim|thinspace|tilde|times|to|top|tr|triangle|triangleleft|trianglelefteq|triangleq|triangleright
    |trianglerighteq|twoheadrightarrow""",
    re.VERBOSE,
)


def strict_json(text: str, start: int) -> tuple[str, int]:
    """The list or object that opens first from `start` on, as strict JSON, and where it ends. Raises Unreadable."""
    bracket = _BRACKET.search(text, start)
    if bracket is None:
        raise Unreadable("no_json")
    depth, parts = 0, []
    for token in _TOKEN.finditer(text, bracket.start()):
        parts.append(_strict_part(token))
        depth += {"open": 1, "close": -1}.get(str(token.lastgroup), 0)
        if depth == 0:
            return "".join(parts), token.end()
        if depth > MAX_DEPTH:
            raise Unreadable("too_deep")
    raise Unreadable("unfinished_json")


def loads(strict: str) -> Any:
    """What strict JSON says, every number as a float. Raises Unreadable."""
    try:
        return json.loads(strict, strict=False, parse_int=float, object_pairs_hook=_object)
    except json.JSONDecodeError:
        raise Unreadable("broken_json") from None


def _strict_part(token: re.Match[str]) -> str:
    """A token as strict JSON has it. What is neither a number nor a word of JSON is text that lacks its quotes."""
    match token.lastgroup:
        case "string":
            return f'"{_ESCAPE.sub(_strict_escape, token[0][1:-1])}"'
        case "word":
            word = token[0].strip()
            return word if _NUMBER.fullmatch(word) else _WORDS.get(word) or json.dumps(word)
        case "comma_too_many":
            return ""
        case _:
            return token[0]


def _strict_escape(match: re.Match[str]) -> str:
    """A backslash with what follows, or a bare quotation mark, as it must stand in strict JSON."""
    escaped = match[1]
    if escaped is None:
        return r"\""
    if escaped == "'":
        return escaped
    of_json = escaped in ('"', "\\", "/", "r") or _UNICODE.fullmatch(escaped)
    break_or_tab = escaped[0] in "nt" and not _COMMAND.fullmatch(escaped)
    return match[0] if of_json or break_or_tab else rf"\\{escaped}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Unreadable:
    values = dict(pairs)
    return values if len(values) == len(pairs) else Unreadable("duplicate_key")
