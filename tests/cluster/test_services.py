"""What starts before engines and learner: an API that refuses key or model ends a run there, unpaid."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from actors.assembly import start_services
from int_ray.config_file import load_config
from int_ray.errors import RunError
from tests.fakes import FakeProgress
from tests.wire_servers import GeminiServer, OpenAIServer

ROOT = Path(__file__).parents[2]
KEY = "canary-key-1147"
SERVERS = {"gemini": GeminiServer, "openai": OpenAIServer}

pytestmark = pytest.mark.usefixtures("key", "ray_cluster")


@pytest.fixture(scope="module")
def key() -> Iterator[None]:
    """Set before Ray starts: its workers inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVICES_KEY", KEY)
        yield


def start(kind: str, url: str, folder: Path) -> FakeProgress:
    """Start the services of a run with this oracle, and end them."""
    api = [f"base_url={url}", "model=teacher", "api_key_env=SERVICES_KEY"]
    overrides = [f"run.folder={folder}", f"oracle.kind={kind}", *(f"oracle.{kind}.{item}" for item in api)]
    config = load_config(ROOT / "configs" / "quickstart.yaml", overrides)
    progress = FakeProgress()

    async def run() -> None:
        async with AsyncExitStack() as stack:
            await start_services(config, folder, progress, stack)

    asyncio.run(run())
    return progress


@pytest.mark.parametrize("kind", SERVERS)
def test_a_refused_key_ends_the_run_before_anything_is_asked(kind: str, tmp_path: Path):
    with SERVERS[kind](lambda prompt: "", key="another key") as server:
        with pytest.raises(RunError, match=f"unauthorized.*oracle.{kind}.api_key_env") as caught:
            start(kind, server.url, tmp_path)
        assert server.requests and not server.questions
    assert "\n" not in str(caught.value) and KEY not in str(caught.value)


@pytest.mark.parametrize("kind", SERVERS)
def test_an_unknown_model_ends_the_run_before_anything_is_asked(kind: str, tmp_path: Path):
    with SERVERS[kind](lambda prompt: "", key=KEY, models=("other",)) as server:
        with pytest.raises(RunError, match=f"unknown_model.*set oracle.{kind}.model"):
            start(kind, server.url, tmp_path)
        assert server.requests and not server.questions


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_that_is_down_does_not_end_the_run(kind: str, tmp_path: Path):
    with SERVERS[kind](lambda prompt: "", key=KEY, models=("teacher",)) as server:
        assert start(kind, server.url, tmp_path).story == []
        url = server.url
    progress = start(kind, url, tmp_path)  # nobody listens there any more
    assert "connection" in progress.story[-1]
