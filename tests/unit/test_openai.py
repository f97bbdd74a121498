"""What only OpenAI's format has; test_api_models.py holds what every API model must do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from int_ray.oracle_config import OpenAIConfig
from int_ray.oracles.chat import Answer, ChatRequest, Fault, Message
from int_ray.oracles.openai import OpenAIModel
from tests.wire_servers import OpenAIServer, Request, Response

T = TypeVar("T")
KEY = "canary-4f1d-Key_9"
QUESTION = ChatRequest((Message("user", "17-3"),))
STRUCTURED = ChatRequest(QUESTION.messages, sample=2, schema={"type": "object"})


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def fourteen(prompt: str) -> str:
    return "14"


def run(server: OpenAIServer, use: Callable[[OpenAIModel], Awaitable[T]], **settings: object) -> T:
    config = OpenAIConfig.model_validate({"model": "m1", "base_url": server.url, **settings})

    async def run_and_close() -> T:
        model = OpenAIModel(config, deadline_s=10.0)
        result = await use(model)
        await model.close()
        return result

    return asyncio.run(run_and_close())


def ask(server: OpenAIServer, *requests: ChatRequest, **settings: object) -> list[Answer | Fault]:
    async def ask_in_turn(model: OpenAIModel) -> list[Answer | Fault]:
        return [await model.ask(request) for request in requests]

    return run(server, ask_in_turn, **settings)


def check(server: OpenAIServer) -> Fault | None:
    return run(server, lambda model: model.check())


def test_the_key_is_sent_and_not_logged(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    with OpenAIServer(fourteen, key=KEY) as server:
        (answer,) = ask(server, QUESTION)
    assert isinstance(answer, Answer)
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert "chat/completions" in caplog.text
    assert KEY not in caplog.text


def test_without_a_key_none_is_taken_from_elsewhere():
    with OpenAIServer(fourteen, key="EMPTY") as server:
        (answer,) = ask(server, QUESTION, api_key_env=None)
    assert isinstance(answer, Answer)


def test_only_the_config_says_where_keys_and_rollouts_go(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    model = OpenAIModel(OpenAIConfig(model="m1"), deadline_s=10.0)
    assert str(model._client.base_url) == "https://api.openai.com/v1/"
    asyncio.run(model.close())


def test_decoding_settings_are_sent_and_nothing_else():
    with OpenAIServer(fourteen) as server:
        ask(server, QUESTION, STRUCTURED, temperature=0.25, max_output_tokens=99)
    plain, structured = (request.body for request in server.questions)
    assert plain == {
        "model": "m1",
        "messages": [{"role": "user", "content": "17-3"}],
        "temperature": 0.25,
        "max_completion_tokens": 99,
        "seed": 0,
    }
    assert structured["seed"] == 2
    assert structured["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": {"type": "object"}, "strict": True},
    }


def test_a_refused_option_is_left_out_from_then_on_and_told_once(caplog: pytest.LogCaptureFixture):
    with OpenAIServer(fourteen, unknown=("response_format", "seed")) as server:
        first, second, third, fourth = ask(server, *[STRUCTURED] * 4)
    assert isinstance(first, Fault) and isinstance(second, Fault)
    assert first == Fault("option_refused", "HTTP 400: Unknown parameter: 'response_format'.")
    assert second.name == "option_refused" and second.is_retried
    assert third == fourth and isinstance(third, Answer) and third.text == "14"
    sent = [{"response_format", "seed"} & request.body.keys() for request in server.questions]
    assert sent == [{"response_format", "seed"}, {"seed"}, set(), set()]  # one request a question
    assert len([record for record in caplog.records if "going on without" in record.getMessage()]) == 2


@pytest.mark.parametrize(
    ("refusal", "left_out"),
    [
        ({"error": {"message": "Invalid schema", "param": "response_format"}}, "response_format"),
        ({"error": {"message": "Not an integer", "param": "response_format.json_schema"}}, "response_format"),
        ({"error": {"message": "Unrecognized request argument supplied: seed", "param": None}}, "seed"),
        ({"error": {"message": "This response_format type is unavailable now"}}, "response_format"),
        ({"error": {"message": "'json_schema' is not supported by this model."}}, "response_format"),
        ({"error": "this backend does not support seed"}, "seed"),
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "input": 2}]}, "seed"),
    ],
)
def test_refusals_of_options_are_told_apart(refusal: dict[str, object], left_out: str):
    with OpenAIServer(fourteen) as server:
        server.faults.append(Response(refusal, 422))
        refused, answered = ask(server, STRUCTURED, STRUCTURED)
    assert getattr(refused, "name", None) == "option_refused" and isinstance(answered, Answer)
    before, after = (request.body.keys() for request in server.questions)
    assert before - after == {left_out}


ECHO = "{'seed': 2, 'response_format': {'type': 'json_schema'}}"


@pytest.mark.parametrize(
    "error",
    [
        {"message": "the prompt is too long"},
        {"message": f"This model's maximum context length is 4096 tokens. Your request was {ECHO}"},
        {"message": "Input should be shorter; sampling was seed=2", "param": "messages"},
        {"message": "seed is unsupported", "param": "messages"},
    ],
)
def test_a_refusal_of_something_else_changes_nothing(error: dict[str, str]):
    with OpenAIServer(fourteen) as server:
        server.faults.append(Response({"error": error}, 400))
        outcome, answered = ask(server, STRUCTURED, STRUCTURED)
    assert isinstance(outcome, Fault) and isinstance(answered, Answer)
    assert (outcome.name, outcome.detail) == ("bad_request", f"HTTP 400: {error['message']}")
    first, second = (request.body for request in server.questions)
    assert first == second


def test_an_option_that_is_not_sent_cannot_be_left_out():
    with OpenAIServer(fourteen) as server:
        server.faults.append(server.status(400, "response_format is not supported"))
        (outcome,) = ask(server, QUESTION)
    assert isinstance(outcome, Fault)
    assert len(server.requests) == 1


def test_a_server_may_say_less_than_openai():
    with OpenAIServer(fourteen) as server:
        server.faults.append(Response({"choices": [{"message": {"content": "14"}}]}))
        server.faults.append(
            Response({"choices": [{"message": {"content": "14"}, "finish_reason": None}], "usage": None})
        )
        assert ask(server, QUESTION, QUESTION) == [Answer("14"), Answer("14")]


def test_a_content_filter_blocks():
    with OpenAIServer(fourteen) as server:
        body = server.reply("half of")
        body["choices"][0]["finish_reason"] = "content_filter"
        server.faults.append(Response(body))
        (outcome,) = ask(server, QUESTION)
    assert isinstance(outcome, Fault)
    assert outcome.name == "blocked"


def test_an_unknown_model_is_told_with_those_that_the_server_has():
    with OpenAIServer(fourteen, models=("a", "b")) as server:
        assert check(server) == Fault("unknown_model", "the server has no model 'm1'; it has a, b")


def test_a_second_name_of_a_model_is_fine():
    class Aliased(OpenAIServer):
        def look_up(self, request: Request) -> Response:
            return Response({"id": "m1"}) if request.path.endswith("/m1") else super().look_up(request)

    with Aliased(fourteen, models=("vendor/m1",)) as server:
        assert check(server) is None


def test_a_key_that_may_ask_but_not_list_is_fine():
    with OpenAIServer(fourteen) as server:
        server.outage = server.status(403, "You have insufficient permissions. Missing scopes: api.model.read.")
        assert check(server) is None
        server.outage = server.status(403, "Country not supported")
        assert getattr(check(server), "name", None) == "forbidden"
