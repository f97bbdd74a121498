"""What only Gemini has; test_api_models.py holds what every API model must do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from int_ray.oracle_config import GeminiConfig
from int_ray.oracles.chat import Answer, ChatRequest, Fault, Message
from int_ray.oracles.gemini import BLOCKED, GeminiModel
from tests.wire_servers import GeminiServer, Response

KEY = "canary-4f1d-Key_9"
QUESTION = ChatRequest((Message("user", "17-3"),))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GeminiServer]:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with GeminiServer(answer=lambda prompt: "14", key=KEY) as server:
        yield server


def ask(server: GeminiServer, times: int = 1, **settings: object) -> list[Answer | Fault]:
    config = GeminiConfig.model_validate({"base_url": server.url, **settings})

    async def run() -> list[Answer | Fault]:
        model = GeminiModel(config, deadline_s=10.0)
        outcomes = [await model.ask(QUESTION) for _ in range(times)]
        await model.close()
        return outcomes

    return asyncio.run(run())


def test_the_key_is_in_a_header_and_in_no_url_or_log(server: GeminiServer, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    ask(server)
    (request,) = server.requests
    assert request.headers["x-goog-api-key"] == KEY
    assert request.path.endswith("/models/gemini-2.5-pro:generateContent")
    assert "generateContent" in caplog.text
    assert KEY not in caplog.text


def test_variables_of_the_library_do_not_redirect_the_run(server: GeminiServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GOOGLE_API_KEY", "another")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "another")
    (answer,) = ask(server)
    assert isinstance(answer, Answer)


def test_only_the_config_says_where_keys_and_rollouts_go(server: GeminiServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
    model = GeminiModel(GeminiConfig(), deadline_s=10.0)
    options = model._client._api_client._http_options
    assert options.base_url == "https://generativelanguage.googleapis.com/"
    asyncio.run(model.close())


def test_one_version_of_the_api_is_spoken_whatever_the_environment_says(
    server: GeminiServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GOOGLE_GENAI_API_VERSION", "v1")
    (answer,) = ask(server)
    assert isinstance(answer, Answer)
    assert server.requests[0].path.startswith("/v1beta/")


def test_decoding_settings_are_sent_and_nothing_else(server: GeminiServer):
    ask(server, thinking_budget=128, temperature=0.25, max_output_tokens=99)
    ask(server)
    with_budget, plain = (request.body["generationConfig"] for request in server.questions)
    thinking = with_budget.pop("thinkingConfig")
    assert list(thinking.values()) == [128]
    assert with_budget == {"temperature": 0.25, "maxOutputTokens": 99, "seed": 0}
    assert plain == {"temperature": 1.0, "maxOutputTokens": 32768, "seed": 0}
    assert all(request.body.keys() == {"contents", "generationConfig"} for request in server.questions)


def test_thoughts_are_billed_but_not_part_of_the_answer(server: GeminiServer):
    body = server.reply("14")
    body["candidates"][0]["content"]["parts"] = [{"text": "hmm", "thought": True}, {"text": "1"}, {"text": "4"}]
    body["usageMetadata"] = {"promptTokenCount": 5, "candidatesTokenCount": 2, "thoughtsTokenCount": 30}
    server.faults.append(Response(body))
    assert ask(server) == [Answer("14", input_tokens=5, output_tokens=32)]


def test_a_refused_prompt_and_every_filter_are_blocked(server: GeminiServer):
    server.faults.append(server.blocked_prompt())
    for reason in sorted(BLOCKED):
        server.faults.append(Response({"candidates": [{"finishReason": reason}]}))
    outcomes = ask(server, times=1 + len(BLOCKED))
    assert {getattr(outcome, "name", None) for outcome in outcomes} == {"blocked"}
    assert outcomes[0] == Fault("blocked", "the prompt: SAFETY", input_tokens=7)


@pytest.mark.parametrize("reason", ["OTHER", "MALFORMED_FUNCTION_CALL", "CONTINUATION", "A_NEW_ONE"])
def test_any_other_end_is_no_answer_and_is_not_prolonged(server: GeminiServer, reason: str):
    body = server.reply("half of")
    body["candidates"][0] |= {"finishReason": reason, "continuationToken": "dG9rZW4="}
    server.faults.append(Response(body))
    (outcome,) = ask(server)
    assert isinstance(outcome, Fault)
    assert (outcome.name, outcome.detail) == ("empty", f"finish reason {reason}")
    assert len(server.requests) == 1


def test_the_wait_that_google_asks_for_is_read_from_the_body(server: GeminiServer):
    server.faults += [server.retry_info("37s"), server.retry_info("0.5s"), server.retry_info("soon")]
    outcomes = ask(server, times=3)
    assert [getattr(outcome, "retry_after_s", 0) for outcome in outcomes] == [37.0, 0.5, None]
