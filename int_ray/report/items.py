"""An intervention as a page lists it: in words, and shortened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from int_ray.guards import GuardName
from int_ray.report.lines import Line
from int_ray.report.page import words
from int_ray.report.tally import source_name
from int_ray.types import Source

STEP_CHARACTERS = 80  # what a step costs beside its text
OBJECTIONS: dict[GuardName | str, str] = {
    "location_out_of_range": "The attempt has no step there.",
    "after_thinking": "The step comes after the thinking part.",
    "empty": "The replacement says nothing.",
    "unchanged": "The replacement is the step that is there already.",
    "several_steps": "The replacement is more than one step.",
    "boxed": "The replacement boxes a final answer.",
    "other_language": "The replacement is in another language than problem and attempt.",
    "too_long": "The replacement is longer than oracle.max_step_tokens.",
    "no_room": "After the replacement no token would be left for a continuation.",
    "duplicate": "The same was proposed before about this problem.",
    "leak": "The replacement gives the final answer away.",
}
CATEGORIES = {"high": "high-level", "execution": "execution", None: "not labelled"}  # of errors (paper, Fig. 4)


@dataclass(frozen=True)
class Step:
    """A step of the attempt; `number` counts from 1."""

    number: int
    text: str


@dataclass(frozen=True)
class Item:
    """One intervention. Of a long attempt, the steps around the replaced one remain."""

    round: str
    line: Line
    steps: Sequence[Step]
    content: str | None
    continuation: str | None
    log: str

    @classmethod
    def of(cls, round_: str, line: Line, share: int) -> Item:
        """The intervention in about `share` characters."""
        short = partial(shorten, limit=share // 5)
        return cls(
            round_,
            line,
            around_the_error(line, longest=share // 5, share=2 * share // 5),
            None if line.content is None else short(line.content),
            None if line.continuation is None else short(line.continuation),
            short(line.log),
        )

    @property
    def verdict(self) -> str:
        """What became of it, and why."""
        line = self.line
        if line.status == "refused":
            reason = line.reason or "unknown"
            if line.content is None:
                return f"The oracle proposed nothing: {words(reason)}."
            return f"Refused: {words(reason)}. {OBJECTIONS.get(reason, '')}".rstrip()
        preferred = "another proposal about the attempt was preferred"
        if not line.is_tested:
            return f"Not tested: {preferred}." if line.status == "not_selected" else "Not tested."
        if not line.num_correct:
            return f"None of {line.num_graded} continuations reached the right answer."
        right = f"{line.num_correct} of {line.num_graded} continuations reached the right answer"
        return f"{right}, but {preferred}." if line.status == "not_selected" else f"{right}."

    @property
    def facts(self) -> dict[str, str]:
        """Everything else that is known, for those who want to trace it back."""
        line, source = self.line, self.line.source
        known = {
            "kind of error": CATEGORIES[line.category] if line.category else "",
            "first error": f"step {line.first_error}" if line.first_error else "",
            "flaws of the reply": ", ".join(map(words, line.faults)),
            "length": f"{line.intervention_tokens} tokens" if line.intervention_tokens else "",
        }
        if source is not None:
            known |= _origin(source)
        if line.attempt_seed is not None:
            known["attempt"] = f"{line.attempt_outcome}, policy version {line.policy_version}, seed {line.attempt_seed}"
        known["round"] = self.round
        return {name: value for name, value in known.items() if value}


def _origin(source: Source) -> dict[str, str]:
    """Who was asked, how, and at what price; the price of a cached answer is what it had cost."""
    origin = {"oracle": source_name(source), "prompt hash": source.prompt_hash[:12]}
    if source.model:
        origin["sample"] = str(source.sample)
    if source.input_tokens or source.output_tokens:
        origin["tokens"] = f"{source.input_tokens:,} read, {source.output_tokens:,} written"
    if source.cost:
        origin["cost"] = f"{source.cost:.4g}"
    if source.cached:
        origin["answer"] = "from the cache"
    return origin


def shorten(text: str, limit: int) -> str:
    """The first `limit` characters, and how many follow."""
    text = text.strip()
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit:,} more characters)"


def around_the_error(line: Line, longest: int, share: int) -> list[Step]:
    """The steps around the replaced one, two before it for one after it, in `share` characters; at least itself."""
    steps = [Step(number, shorten(text, longest)) for number, text in enumerate(line.steps, 1)]
    if not steps:
        return []
    middle = min(max(line.location or line.first_error or 1, 1), len(steps)) - 1
    first = last = middle  # both are shown
    left = share - _size(steps[middle])
    while first > 0 or last + 1 < len(steps):
        backwards = last + 1 == len(steps) or (first > 0 and middle - first <= 2 * (last - middle))
        left -= _size(steps[first - 1] if backwards else steps[last + 1])
        if left < 0:
            break
        first, last = (first - 1, last) if backwards else (first, last + 1)
    return steps[first : last + 1]


def _size(step: Step) -> int:
    return len(step.text) + STEP_CHARACTERS
