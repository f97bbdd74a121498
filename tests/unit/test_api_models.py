"""Both API clients against servers that do everything a server can do."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from int_ray.oracle_config import GeminiConfig, OpenAIConfig, OracleConfig
from int_ray.oracles.api import ApiError, address_mistakes, api_mistakes, retry_after
from int_ray.oracles.chat import Answer, ChatModel, ChatRequest, Fault, FaultName, Message
from int_ray.oracles.gemini import GeminiModel
from int_ray.oracles.openai import OpenAIModel
from tests.wire_servers import GeminiServer, OpenAIServer, Response, WireServer

KEY = "canary-4f1d-Key_9"
QUESTION = ChatRequest((Message("user", "What is 17-3?"),))
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@dataclass
class Api:
    """A server, its client, and the loop that the client lives in."""

    server: WireServer
    make: Callable[[str, float], ChatModel]
    model: ChatModel
    run: Callable[[Coroutine[Any, Any, Any]], Any]

    def ask(self, request: ChatRequest = QUESTION) -> Answer | Fault:
        return self.run(self.model.ask(request))

    def check(self) -> Fault | None:
        return self.run(self.model.check())

    def ask_another(self, url: str, deadline_s: float) -> Answer | Fault:
        async def ask_and_close() -> Answer | Fault:
            model = self.make(url, deadline_s)
            try:
                return await model.ask(QUESTION)
            finally:
                await model.close()

        return self.run(ask_and_close())


def gemini(url: str, deadline_s: float) -> ChatModel:
    return GeminiModel(GeminiConfig(model="m1", base_url=url, api_key_env="CANARY_KEY"), deadline_s)


def openai(url: str, deadline_s: float) -> ChatModel:
    return OpenAIModel(OpenAIConfig(model="m1", base_url=url, api_key_env="CANARY_KEY"), deadline_s)


@pytest.fixture(scope="module", params=[(GeminiServer, gemini), (OpenAIServer, openai)], ids=["gemini", "openai"])
def started(request: pytest.FixtureRequest) -> Iterator[Api]:
    server_type, make = request.param
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner, server_type("<{}>".format) as server:
        patch.setenv("CANARY_KEY", KEY)
        api = Api(server, make, make(server.url, 10.0), runner.run)
        yield api
        runner.run(api.model.close())


@pytest.fixture
def api(started: Api) -> Api:
    """The same server and client for all tests, since clients take long to start; the server forgets the last test."""
    server = started.server
    server.faults.clear()
    server.requests.clear()
    server.key, server.models = KEY, ("m1",)
    server.lists_models, server.outage = True, None
    return started


def test_a_question_is_answered_and_counted(api: Api):
    answer = api.ask()
    assert answer == Answer("<What is 17-3?>", input_tokens=13 // 4, output_tokens=15 // 4 + 10)
    assert len(api.server.requests) == 1


def test_a_conversation_keeps_its_turns_and_roles(api: Api):
    turns = (Message("user", "one"), Message("assistant", "two"), Message("user", "three"))
    answer = api.ask(ChatRequest(turns))
    assert isinstance(answer, Answer)
    assert answer.text == "<one\n\ntwo\n\nthree>"
    body = api.server.requests[0].body
    roles = [turn["role"] for turn in body.get("contents") or body["messages"]]
    assert roles in (["user", "model", "user"], ["user", "assistant", "user"])


def test_many_questions_at_once_get_their_own_answers(api: Api):
    async def ask_all(model: ChatModel) -> list[Answer | Fault]:
        requests = [ChatRequest((Message("user", f"question {i}"),)) for i in range(20)]
        return await asyncio.gather(*map(model.ask, requests))

    answers = api.run(ask_all(api.model))
    assert [getattr(answer, "text", answer) for answer in answers] == [f"<question {i}>" for i in range(20)]


def echo_of_the_key(server: WireServer) -> Response:
    return server.status(400, f"bad\r\n\x1b[31mheader {KEY}\u202e!")


FAULTS: dict[str, tuple[Callable[[WireServer], Response], FaultName]] = {
    "429": (lambda server: server.status(429), "rate_limited"),
    "500": (lambda server: server.status(500), "server_error"),
    "503": (lambda server: server.status(503), "server_error"),
    "a gateway's 502 page": (lambda server: server.html(502), "server_error"),
    "408": (lambda server: server.status(408), "timeout"),
    "reset in mid-body": (lambda server: server.reset(), "connection"),
    "HTML": (lambda server: server.html(), "not_json"),
    "truncated JSON": (lambda server: server.truncated(), "not_json"),
    "another shape": (lambda server: Response([{"text": "42"}]), "not_json"),
    "wrong types": (lambda server: Response({"candidates": 5, "choices": "5"}), "not_json"),
    "no body": (lambda server: Response(), "not_json"),
    "204": (lambda server: Response(status=204), "not_json"),
    "nesting": (lambda server: Response(b"[" * 100_000), "not_json"),
    "no gzip": (lambda server: Response(b"plain", headers={"content-encoding": "gzip"}), "connection"),
    "empty": (lambda server: server.flawed("empty"), "empty"),
    "blank": (lambda server: Response(server.reply(" \n ")), "empty"),
    "blocked": (lambda server: server.flawed("blocked"), "blocked"),
    "cut off": (lambda server: server.flawed("cut_off"), "cut_off"),
    "wrong key": (lambda server: server.wrong_key(), "unauthorized"),
    "401": (lambda server: server.status(401), "unauthorized"),
    "402": (lambda server: server.status(402, "Insufficient credits"), "no_credit"),
    "403": (lambda server: server.status(403), "forbidden"),
    "unknown model": (lambda server: server.unknown_model(), "unknown_model"),
    "413": (lambda server: server.status(413), "bad_request"),
    "a proxy's 407 page": (lambda server: server.html(407), "bad_request"),
    "the key in a message": (echo_of_the_key, "bad_request"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_server_does_is_a_named_fault_and_one_request(
    api: Api, fault: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    caplog.set_level(logging.DEBUG)
    make, name = FAULTS[fault]
    api.server.faults.append(make(api.server))
    outcome = api.ask()
    assert isinstance(outcome, Fault)
    assert outcome.name == name
    assert outcome.detail
    assert outcome.detail.isprintable()
    assert len(outcome.detail) <= 300
    assert len(api.server.requests) == 1
    shown = "".join([repr(outcome), caplog.text, *capfd.readouterr()])
    assert KEY not in shown


@pytest.mark.parametrize("body", [b"\xe9\xe8", b"9" * 5000, b"[" * 200_000], ids=["latin", "digits", "nesting"])
def test_an_unreadable_refusal_is_a_fault(api: Api, body: bytes):
    api.server.faults.append(Response(body, 500))
    outcome = api.ask()
    assert isinstance(outcome, Fault)
    assert outcome.name in ("server_error", "not_json")


def test_a_late_answer_is_a_timeout(api: Api):
    api.server.faults.append(api.server.hang(20))
    outcome = api.ask_another(api.server.url, deadline_s=0.3)
    assert isinstance(outcome, Fault)
    assert outcome.name == "timeout"


def test_a_server_that_is_not_there_is_unreachable(api: Api):
    outcome = api.ask_another("http://127.0.0.1:1/v1", deadline_s=10.0)
    assert isinstance(outcome, Fault)
    assert outcome.name == "unreachable"


def test_the_client_goes_on_after_every_fault(api: Api):
    api.server.faults += [make(api.server) for make, _ in FAULTS.values()]

    *faults, last = [api.ask() for _ in range(len(FAULTS) + 1)]
    assert [getattr(fault, "name", None) for fault in faults] == [name for _, name in FAULTS.values()]
    assert isinstance(last, Answer)


def test_tokens_of_useless_answers_are_reported(api: Api):
    for flaw in ("empty", "blocked", "cut_off"):
        api.server.faults.append(api.server.flawed(flaw))
        outcome = api.ask()
        assert isinstance(outcome, Fault)
        assert outcome.output_tokens >= 10


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 0.0),
        ("soon", None),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_read(api: Api, header: str, seconds: float | None):
    api.server.faults.append(api.server.status(429, retry_after=header))
    outcome = api.ask()
    assert isinstance(outcome, Fault)
    assert outcome.retry_after_s == seconds


@given(st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,6} [\d:]{0,9} [+-]?\w{0,9}"))
def test_no_retry_after_raises(header: str):
    seconds = retry_after({"retry-after": header}, ApiError())
    assert seconds is None or seconds >= 0


def test_check_accepts_key_and_model_for_nothing(api: Api):
    assert api.check() is None
    assert api.server.questions == []


def test_check_names_a_wrong_key_and_an_unknown_model(api: Api):
    api.server.key = "another"
    assert getattr(api.check(), "name", None) == "unauthorized"
    api.server.key, api.server.models = KEY, ("m7",)
    assert getattr(api.check(), "name", None) == "unknown_model"


def test_check_tells_what_may_pass(api: Api):
    api.server.outage = api.server.status(503)
    fault = api.check()
    assert fault is not None
    assert fault.is_retried


@pytest.mark.parametrize("outage", [Response(b"", 405), Response(b"<html>", 404), Response(b"<html>")])
def test_a_gateway_that_knows_no_models_is_not_refused(api: Api, outage: Response):
    api.server.lists_models = False
    assert api.check() is None
    api.server.outage = outage
    assert api.check() is None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_answer_makes_the_client_raise(api: Api, data: st.DataObject):
    """One value somewhere in a good body is replaced, or the body is any bytes."""
    junk = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
    body = data.draw(st.just(None) | st.binary(max_size=50))
    if body is None:
        body = copy.deepcopy(api.server.reply("42"))
        node, key = data.draw(st.sampled_from(list(_places(body))))
        node[key] = data.draw(junk)
    api.server.faults.append(Response(body))
    outcome = api.ask()
    assert isinstance(outcome, Answer | Fault)
    assert min(outcome.input_tokens, outcome.output_tokens) >= 0
    assert not isinstance(outcome, Answer) or outcome.text.strip()


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a tree of dicts and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        yield from _places(value)


def test_a_schema_is_asked_for_and_samples_have_their_own_seeds(api: Api):
    api.ask(ChatRequest(QUESTION.messages, sample=3, schema=SCHEMA))
    body = api.server.questions[0].body
    asked = body.get("generationConfig", body)
    assert asked["seed"] == 3
    sent = asked.get("responseJsonSchema") or asked["response_format"]["json_schema"]["schema"]
    assert sent == SCHEMA


def without_key(**settings: str) -> OracleConfig:
    return OracleConfig.model_validate({"kind": "openai", "openai": {"model": "m1", "api_key_env": None, **settings}})


def test_missing_keys_and_models_are_found_before_anything_starts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert api_mistakes(OracleConfig(kind="exact"), with_keys=True) == []
    (gemini_line,) = api_mistakes(OracleConfig(kind="exact", fallback=("gemini",)), with_keys=True)
    assert gemini_line == (
        "oracle.gemini.api_key_env: the environment variable GEMINI_API_KEY is not set; export it with the API key"
    )
    lines = api_mistakes(OracleConfig(kind="openai"), with_keys=True)
    assert [line.partition(":")[0] for line in lines] == ["oracle.openai.model", "oracle.openai.api_key_env"]
    assert api_mistakes(without_key(), with_keys=True) == []
    monkeypatch.setenv("GEMINI_API_KEY", f"{KEY}\n")
    assert api_mistakes(OracleConfig(kind="gemini"), with_keys=True) == []


def test_only_the_key_is_left_to_a_ray_that_runs_elsewhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (line,) = api_mistakes(OracleConfig(kind="openai"), with_keys=False)
    assert line.startswith("oracle.openai.model: ")


def test_an_address_is_one_and_holds_no_secret():
    assert address_mistakes(OracleConfig()) == []
    assert address_mistakes(without_key(base_url="http://127.0.0.1:8000/v1")) == []
    (line,) = address_mistakes(without_key(base_url="127.0.0.1:8000"))
    assert line == "oracle.openai.base_url: must begin with http:// or https://, got '127.0.0.1:8000'"


@pytest.mark.parametrize(
    "url", ["https://me:{}@gateway/v1", "https://{}@gateway", "me:{}@gateway", "https://g/?key={}"]
)
@pytest.mark.parametrize("kind", ["gemini", "openai"])
def test_an_address_with_a_secret_is_refused_without_being_shown_also_where_it_is_not_used(kind: str, url: str):
    config = OracleConfig.model_validate({"kind": "exact", kind: {"base_url": url.format(KEY)}})
    (line,) = address_mistakes(config)
    assert line.startswith(f"oracle.{kind}.base_url: ") and f"oracle.{kind}.api_key_env" in line
    assert KEY not in line


@pytest.mark.parametrize("variable", ["sk-proj-canary", "AIzaSyCanary"])
def test_a_key_in_place_of_its_name_is_refused_without_being_shown(variable: str):
    (line,) = api_mistakes(OracleConfig(kind="gemini", gemini=GeminiConfig(api_key_env=variable)), with_keys=True)
    assert "NAME of an environment variable" in line
    assert variable not in line


def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CANARY_KEY", f"{KEY}\nand more")
    (line,) = api_mistakes(OracleConfig(kind="gemini", gemini=GeminiConfig(api_key_env="CANARY_KEY")), with_keys=True)
    assert "CANARY_KEY" in line
    assert KEY not in line
