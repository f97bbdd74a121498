from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import ray

from actors.chat_pool import ChatPool
from actors.oracle_workers import OracleError
from int_ray.oracle_config import GeminiConfig, OpenAIConfig, OracleConfig
from int_ray.oracles.chat import Answer, ChatRequest, Fault, Message
from tests.wire_servers import GeminiServer, OpenAIServer, WireServer

T = TypeVar("T")
KEY = "canary-4f1d-Key_9"
pytestmark = pytest.mark.usefixtures("key", "ray_cluster")
QUESTION = ChatRequest((Message("user", "17-3"),))


@pytest.fixture(scope="module")
def key() -> Iterator[None]:
    """Set before Ray starts: its workers inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANARY_KEY", KEY)
        yield


def fourteen(prompt: str) -> str:
    return "14"


def openai_config(server: WireServer, **settings: object) -> OracleConfig:
    api = OpenAIConfig(model="m1", base_url=server.url, api_key_env=None)
    return OracleConfig.model_validate({"kind": "openai", "openai": api, **settings})


def use(kind: str, config: OracleConfig, what: Callable[[ChatPool], Awaitable[T]]) -> T:
    async def start_use_and_close() -> T:
        pool = ChatPool(kind, config)
        try:
            await pool.ready()
            return await what(pool)
        finally:
            await pool.close()

    return asyncio.run(start_use_and_close())


def test_workers_share_the_questions_and_tell_what_they_are():
    async def ask_four(pool: ChatPool) -> list[Answer | Fault]:
        assert (pool.name, pool.cacheable) == ("m1", True)
        assert pool.settings["max_output_tokens"] == 16384
        assert await pool.check() is None
        return await asyncio.gather(*(pool.ask(QUESTION) for _ in range(4)))

    with OpenAIServer(fourteen, models=("m1",)) as server:
        answers = use("openai", openai_config(server, workers=2), ask_four)
    assert {getattr(answer, "text", answer) for answer in answers} == {"14"}
    assert len(server.questions) == 4


def test_faults_cross_the_border():
    async def ask_and_check(pool: ChatPool) -> tuple[Answer | Fault, Fault | None]:
        return await pool.ask(QUESTION), await pool.check()

    with OpenAIServer(fourteen, models=("m2",)) as server:
        server.faults.append(server.status(429, retry_after="7"))
        outcome, refusal = use("openai", openai_config(server), ask_and_check)
    assert outcome == Fault("rate_limited", "HTTP 429: try again later", retry_after_s=7.0)
    assert refusal is not None
    assert refusal.name == "unknown_model"


async def pid_of(pool: ChatPool) -> int:
    worker: Any = pool.workers.all[0].actor
    return await worker.__ray_call__.remote(lambda _: os.getpid())


def test_a_worker_that_dies_is_a_fault_and_starts_anew():
    with OpenAIServer(fourteen) as server:

        async def kill_while_asked(pool: ChatPool) -> tuple[Answer | Fault, Answer | Fault]:
            (pid,) = await asyncio.gather(
                *(worker.actor.__ray_call__.remote(lambda _: os.getpid()) for worker in pool.workers.all)
            )
            server.faults.append(server.hang(30))
            asked = asyncio.create_task(pool.ask(QUESTION))
            while not server.questions:
                await asyncio.sleep(0.05)
            os.kill(pid, signal.SIGKILL)
            return await asked, await ask_until_back(pool)

        fault, answer = use("openai", openai_config(server), kill_while_asked)
    assert isinstance(fault, Fault)
    assert (fault.name, fault.is_retried) == ("connection", True)
    assert answer == Answer("14", input_tokens=1, output_tokens=10)
    assert len(server.questions) == 2


async def ask_until_back(pool: ChatPool) -> Answer | Fault:
    deadline = time.monotonic() + 60
    while True:
        outcome = await pool.ask(QUESTION)
        if isinstance(outcome, Answer) or time.monotonic() > deadline:
            return outcome
        await asyncio.sleep(0.2)


def test_a_worker_that_hangs_is_a_timeout_and_starts_anew(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("actors.chat_pool.GRACE_S", 0.0)

    async def stop_and_ask(pool: ChatPool) -> tuple[Answer | Fault, Answer | Fault]:
        os.kill(await pid_of(pool), signal.SIGSTOP)
        pool.deadline_s = 1.0
        fault = await pool.ask(QUESTION)
        pool.deadline_s = 60.0
        return fault, await ask_until_back(pool)

    with OpenAIServer(fourteen) as server:
        fault, answer = use("openai", openai_config(server), stop_and_ask)
    assert fault == Fault("timeout", "the oracle worker hangs; it starts anew")
    assert answer == Answer("14", input_tokens=1, output_tokens=10)


async def ask(pool: ChatPool) -> Answer | Fault:
    return await pool.ask(QUESTION)


def test_keys_are_read_in_the_workers_and_a_missing_one_is_an_error_at_the_start():
    config = OracleConfig(kind="gemini", gemini=GeminiConfig(api_key_env="NO_SUCH_KEY"))
    with pytest.raises(OracleError, match=r"did not start: .*variable NO_SUCH_KEY is not set") as refusal:
        use("gemini", config, ask)
    assert "\n" not in str(refusal.value)


def test_workers_use_their_key_and_log_it_nowhere():
    with GeminiServer(fourteen, key=KEY) as server:
        server.faults.append(server.status(500, f"this was asked with {KEY}"))
        config = OracleConfig(kind="gemini", gemini=GeminiConfig(api_key_env="CANARY_KEY", base_url=server.url))
        outcome = use("gemini", config, ask)
    assert outcome == Fault("server_error", "HTTP 500: this was asked with [key]")
    session = Path(ray.worker.global_worker.node.get_session_dir_path())
    logs = [path for path in (session / "logs").rglob("*") if path.is_file()]
    assert logs
    assert [path for path in logs if KEY.encode() in path.read_bytes()] == []
