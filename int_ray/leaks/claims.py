"""Which values a step gives as the final answer, right or wrong, as far as its wording tells."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from int_ray.leaks.request import Request, stem
from int_ray.leaks.statements import Clause, clauses, is_calculation, is_named, plain
from int_ray.leaks.vocabulary import (
    ANNOUNCES,
    ANSWER,
    ARITHMETIC,
    CONCLUDES,
    DENIED,
    DENIED_AFTER,
    DETERMINERS,
    EMPTY,
    LINKS,
    MULTIPLIED,
    PREPOSITIONS,
    RESTRICTED,
    SUPPOSED,
)
from int_ray.rewards import final_answer
from int_ray.types import Problem

DISTINCTIVE_LENGTH = 4  # symbols from which an answer is not met by chance
_FILLERS = EMPTY - DETERMINERS  # may stand between a verb and its value
_VERBS = (LINKS | ANNOUNCES) - {"has"}


def claimed_values(problem: Problem, prefix: str, content: str) -> Iterator[str]:
    """The values, in the order of the step; `prefix` is the text of the steps before it."""
    boxed = final_answer(content)
    if boxed is not None:
        yield plain(boxed)
    request, answer = Request.of(problem.question), answer_key(problem)
    calculated: set[str] = set()  # values that a calculation in the step has come to
    for clause in clauses(content):
        statements = [Statement(clause, index, request) for index in range(len(clause.tokens))]
        calculated.update(statement.key for statement in statements if statement.is_calculated())
        if clause.is_question:
            continue
        if answer not in calculated and _holds_distinctive_answer(clause, problem, prefix):
            yield answer
        yield from (statement.value for statement in statements if statement.is_claim(answer, calculated))


def answer_key(problem: Problem) -> str:
    """The reference answer, for comparing it with values of a step."""
    return key_of("".join(plain(problem.answer).split()))


def key_of(value: str) -> str:
    """For comparing values as text: `(B)` and `b` are the same choice."""
    return re.sub(r"^\((\w)\)$", r"\1", value.strip(".").lower())


@dataclass(frozen=True, slots=True)
class Statement:
    """What a clause says about one value in it, the one at `index`."""

    clause: Clause
    index: int
    request: Request

    @property
    def value(self) -> str:
        """As written."""
        return self.clause.terms[self.index].value

    @property
    def key(self) -> str:
        """For comparisons."""
        return key_of(self.value)

    @property
    def before(self) -> tuple[str, ...]:
        """Tokens of the clause before the value."""
        return self.clause.tokens[: self.index]

    @property
    def after(self) -> tuple[str, ...]:
        """Tokens of the clause after the value."""
        return self.clause.tokens[self.index + 1 :]

    def is_claim(self, answer: str, calculated: Collection[str]) -> bool:
        """Whether the value is given as the final answer."""
        if not (self.key == answer or re.search(r"[\d\\]", self.key)) or self._is_denied_or_supposed():
            return False
        if self.after and MULTIPLIED.fullmatch(self.after[0]):
            return False
        if any(map(ANSWER.fullmatch, (*self.before[-6:], *self.after[:4]))):
            return True
        if self.key in calculated or not (self.key == answer or self.clause.terms[self.index].is_worked_out):
            return False
        if self._is_worked_out_in_words():
            return False
        return self._restates_request() or self._is_said_of_request() or self._is_announced() or self._is_result()

    def is_calculated(self) -> bool:
        """Whether it equals an operation on numbers (`4+8=12`, `4+8 is 12`), one that the question does not name."""
        return any(is_calculation(side) and side not in self.request.formulas for side in self._sides())

    def _sides(self) -> tuple[str, ...]:
        """What is said to be equal to the value: `4+8` in `4+8=12` and in `4+8 is 12`."""
        sides = self.clause.terms[self.index].sides
        verb = self._verb(LINKS)
        if verb and not PREPOSITIONS.intersection(self.before[:verb][-2:]):  # not `the last digit of 4+8 is 2`
            sides = (*sides, self.before[verb - 1])
        return sides

    def _is_denied_or_supposed(self) -> bool:
        """By a word before the value, for a denial since the last number; or as in `12 is not ...`."""
        last = max((place for place, token in enumerate(self.before) if re.search(r"\d", token)), default=-1)
        return bool(
            SUPPOSED.search(" ".join(self.before))
            or DENIED.search(" ".join(self.before[last + 1 :]))
            or DENIED_AFTER.match(" ".join(self.after))
        )

    def _is_worked_out_in_words(self) -> bool:
        """Whether the sentence names an operation and two numbers before the value."""
        before = " ".join((*self.clause.before, *self.before))
        return len(re.findall(r"\d+", before)) > 1 and ARITHMETIC.search(before) is not None

    def _follows_equation(self) -> bool:
        """Whether an equation in the sentence leads to the value."""
        return any(re.search(r"=.*\d", token) for token in (*self.clause.before, *self.before))

    def _restates_request(self) -> bool:
        """What was asked for, with the value filled in, and nothing that is not in the question."""
        if self.request.formulas.intersection(self._sides()):
            return not self._follows_equation()
        said = {stem(token) for token in (*self.before, *self.after) if token not in EMPTY}
        return bool(said & self.request.words) and said <= self.request.words | self.request.context

    def _is_said_of_request(self) -> bool:
        """`the remainder is 4`, `an area of 4`, `4 is the remainder`, with a noun that the question asks for."""
        if self.after[:1] in (("is",), ("was",)):
            return self._asks_for(self.after[1:]) and _is_unconditional(self.before)
        end = self._verb(LINKS)
        if end is None and self.before[-1:] == ("of",):
            end = self.index - 1
        if end is None:
            return False
        start = end
        while start > 0 and not _begins_phrase(self.before, start):
            start -= 1
        return self._asks_for(self.before[start:end]) and _is_unconditional((*self.before[:start], *self.after))

    def _asks_for(self, phrase: Sequence[str]) -> bool:
        """Whether the question asks for what a noun phrase names: its head, and nothing new beside that."""
        said = [token for token in phrase if token not in EMPTY or token in PREPOSITIONS]
        head = takewhile(lambda token: token not in PREPOSITIONS, said)
        known = self.request.words | self.request.context
        return any(stem(token) in self.request.words for token in head) and all(
            stem(token) in known for token in said if token not in PREPOSITIONS
        )

    def _is_announced(self) -> bool:
        """`so 4`, `we get 4`, `Integrating yields 4`, and nothing else."""
        tail = {token for token in self.after if stem(token) not in self.request.words}
        is_other_name = self.clause.terms[self.index].sides and any(map(is_named, self.request.formulas))
        if not tail <= EMPTY or is_other_name or self._follows_equation():
            return False
        verb = self._verb(ANNOUNCES)
        return EMPTY.issuperset(self.before) or (verb is not None and _is_unconditional(self.before[:verb]))

    def _is_result(self) -> bool:
        """A value that is hardly met by chance, in the place of a result: `... is 84`, `84 ways`, `so ... 84`."""
        if not re.search(r"\d|\\", self.key) or re.fullmatch(r"[-+]?\d|[^(\[{]*,.*", self.key):
            return False
        names = {term.value.lower() for term in self.clause.terms[: self.index] if re.fullmatch("[A-Z]+", term.value)}
        if not names - {"i", "a"} <= self.request.context:
            return False  # another point or angle
        is_counted = bool(self.after) and stem(self.after[0]) in self.request.words and self.after[0] not in EMPTY
        is_concluded = (
            CONCLUDES.search(" ".join(self.before)) is not None
            and EMPTY.issuperset(self.after)
            and self.before[-1] not in PREPOSITIONS
        )
        if not (is_counted or is_concluded) and self._verb(_VERBS) is None:
            return False
        rest = self.before if is_counted else (*self.before, *self.after)
        return _is_unconditional(rest) and not self._follows_equation()

    def _verb(self, verbs: Collection[str]) -> int | None:
        """Where a verb is that leads to the value, with nothing but empty words between."""
        found = None
        for place in range(self.index - 1, -1, -1):
            if self.before[place] not in _FILLERS:
                break
            if self.before[place] in verbs:
                found = place
        return found


def _begins_phrase(tokens: Sequence[str], index: int) -> bool:
    """Whether a noun phrase begins here: with a determiner that follows no preposition."""
    return tokens[index] in DETERMINERS and tokens[index - 1] not in PREPOSITIONS


def _is_unconditional(tokens: Sequence[str]) -> bool:
    """Whether neither a formula nor a word restricts what is said to one case."""
    return not (any(re.search(r"[=\\]|^[b-hj-z]$", token) for token in tokens) or RESTRICTED.search(" ".join(tokens)))


def _holds_distinctive_answer(clause: Clause, problem: Problem, prefix: str) -> bool:
    """An answer that cannot be there by chance, and that nothing before had."""
    answer = plain(problem.answer).strip().lower()
    if answer.isalpha() or len(re.findall(r"\\[a-z]+|\w|[-+*/^]", answer)) < DISTINCTIVE_LENGTH:
        return False
    said = " ".join(clause.tokens)
    if not _holds(said, answer) or DENIED.search(said) or SUPPOSED.search(said):
        return False
    return not _holds(plain(f"{problem.question}\n{prefix}").lower(), answer)


def _holds(text: str, answer: str) -> bool:
    """Whether the answer is in a text, and no part of a longer word or number."""
    before = r"(?<![\w.])" if answer[:1].isalnum() else ""
    after = r"(?!\w|\.\d)" if answer[-1:].isalnum() else ""
    return re.search(before + re.escape(answer) + after, text) is not None
