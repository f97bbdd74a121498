"""How an oracle that is a language model is talked to: a request, and an answer or a named fault.

Faults are data, since they cross process borders and since most of them are tolerated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

FaultName = Literal[
    "rate_limited",  # 429
    "server_error",  # 5xx
    "timeout",
    "unreachable",  # no connection was made, so nothing was sent
    "connection",  # reset, broken off in mid-body
    "not_json",  # the server's answer is no JSON, or half of one
    "empty",  # an answer without text
    "blocked",  # refused by a safety filter
    "cut_off",  # the output limit ended the answer
    "unauthorized",  # 401
    "forbidden",  # 403
    "unknown_model",  # 404
    "no_credit",  # 402
    "option_refused",  # 400, 422 about an option that is left out from now on
    "bad_request",  # any other 4xx
    # Nothing was sent:
    "circuit_open",  # too many requests failed in a row
    "over_budget",
    "over_problem_budget",
]
RETRIED: frozenset[FaultName] = frozenset(
    {"rate_limited", "server_error", "timeout", "unreachable", "connection", "not_json", "empty", "option_refused"}
)
FINAL: frozenset[FaultName] = frozenset({"cut_off", "blocked"})
# The server may have answered and billed what never arrived here.
UNKNOWN_BILL: frozenset[FaultName] = frozenset({"timeout", "connection", "not_json"})
FATAL: frozenset[FaultName] = frozenset({"unauthorized"})
# Trying again at once is no use, later may be: these may last, or lie in one request alone (a gateway's 403).
LASTING: frozenset[FaultName] = frozenset({"forbidden", "unknown_model", "no_credit"})
UNSENT: frozenset[FaultName] = frozenset({"circuit_open", "over_budget", "over_problem_budget"})
# Replies with these failures mean that, for now, the oracle cannot be asked about anything (oracle.on_outage).
OUTAGES: frozenset[FaultName] = frozenset({*FATAL, "no_credit", "circuit_open", "over_budget"})


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question; `sample` tells apart repeated questions. With a `schema` (JSON schema) the answer is JSON."""

    messages: tuple[Message, ...]
    sample: int = 0
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote, and what is billed for it."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0  # thinking included


@dataclass(frozen=True, slots=True)
class Fault:
    """Why there is no answer. `detail` is one line for people and holds no secret."""

    name: FaultName
    detail: str = ""
    retry_after_s: float | None = None  # what the server asked for
    input_tokens: int = 0  # billed all the same
    output_tokens: int = 0

    @property
    def is_retried(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.name in RETRIED and not self.is_final

    @property
    def is_final(self) -> bool:
        """Whether it is what the model has to say, and billed as such: asking once more would change nothing."""
        return self.name in FINAL or (self.name == "empty" and self.output_tokens > 0)

    @property
    def is_fatal(self) -> bool:
        """Whether no request at all can succeed."""
        return self.name in FATAL


class ChatModel(Protocol):
    """A language model behind an API, or the policy. One call is one request on the wire: no retries inside."""

    name: str  # such as gemini-2.5-pro
    settings: Mapping[str, Any]  # decoding settings that an answer depends on; part of the cache key
    cacheable: bool  # whether the same request to the same name would mean the same model tomorrow

    async def check(self) -> Fault | None:
        """Whether key and model are accepted, without paying for an answer."""
        ...

    async def ask(self, request: ChatRequest) -> Answer | Fault:
        """One answer or fault; within the model's deadline, and never an exception for what a server does."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked about one attempt.

    `turns` are user messages in order; the answers to all but the last are only context for the last one.
    """

    name: str  # name and version, such as math-1
    turns: tuple[str, ...]
    schema: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()  # such as attempt_trimmed or fence_stripped, counted
