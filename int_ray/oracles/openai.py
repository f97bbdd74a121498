"""Any server that speaks OpenAI's chat completions, as a chat model."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import NonNegativeInt, ValidationError

from int_ray.oracle_config import OpenAIConfig
from int_ray.oracles.api import (
    CHECK_DEADLINE_S,
    Body,
    one_line,
    read_error,
    read_key,
    status_fault,
    transport_fault,
    unreadable,
)
from int_ray.oracles.chat import Answer, ChatRequest, Fault, FaultName

if TYPE_CHECKING:
    from httpx2 import Response

T = TypeVar("T")
URL = "https://api.openai.com/v1"
logger = logging.getLogger(__name__)
# Options that a server may not know, how its 400 or 422 then speaks of them, and what it says beside their names.
OPTIONAL = {"response_format": r"response.?format|json.?schema", "seed": r"\bseed\b"}
REFUSAL = r"unknown|unsupported|not\s(?:yet\s)?support|unrecogni[sz]ed|unexpected|unavailable|\bextra"
BESIDE = r"[^.;{}]{0,40}"


class Message(Body):
    """What the model wrote."""

    content: str = ""
    refusal: str = ""


class Choice(Body):
    """One answer."""

    message: Message
    finish_reason: str = "stop"


class Usage(Body):
    """Billed tokens; thinking is part of the completion."""

    prompt_tokens: NonNegativeInt = 0
    completion_tokens: NonNegativeInt = 0


class Reply(Body):
    """The body of an answered request."""

    choices: tuple[Choice, ...]
    usage: Usage = Usage()


class ListedModel(Body):
    """One model of a server."""

    id: str


class ModelList(Body):
    """What a server says it has."""

    data: tuple[ListedModel, ...]


class OpenAIModel:
    """Implements ChatModel. An option that the server refuses is a retried fault, and left out from then on."""

    cacheable = True

    def __init__(self, config: OpenAIConfig, deadline_s: float) -> None:
        """Read the key from the environment. Raises RunError without one, unless the config says there is none."""
        from openai import AsyncOpenAI

        self.name = config.model
        # Servers give their models names as they please, so the server is part of what an answer depends on.
        self.settings: Mapping[str, Any] = config.model_dump(include={"temperature", "max_output_tokens", "base_url"})
        self.deadline_s = deadline_s
        self._config = config
        self._key = read_key(config.api_key_env)
        self._left_out: set[str] = set()
        self._client = AsyncOpenAI(
            api_key=self._key or "EMPTY",
            base_url=config.base_url or URL,  # or else the library takes it from the environment
            max_retries=0,
            timeout=deadline_s,
        )

    async def check(self) -> Fault | None:
        """Look the model up, which costs nothing. A server that has no list of models says nothing about this one."""
        fault = await self._within(CHECK_DEADLINE_S, self._look_up())
        return None if fault is None or fault.name in ("bad_request", "not_json") else fault

    async def ask(self, request: ChatRequest) -> Answer | Fault:
        """One request, one answer or fault."""
        return await self._within(self.deadline_s, self._complete(request))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _complete(self, request: ChatRequest) -> Answer | Fault:
        from openai import APIStatusError

        messages: list[Any] = [{"role": message.role, "content": message.content} for message in request.messages]
        options = self._options(request)
        try:
            response = await self._client.chat.completions.with_raw_response.create(
                model=self.name,
                messages=messages,
                temperature=self._config.temperature,
                max_completion_tokens=self._config.max_output_tokens,
                **options,
            )
        except APIStatusError as error:
            refused = _refused_options(error.response) & options.keys()
            if not refused:
                raise
            return self._leave_out(refused, error.response)
        return self._read(response.content)

    def _options(self, request: ChatRequest) -> dict[str, Any]:
        options: dict[str, Any] = {"seed": request.sample}
        if request.schema is not None:
            schema = {"name": "reply", "schema": request.schema, "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {name: value for name, value in options.items() if name not in self._left_out}

    def _leave_out(self, refused: set[str], response: Response) -> Fault:
        """From now on; of many requests in flight, the first one tells."""
        reason = one_line(f"HTTP {response.status_code}: {read_error(response).message}", self._key)
        if not refused <= self._left_out:
            self._left_out |= refused
            names = ", ".join(sorted(refused))
            logger.warning("%s: going on without %s, which the server refuses: %s", self.name, names, reason)
        return Fault("option_refused", reason)

    def _read(self, body: bytes) -> Answer | Fault:
        try:
            reply = Reply.model_validate_json(body)
        except ValidationError:
            return unreadable(body.decode(errors="replace"), self._key)
        tokens = {"input_tokens": reply.usage.prompt_tokens, "output_tokens": reply.usage.completion_tokens}
        flaw = _flaw(reply)
        if flaw is None:
            return Answer(reply.choices[0].message.content, **tokens)
        name, reason = flaw
        return Fault(name, one_line(reason, self._key), **tokens)

    async def _look_up(self) -> Fault | None:
        from openai import NotFoundError, PermissionDeniedError

        models = self._client.models.with_raw_response
        try:
            listed = ModelList.model_validate_json((await models.list()).content)
        except (NotFoundError, ValidationError):
            return None
        except PermissionDeniedError as error:
            if "missing scopes" in error.response.text.lower():  # a key that may ask, but not list
                return None
            raise
        names = [model.id for model in listed.data]
        if self.name in names:
            return None
        try:
            await models.retrieve(self.name)  # it may be known under a second name
        except NotFoundError:
            known = ", ".join(names[:5]) or "none at all"
            return Fault("unknown_model", one_line(f"the server has no model {self.name!r}; it has {known}", self._key))
        return None

    async def _within(self, deadline_s: float, call: Awaitable[T]) -> T | Fault:
        """The call's result, or what went wrong on the wire."""
        from openai import APIConnectionError, APIStatusError

        try:
            async with asyncio.timeout(deadline_s):
                return await call
        except APIStatusError as error:
            return status_fault(error.response, self._key)
        except APIConnectionError as error:
            return transport_fault(error.__cause__, self._key)
        except TimeoutError as error:
            return transport_fault(error, self._key)


def _flaw(reply: Reply) -> tuple[FaultName, str] | None:
    """Why a reply holds no whole answer; None if it does."""
    if not reply.choices:
        return "empty", "no choices"
    message, reason = reply.choices[0].message, reply.choices[0].finish_reason
    if message.refusal:
        return "blocked", f"refusal: {message.refusal}"
    if reason == "content_filter":
        return "blocked", reason
    if reason == "length":
        return "cut_off", reason
    return None if message.content.strip() else ("empty", f"finish reason {reason}")


def _refused_options(response: Response) -> set[str]:
    """The options that a refusal is about; one that only quotes the request is about none."""
    if response.status_code not in (400, 422):
        return set()
    error = read_error(response)
    if error.param:
        return {error.param.partition(".")[0]}
    return {name for name, pattern in OPTIONAL.items() if _is_refused(pattern, error.message)}


def _is_refused(option: str, message: str) -> bool:
    either_way = rf"(?:{REFUSAL}){BESIDE}(?:{option})|(?:{option}){BESIDE}(?:{REFUSAL})"
    return re.search(either_way, message, re.IGNORECASE) is not None
