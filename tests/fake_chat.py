"""A language model and a prompt template for tests of what stands between them and an oracle's replies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from int_ray.oracles.chat import Answer, ChatRequest, Fault, FaultName, Prompt
from int_ray.types import Attempt, Category, OracleReply, Proposal

Say = Callable[[ChatRequest], Answer | Fault]


class FakeModel:
    """Answers by a function, or the given answers and faults in turn; the last of them stays."""

    def __init__(
        self,
        say: Say | Iterable[Answer | Fault],
        *,
        name: str = "fake-model",
        takes_s: float = 1.0,
        cacheable: bool = True,
        checks: Iterable[Fault | None] = (None,),
    ):
        self.name = name
        self.settings: Mapping[str, Any] = {"temperature": 1.0}
        self.cacheable = cacheable
        self.takes_s = takes_s
        self.requests: list[ChatRequest] = []
        self.started_at: list[float] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._say = say if callable(say) else _in_turn(say)
        self._checks = _in_turn(checks)

    async def check(self) -> Fault | None:
        return self._checks(None)

    async def ask(self, request: ChatRequest) -> Answer | Fault:
        self.requests.append(request)
        self.started_at.append(asyncio.get_running_loop().time())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(self.takes_s)
        self.in_flight -= 1
        return self._say(request)

    async def close(self) -> None:
        pass


def _in_turn(results: Iterable[Any]) -> Callable[[Any], Any]:
    left = list(results)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


class FakeTemplate:
    """Answers read as `location: content`, `none` for no error, anything else as a refused reply."""

    notes: tuple[str, ...] = ()

    def compose(self, attempt: Attempt, *, solve_first: bool, structured: bool, max_attempt_tokens: int) -> Prompt:
        text = f"{attempt.problem.id}|{attempt.rollout.completion.text}|{max_attempt_tokens}"
        turns = (f"solve {text}", f"compare {text}") if solve_first else (f"compare {text}",)
        return Prompt("fake-1", turns, {"type": "object"} if structured else None, self.notes)

    def read(self, attempt: Attempt, text: str) -> OracleReply:
        if text == "none":
            return OracleReply(failure="no_error", log="all is well")
        location, _, content = text.partition(": ")
        if not location.isdigit():
            return OracleReply(failure="no_json")
        return OracleReply((Proposal(int(location), content),), log=f"log of {content}")

    def categorize(self, attempt: Attempt, log: str, *, max_attempt_tokens: int) -> Prompt | None:
        return Prompt("fake-category-1", (f"category? {log}",)) if log else None

    def read_category(self, text: str) -> Category | None:
        return next((category for category in get_args(Category) if category == text), None)


def answer(text: str = "1: 12+5=17", input_tokens: int = 100, output_tokens: int = 20) -> Answer:
    return Answer(text, input_tokens, output_tokens)


def fault(name: FaultName, **details: Any) -> Fault:
    return Fault(name, f"{name} happened", **details)
