"""A language model that is asked no question twice, never beyond the budget, and with patience.

Order for one question: cache; then for every try pace, budget, the request, cache, ledger.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace

from int_ray.oracle_config import OracleConfig
from int_ray.oracles.answer_cache import AnswerCache, PaidAnswer, question_key
from int_ray.oracles.chat import Answer, ChatModel, ChatRequest, Fault, Message, Prompt
from int_ray.oracles.patience import Patience
from int_ray.oracles.prompts import prompt_hash
from int_ray.oracles.spending import Call, Ledger
from int_ray.types import Attempt

MESSAGE_TOKENS = 16  # what a chat template may put around one message


@dataclass(frozen=True, slots=True)
class Question:
    """One turn of a chat about an attempt: the one after the turns that `answers` belong to."""

    attempt: Attempt
    prompt: Prompt
    sample: int = 0
    answers: tuple[str, ...] = ()

    @property
    def request(self) -> ChatRequest:
        """The chat so far, ending in this turn; the schema is for the last turn only."""
        messages: list[Message] = []
        for turn, answer in zip(self.prompt.turns, self.answers, strict=False):
            messages += [Message("user", turn), Message("assistant", answer)]
        messages.append(Message("user", self.prompt.turns[len(self.answers)]))
        is_last = len(self.answers) == len(self.prompt.turns) - 1
        return ChatRequest(tuple(messages), self.sample, self.prompt.schema if is_last else None)


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of a question, what that cost, and whether it had been paid before."""

    result: Answer | Fault
    cost: float
    cached: bool = False


class PaidChat:
    """One model with its budget, cache and patience; at most `config.concurrency` questions at a time."""

    def __init__(
        self,
        kind: str,
        model: ChatModel,
        max_output_tokens: int,
        config: OracleConfig,
        ledger: Ledger,
        cache: AnswerCache,
    ) -> None:
        """`max_output_tokens`: the most that the model writes in one turn, thinking included."""
        self.kind = kind
        self.model = model
        self.max_output_tokens = max_output_tokens
        self.ledger = ledger
        self.cache = cache
        self.patience = Patience(config.limits)
        self._gate = asyncio.Semaphore(config.concurrency)

    async def ask(self, question: Question) -> Heard:
        """The answer, from the cache or paid; or why there is none, with the bill of the last try."""
        key = question_key(
            question.attempt,
            prompt_hash(question.prompt),
            self.model.name,
            self.model.settings,
            question.sample,
            question.answers,
        )
        call = Call(self.kind, self.model.name, question.attempt.problem.id, key)
        if not self.model.cacheable:
            return await self._pay(call, question.request)
        async with self.cache.alone(key):
            found = self.cache.get(key)
            if found is None:
                return await self._pay(call, question.request)
        self.ledger.found(
            replace(call, input_tokens=found.input_tokens, output_tokens=found.output_tokens, cost=found.cost)
        )
        return Heard(found.result, found.cost, cached=True)

    async def _pay(self, call: Call, request: ChatRequest) -> Heard:
        """Ask the model itself, with retries."""
        input_tokens = input_bound(request)
        cost = self.ledger.cost(call.model, input_tokens, self.max_output_tokens)
        bound = replace(call, input_tokens=input_tokens, output_tokens=self.max_output_tokens, cost=cost)

        async def send(nth_try: int) -> PaidAnswer | Fault:
            return await self._send(replace(bound, nth_try=nth_try), request)

        async with self._gate:
            # Looked at before a turn is waited for: at a slow pace, many refusals would take long.
            paid = self.ledger.refusal(bound) or await self.patience.ask(send)
        if isinstance(paid, PaidAnswer):
            return Heard(paid.result, paid.cost)
        return Heard(paid, self.ledger.cost(call.model, paid.input_tokens, paid.output_tokens))

    async def _send(self, bound: Call, request: ChatRequest) -> PaidAnswer | Fault:
        """One call within the budget."""
        call = await self.ledger.reserve(bound)
        if isinstance(call, Fault):
            return call
        self.ledger.start(call)
        result = await self.model.ask(request)
        cost = self.ledger.cost(call.model, result.input_tokens, result.output_tokens)
        paid = PaidAnswer.of(call.key, result, cost)
        if isinstance(paid, PaidAnswer) and self.model.cacheable:
            self.cache.put(paid)  # before the call counts as ended, so that no crash can lose what was paid
        self.ledger.end(call, result)
        return paid


def input_bound(request: ChatRequest) -> int:
    """Most tokens that a request can have: tokenizers make no more of a text than it has bytes."""
    texts = [message.content for message in request.messages]
    texts += [json.dumps(request.schema)] if request.schema is not None else []
    return sum(len(text.encode("utf-8", "replace")) + MESSAGE_TOKENS for text in texts)
