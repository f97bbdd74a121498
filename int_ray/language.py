"""Whether a proposed step is in the student's language: in another one it is no step that the policy would write."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

MIN_WORDS = 8  # outside formulas; a shorter text has no language
MIN_CONFIDENCE = 0.95
MAX_LENGTH = 4000  # characters of each text that are looked at
# Letters that occur in the formulas of any language.
_FORMULA_SCRIPTS = frozenset(["LATIN", "GREEK", "MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT", "FULLWIDTH", "BLACK-LETTER"])
_FORMULA = re.compile(r"\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]|\\[A-Za-z]+", re.DOTALL)
_UNSPACED = re.compile(r"[!-~]+")  # ends where letters of a language written without blanks begin
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_]{2,}")  # a Chinese letter says as much as a word


def is_other_language(question: str, attempt: str, content: str) -> bool:
    """Whether `content` is in a script that question and attempt lack, or surely in another language than both."""
    question, attempt, content = (text[:MAX_LENGTH] for text in (question, attempt, content))
    written = Counter(filter(None, map(_script, _prose(content))))
    scripts = set(filter(None, map(_script, question + attempt)))
    new = written.total() - sum(written[script] for script in _FORMULA_SCRIPTS | scripts)
    if new >= 2 and 2 * new > written.total():
        return True
    if not _has_language(content):
        return False
    known = [text for text in (attempt, question) if _has_language(text)]
    return bool(known) and not any(_may_be_one_language(content, text) for text in known)


def _has_language(text: str) -> bool:
    return len(_words(text)) >= MIN_WORDS


def _may_be_one_language(one: str, other: str) -> bool:
    """Whether two texts with a language are written in the same script and not surely in different languages."""
    scripts = [Counter(filter(None, map(_script, _prose(text)))).most_common(1)[0][0] for text in (one, other)]
    languages = [_identifier().classify(" ".join(_words(text))) for text in (one, other)]
    is_sure = all(confidence >= MIN_CONFIDENCE for _, confidence in languages)
    return scripts[0] == scripts[1] and not (is_sure and languages[0][0] != languages[1][0])


def _words(text: str) -> list[str]:
    """Words with a letter: circled and raised digits are word characters too."""
    return [word for word in _WORD.findall(_prose(text)) if any(map(str.isalpha, word))]


def _prose(text: str) -> str:
    """A text without formulas and whatever else holds a digit."""
    return _UNSPACED.sub(lambda piece: " " if re.search(r"\d", piece[0]) else piece[0], _FORMULA.sub(" ", text))


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def _script(character: str) -> str | None:
    """Such as LATIN or CYRILLIC; Japanese is CJK, like Chinese; None if it is no letter."""
    script = unicodedata.name(character, "UNKNOWN").split()[0] if character.isalpha() else None
    return "CJK" if script in ("HIRAGANA", "KATAKANA") else script
