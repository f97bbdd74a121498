"""Real HTTP servers on 127.0.0.1 that speak Gemini's and OpenAI's formats, answer as told, and misbehave on demand.

with GeminiServer(answer=lambda prompt: "42") as server:
    config = GeminiConfig(base_url=server.url)
    server.faults += [server.status(503), server.hang(5), server.flawed("blocked")]  # for the next three questions
    ...
    assert len(server.questions) == 4
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

Flaw = Literal["empty", "blocked", "cut_off"]


@dataclass(frozen=True)
class Request:
    """What a client sent; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any  # parsed JSON; None of a GET


@dataclass(frozen=True)
class Response:
    """What goes back; `body` that is not bytes becomes JSON."""

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    delay_s: float = 0.0
    reset: bool = False  # the connection is reset after half of the body

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class WireServer(ABC):
    """What both formats share. With a `key` it refuses others; with `models` it knows no others."""

    def __init__(
        self,
        answer: Callable[[str], str],
        *,
        key: str | None = None,
        models: tuple[str, ...] | None = None,
        lists_models: bool = True,
    ) -> None:
        self.answer = answer  # whole conversation -> the answer's text
        self.key = key
        self.models = models
        self.lists_models = lists_models  # False: a gateway that can only be asked
        self.faults: deque[Response] = deque()  # responses to the next questions
        self.outage: Response | None = None  # the response to everything, while it lasts
        self.requests: list[Request] = []
        self.closing = threading.Event()

    def __enter__(self) -> Self:
        self.http = HttpServer(("127.0.0.1", 0), partial(Handler, self))
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    @property
    def questions(self) -> list[Request]:
        """The requests that ask for an answer, refused ones included."""
        return [request for request in self.requests if request.method == "POST"]

    def respond(self, request: Request) -> Response:
        """The response to one request, and a record of it."""
        self.requests.append(request)
        if self.outage is not None:
            return self.outage
        if self.key is not None and self.given_key(request) != self.key:
            return self.wrong_key()
        if request.method == "GET":
            return self.look_up(request) if self.lists_models else Response({"detail": "Not Found"}, status=404)
        if self.faults:
            return self.faults.popleft()
        if self.models is not None and self.asked_model(request) not in self.models:
            return self.unknown_model()
        return Response(self.reply(self.answer(self.prompt(request)), self.prompt(request)))

    def hang(self, seconds: float) -> Response:
        """An answer that comes late."""
        return Response(self.reply("late"), delay_s=seconds)

    def reset(self) -> Response:
        """A connection that breaks off in mid-body."""
        return Response(self.reply("never whole"), reset=True)

    def html(self, status: int = 200) -> Response:
        """A gateway's own page."""
        return Response(b"<html><body><h1>Bad gateway</h1></body></html>", status, content_type="text/html")

    def truncated(self) -> Response:
        """Half of the JSON, as if that were all of it."""
        content = Response(self.reply("half of it")).content
        return Response(content[: len(content) // 2])

    def flawed(self, flaw: Flaw) -> Response:
        """An answer without text, or one that a filter or the output limit ended."""
        return Response(self.reply("an unfinished", flaw=flaw))

    # Each format:

    @abstractmethod
    def given_key(self, request: Request) -> str: ...

    @abstractmethod
    def asked_model(self, request: Request) -> str: ...

    @abstractmethod
    def prompt(self, request: Request) -> str:
        """The text of all turns."""
        ...

    @abstractmethod
    def reply(self, text: str, prompt: str = "", flaw: Flaw | None = None) -> dict[str, Any]:
        """The body that carries an answer."""
        ...

    @abstractmethod
    def look_up(self, request: Request) -> Response:
        """What a GET finds out about models."""
        ...

    @abstractmethod
    def status(self, status: int, message: str = "try again later", **headers: str) -> Response:
        """A refusal; `retry_after="2"` becomes the header Retry-After."""
        ...

    @abstractmethod
    def wrong_key(self) -> Response: ...

    @abstractmethod
    def unknown_model(self) -> Response: ...


class GeminiServer(WireServer):
    """`POST /v1beta/models/MODEL:generateContent` and `GET /v1beta/models/MODEL`; other versions are not there."""

    def respond(self, request: Request) -> Response:
        if not request.path.startswith("/v1beta/models/"):
            self.requests.append(request)
            return self.html(404)
        return super().respond(request)

    def given_key(self, request: Request) -> str:
        return request.headers.get("x-goog-api-key", "")

    def asked_model(self, request: Request) -> str:
        return request.path.rpartition("/models/")[2].removesuffix(":generateContent")

    def prompt(self, request: Request) -> str:
        return "\n\n".join(part["text"] for content in request.body["contents"] for part in content["parts"])

    def reply(self, text: str, prompt: str = "", flaw: Flaw | None = None) -> dict[str, Any]:
        usage = {
            "promptTokenCount": len(prompt) // 4,
            "candidatesTokenCount": len(text) // 4,
            "thoughtsTokenCount": 10,
            "totalTokenCount": len(prompt) // 4 + len(text) // 4 + 10,
        }
        candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP", "index": 0}
        if flaw == "empty":
            return {"candidates": [], "usageMetadata": usage}
        if flaw == "blocked":
            candidate = {"finishReason": "PROHIBITED_CONTENT", "index": 0}
        if flaw == "cut_off":
            candidate["finishReason"] = "MAX_TOKENS"
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-2.5-pro"}

    def look_up(self, request: Request) -> Response:
        model = self.asked_model(request)
        if self.models is not None and model not in self.models:
            return self.unknown_model()
        return Response({"name": f"models/{model}", "displayName": model, "inputTokenLimit": 1048576})

    def status(self, status: int, message: str = "try again later", **headers: str) -> Response:
        names = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
        error = {"code": status, "message": message, "status": names.get(status, "INTERNAL"), "details": []}
        return Response({"error": error}, status, _header_names(headers))

    def retry_info(self, delay: str) -> Response:
        """A 429 whose body says how long to wait, such as 37s."""
        refusal = self.status(429)
        detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
        return Response({"error": refusal.body["error"] | {"details": [detail]}}, 429)

    def blocked_prompt(self) -> Response:
        """No candidate at all, since the prompt is refused."""
        return Response({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 7}})

    def wrong_key(self) -> Response:
        refusal = self.status(400, "API key not valid. Please pass a valid API key.")
        detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
        return Response({"error": refusal.body["error"] | {"details": [detail]}}, 400)

    def unknown_model(self) -> Response:
        return self.status(404, "models/that is not found for API version v1beta")


class OpenAIServer(WireServer):
    """`POST /v1/chat/completions`, `GET /v1/models` and `GET /v1/models/MODEL`; `unknown` options are refused."""

    def __init__(self, answer: Callable[[str], str], *, unknown: tuple[str, ...] = (), **settings: Any) -> None:
        super().__init__(answer, **settings)
        self.unknown = unknown

    @property
    def url(self) -> str:
        return f"{super().url}/v1"

    def respond(self, request: Request) -> Response:
        refused = [option for option in self.unknown if option in (request.body or {})]
        if refused:
            self.requests.append(request)
            return self.status(400, f"Unknown parameter: '{refused[0]}'.")
        return super().respond(request)

    def given_key(self, request: Request) -> str:
        return request.headers.get("authorization", "").removeprefix("Bearer ")

    def asked_model(self, request: Request) -> str:
        return request.body["model"]

    def prompt(self, request: Request) -> str:
        return "\n\n".join(message["content"] for message in request.body["messages"])

    def reply(self, text: str, prompt: str = "", flaw: Flaw | None = None) -> dict[str, Any]:
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": 10 + len(text) // 4}
        message = {"role": "assistant", "content": None if flaw == "empty" else text, "refusal": None}
        if flaw == "blocked":
            message |= {"content": None, "refusal": "I can't help with that."}
        reason = "length" if flaw == "cut_off" else "stop"
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "any",
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": usage,
        }

    def look_up(self, request: Request) -> Response:
        models = [{"id": name, "object": "model", "created": 1, "owned_by": "test"} for name in self.models or ()]
        if request.path.endswith("/models"):
            return Response({"object": "list", "data": models})
        found = [model for model in models if request.path.endswith(f"/{model['id']}")]
        return Response(found[0]) if found else self.unknown_model()

    def status(self, status: int, message: str = "try again later", **headers: str) -> Response:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        return Response({"error": error}, status, _header_names(headers))

    def wrong_key(self) -> Response:
        return self.status(401, "Incorrect API key provided.")

    def unknown_model(self) -> Response:
        return self.status(404, "The model does not exist or you do not have access to it.")


def _header_names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


class HttpServer(ThreadingHTTPServer):
    """One thread a connection."""

    request_queue_size = 128  # connections that many questions open at once


class Handler(BaseHTTPRequestHandler):
    """Hands requests to a WireServer and puts its responses on the wire."""

    protocol_version = "HTTP/1.1"

    def __init__(self, wire: WireServer, *args: Any) -> None:
        self.wire = wire
        super().__init__(*args)

    def do_GET(self) -> None:
        self.exchange(None)

    def do_POST(self) -> None:
        self.exchange(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def exchange(self, body: Any) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        response = self.wire.respond(Request(self.command, self.path, headers, body))
        self.close_connection = response.reset or self.wire.closing.wait(response.delay_s)
        try:
            self.write(response)
        except ConnectionError:
            self.close_connection = True  # the client did not wait

    def write(self, response: Response) -> None:
        content = response.content
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("content-type", response.content_type)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if response.reset else content)
        if response.reset:
            # Closing with a linger time of 0 sends RST; the socket closes once its reader is closed, too.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        pass
