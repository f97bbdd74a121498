"""Answers that were paid for, in a file that runs may share: no question is paid twice.

What a model says for good is kept, under these decoding settings: answers, readable or not, and the billed verdicts
that it was cut off by the output limit, blocked by a safety filter, or wrote nothing. Faults that pass are not.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from int_ray.journal import Journal, read_records
from int_ray.oracles.chat import Answer, Fault, FaultName
from int_ray.types import Attempt


@dataclass(frozen=True, slots=True)
class PaidAnswer:
    """An answer or a final fault, what it had cost, and under which key it is found again."""

    key: str
    text: str
    input_tokens: int
    output_tokens: int
    cost: float
    fault: FaultName | None = None  # a final one

    @classmethod
    def of(cls, key: str, result: Answer | Fault, cost: float) -> PaidAnswer | Fault:
        """What is kept of a result; a fault that passes stays what it is."""
        text, fault = "", None
        if isinstance(result, Answer):
            text = result.text.encode("utf-8", "replace").decode()  # half a surrogate pair can be neither kept nor sent
        elif result.is_final:
            fault = result.name
        else:
            return result
        return cls(key, text, result.input_tokens, result.output_tokens, cost, fault)

    @property
    def result(self) -> Answer | Fault:
        """What was kept."""
        tokens = (self.input_tokens, self.output_tokens)
        return Answer(self.text, *tokens) if self.fault is None else Fault(self.fault, "", None, *tokens)


class AnswerCache:
    """`oracle_answers.jsonl`, held in memory; lines that another process adds are seen at the next start."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        answers, self.unreadable = read_records(path, PaidAnswer)
        self._answers = {answer.key: answer for answer in answers}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._journal = Journal(path)

    def alone(self, key: str) -> asyncio.Lock:
        """Held by whoever asks a question, so that an equal question at the same time finds the answer."""
        return self._locks.setdefault(key, asyncio.Lock())

    def get(self, key: str) -> PaidAnswer | None:
        """The answer, if it was paid."""
        return self._answers.get(key)

    def put(self, answer: PaidAnswer) -> None:
        """Keep an answer; on disk when this returns."""
        self._journal.write("answer", **asdict(answer))
        self._answers[answer.key] = answer

    def close(self) -> None:
        """Close the file."""
        self._journal.close()


def question_key(
    attempt: Attempt, prompt_hash: str, model: str, settings: Mapping[str, Any], sample: int, answers: Sequence[str]
) -> str:
    """SHA-256 (hex) of all that an answer depends on; `answers` are those to the earlier turns of the chat."""
    ids = attempt.rollout.completion.token_ids.tolist()
    parts = [attempt.problem.id, ids, prompt_hash, model, settings, sample, list(answers)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
