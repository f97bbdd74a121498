"""Google's Gemini as a chat model (paper, section 4.1)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import NonNegativeInt, ValidationError

from int_ray.oracle_config import GeminiConfig
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
    from google.genai.errors import APIError
    from google.genai.types import GenerateContentConfig
    from httpx2 import Response

T = TypeVar("T")
URL = "https://generativelanguage.googleapis.com/"
API_VERSION = "v1beta"  # where schemas and thinking budgets are documented; gateways know it best, too
# Finish reasons that mean a filter; others beside STOP and MAX_TOKENS are hiccups of the server.
BLOCKED = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "MODEL_ARMOR", "ESCALATION"}


class Part(Body):
    """A piece of text; thoughts are no part of the answer."""

    text: str = ""
    thought: bool = False


class Content(Body):
    """What the model wrote."""

    parts: tuple[Part, ...] = ()


class Candidate(Body):
    """One answer."""

    content: Content = Content()
    finish_reason: str = "STOP"


class PromptFeedback(Body):
    """Why a prompt was refused."""

    block_reason: str = ""


class Usage(Body):
    """Billed tokens."""

    prompt_token_count: NonNegativeInt = 0
    candidates_token_count: NonNegativeInt = 0
    thoughts_token_count: NonNegativeInt = 0


class Reply(Body):
    """The body of an answered request."""

    candidates: tuple[Candidate, ...] = ()
    prompt_feedback: PromptFeedback = PromptFeedback()
    usage_metadata: Usage = Usage()

    @property
    def text(self) -> str:
        """The first candidate's text without its thoughts."""
        return "".join(part.text for part in self.candidates[0].content.parts if not part.thought)


class GeminiModel:
    """Implements ChatModel. Of the library's own ways to repeat or prolong a request, none is left on."""

    cacheable = True

    def __init__(self, config: GeminiConfig, deadline_s: float) -> None:
        """Read the key from the environment. Raises RunError without one."""
        from google import genai
        from google.genai import types
        from httpx2 import AsyncClient

        self.name = config.model
        self.settings: Mapping[str, Any] = config.model_dump(
            include={"temperature", "max_output_tokens", "thinking_budget"}
        )
        self.deadline_s = deadline_s
        self._config = config
        self._key = read_key(config.api_key_env)
        # Given a client, the library does not take aiohttp, with which it repeats broken requests whatever one sets.
        self._http = AsyncClient()
        options = types.HttpOptions(
            base_url=config.base_url or URL,  # or else the library takes both from the environment
            api_version=API_VERSION,
            timeout=round(1000 * deadline_s),  # ms; the server is told, too
            retry_options=types.HttpRetryOptions(attempts=1),
            httpx_async_client=self._http,
        )
        self._client = genai.Client(vertexai=False, api_key=self._key, http_options=options)

    async def check(self) -> Fault | None:
        """Look the model up, which costs nothing. A gateway without that endpoint says nothing about the model."""
        from google.genai.errors import ClientError

        async def look_up() -> None:
            try:
                await self._client.aio.models.get(model=self.name)
            except ClientError as error:
                if error.code != 404 or read_error(_response(error)).status == "NOT_FOUND":
                    raise

        fault = await self._within(CHECK_DEADLINE_S, look_up())
        return None if fault is None or fault.name in ("bad_request", "not_json") else fault

    async def ask(self, request: ChatRequest) -> Answer | Fault:
        """One request, one answer or fault."""
        from google.genai import types

        contents: list[Any] = [
            types.Content(
                role="model" if message.role == "assistant" else "user", parts=[types.Part(text=message.content)]
            )
            for message in request.messages
        ]
        response = await self._within(
            self.deadline_s,
            self._client.aio.models.generate_content(
                model=self.name, contents=contents, config=self._generation(request)
            ),
        )
        if isinstance(response, Fault):
            return response
        http = response.sdk_http_response
        return self._read((http and http.body) or "")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _generation(self, request: ChatRequest) -> GenerateContentConfig:
        from google.genai import types

        budget = self._config.thinking_budget
        return types.GenerateContentConfig(
            temperature=self._config.temperature,
            max_output_tokens=self._config.max_output_tokens,
            seed=request.sample,
            thinking_config=None if budget is None else types.ThinkingConfig(thinking_budget=budget),
            response_mime_type=None if request.schema is None else "application/json",
            response_json_schema=request.schema,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            automatic_continuation=False,
            should_return_http_response=True,  # the body as it came: `Reply` is stricter and never raises for its size
        )

    async def _within(self, deadline_s: float, call: Awaitable[T]) -> T | Fault:
        """The call's result, or what went wrong on the wire."""
        from google.genai.errors import APIError
        from httpx2 import HTTPError

        try:
            async with asyncio.timeout(deadline_s):
                return await call
        except APIError as error:
            return status_fault(_response(error), self._key)
        except (TimeoutError, HTTPError) as error:
            return transport_fault(error, self._key)
        except (ValueError, RecursionError) as error:  # from the library's reading of bodies
            return unreadable(f"{type(error).__name__}: {error}", self._key)

    def _read(self, body: str) -> Answer | Fault:
        try:
            reply = Reply.model_validate_json(body)
        except ValidationError:
            return unreadable(body, self._key)
        usage = reply.usage_metadata
        tokens = {
            "input_tokens": usage.prompt_token_count,
            "output_tokens": usage.candidates_token_count + usage.thoughts_token_count,
        }
        flaw = _flaw(reply)
        if flaw is None:
            return Answer(reply.text, **tokens)
        name, reason = flaw
        return Fault(name, one_line(reason, self._key), **tokens)


def _flaw(reply: Reply) -> tuple[FaultName, str] | None:
    """Why a reply holds no whole answer; None if it does."""
    if reply.prompt_feedback.block_reason:
        return "blocked", f"the prompt: {reply.prompt_feedback.block_reason}"
    if not reply.candidates:
        return "empty", "no candidates"
    reason = reply.candidates[0].finish_reason
    if reason == "MAX_TOKENS":
        return "cut_off", reason
    if reason in BLOCKED:
        return "blocked", reason
    is_whole = reason in ("STOP", "FINISH_REASON_UNSPECIFIED") and reply.text.strip()
    return None if is_whole else ("empty", f"finish reason {reason}")


def _response(error: APIError) -> Response:
    return cast("Response", error.response)  # the library's type names every HTTP client; the model brought httpx2
