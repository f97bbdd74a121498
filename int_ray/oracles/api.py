"""What the API models share: keys from the environment, and what servers do as faults that hold no secret."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from int_ray.errors import RunError
from int_ray.oracle_config import OracleConfig, OracleKindName
from int_ray.oracles.chat import Fault, FaultName

if TYPE_CHECKING:
    from httpx2 import Response

APIS: tuple[OracleKindName, ...] = ("gemini", "openai")
LONGEST_DETAIL = 300  # characters of what a server said
CHECK_DEADLINE_S = 30.0  # looking up a model is quick, unlike an answer


class Body(BaseModel):
    """JSON from a server: what is not named here is ignored, what is named must have the right type.

    Names may be in Google's camelCase; null is the same as nothing.
    """

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def without_nulls(cls, data: Any) -> Any:
        """What the server did say."""
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class ErrorDetail(Body):
    """One of Google's machine-readable details."""

    reason: str = ""
    retry_delay: str = ""  # such as 37s


class ApiError(Body):
    """What Google's and OpenAI's error bodies say under `error`."""

    message: str = ""
    param: str = ""  # OpenAI's: the option that is wrong
    status: str = ""
    details: tuple[ErrorDetail, ...] = ()


class ErrorBody(Body):
    """The body of a refused request."""

    error: ApiError


def api_mistakes(config: OracleConfig, *, with_keys: bool) -> list[str]:
    """One line for each model or key that a used API lacks; empty if there is none.

    Keys are looked up in this process, which is where a Ray that is not there yet takes its environment from;
    `with_keys=False` is for one that runs elsewhere.
    """
    mistakes = []
    for kind in sorted({config.kind, *config.fallback} & set(APIS)):
        section = config.gemini if kind == "gemini" else config.openai
        if not section.model:
            mistakes.append(f"oracle.{kind}.model: required for this kind of oracle, but not set")
        if with_keys:
            try:
                read_key(section.api_key_env)
            except RunError as error:
                mistakes.append(f"oracle.{kind}.api_key_env: {error}")
    return mistakes


def address_mistakes(config: OracleConfig) -> list[str]:
    """One line for each unusable base_url, in use or not: the run folder gets a copy of all of them."""
    mistakes = []
    for kind, url in (("gemini", config.gemini.base_url), ("openai", config.openai.base_url)):
        if url and re.search("[@?#]", url):  # do not quote it: it may hold a password or a key
            mistakes.append(
                f"oracle.{kind}.base_url: must be an address alone, with no user, password or query in it; "
                f"oracle.{kind}.api_key_env names the environment variable with the key"
            )
        elif url and not url.startswith(("http://", "https://")):
            mistakes.append(f"oracle.{kind}.base_url: must begin with http:// or https://, got {url!r}")
    return mistakes


def read_key(variable: str | None) -> str:
    """The key in an environment variable, empty for `variable=None`. Raises RunError, which never quotes a key."""
    if variable is None:
        return ""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):  # do not quote it: it may be the key itself
        raise RunError("expected the NAME of an environment variable, in capitals, such as GEMINI_API_KEY; never a key")
    key = os.environ.get(variable, "").strip()
    if not key:
        raise RunError(f"the environment variable {variable} is not set; export it with the API key")
    if not re.fullmatch(r"[!-~]+", key):  # HTTP libraries would quote it when they refuse it as a header
        raise RunError(f"the environment variable {variable} holds characters that no API key has; set it anew")
    return key


def one_line(text: str, key: str) -> str:
    """The beginning of a text as one printable line, with every `key` in it hidden."""
    if key:
        text = text.replace(key, "[key]")
    printable = (character if character.isprintable() else " " for character in text[: 10 * LONGEST_DETAIL])
    return " ".join("".join(printable).split())[:LONGEST_DETAIL]


def read_error(response: Response) -> ApiError:
    """The error in a body of either format; any other body is its message."""
    try:
        return ErrorBody.model_validate_json(response.content).error
    except ValidationError:
        return ApiError(message=response.content.decode(errors="replace"))


def status_fault(response: Response, key: str) -> Fault:
    """A response other than 200 as a fault."""
    error = read_error(response)
    name = fault_name(response.status_code)
    if any(detail.reason == "API_KEY_INVALID" for detail in error.details):
        name = "unauthorized"  # Google says 400
    retry_after_s = retry_after(response.headers, error)
    return Fault(name, one_line(f"HTTP {response.status_code}: {error.message}", key), retry_after_s)


def fault_name(status: int) -> FaultName:
    """The fault of an HTTP status other than 200."""
    names: Mapping[int, FaultName] = {
        401: "unauthorized",
        402: "no_credit",
        403: "forbidden",
        404: "unknown_model",
        408: "timeout",
        429: "rate_limited",
    }
    if status < 400:
        return "not_json"
    return names.get(status, "bad_request" if status < 500 else "server_error")


def retry_after(headers: Mapping[str, str], error: ApiError) -> float | None:
    """Seconds that the server asks to wait, by header (a number or a date) or Google's RetryInfo; else None."""
    delays = [detail.retry_delay.removesuffix("s") for detail in error.details]
    for asked in [headers.get("retry-after", ""), *delays]:
        if re.fullmatch(r"\d{1,9}(\.\d+)?", asked):
            return float(asked)
        try:
            date = parsedate_to_datetime(asked)
        except (ValueError, OverflowError):
            continue
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    return None


def transport_fault(error: BaseException | None, key: str) -> Fault:
    """No whole response at all: `error` is a TimeoutError or from httpx2, on which both client libraries build."""
    from httpx2 import ConnectError, TimeoutException

    if isinstance(error, TimeoutError | TimeoutException):
        return Fault("timeout", "no answer within the deadline")
    name = "unreachable" if isinstance(error, ConnectError) else "connection"
    return Fault(name, one_line(f"{type(error).__name__} {error}", key))


def unreadable(body: str, key: str) -> Fault:
    """A 200 whose body is not what the API promises: HTML, half of a JSON text, another shape."""
    return Fault("not_json", one_line(f"not an answer: {body}", key))
