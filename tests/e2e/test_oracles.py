"""Every kind of oracle drives a small whole run: stall, oracle, patch, RL. One engine and learner for all."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from actors.assembly import build_collecting, build_coordinator, build_weight_sync, start_services
from actors.compute import start_compute
from actors.fleet import Fleet
from actors.run_folder import RunFolder
from int_ray.config import Config
from int_ray.config_file import load_config
from int_ray.ports import Ports
from int_ray.preflight import load_inputs
from int_ray.types import ProblemSets, RunState
from tests.e2e.conftest import API_KEY, API_KEY_ENV
from tests.exact_answers import ExactAnswers
from tests.factories import tiny_checkpoint
from tests.fakes import FakeProgress
from tests.wire_servers import GeminiServer, OpenAIServer

ROOT = Path(__file__).parents[2]
HARD = ROOT / "int_ray" / "chains" / "data" / "hard_train.jsonl"
SMALL = [
    "run.iterations=3",
    "problems.mixed=null",
    "rollout.mixed=0",
    "rollout.batch_size=24",
    "rollout.n=8",
    "reinforce.mini_batch_size=8",
    "trigger.patience=1",
    "trigger.threshold=0.5",
    "trigger.max_rounds=1",
    "patch.continuations=8",
    "patch.batch_size=4",
    "patch.epochs=12",
    "evaluate.sets={}",
]

SERVER_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
}


def quickstart(folder: Path, *overrides: str) -> Config:
    """The quickstart, small."""
    return load_config(str(ROOT / "configs" / "quickstart.yaml"), [f"run.folder={folder}", *SMALL, *overrides])


@dataclass
class Compute:
    """What all runs share, and the weights that each begins with."""

    stack: AsyncExitStack
    fleet: Fleet
    learner: Any
    weights: Any
    base: Path


@pytest.fixture(scope="module")
def compute(local_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compute]:
    """An engine and two learner ranks with the base model of the laptop world."""
    base = tmp_path_factory.mktemp("base")
    config = quickstart(tmp_path_factory.mktemp("unused"))
    stack = AsyncExitStack()

    async def start() -> Compute:
        fleet, learner = await start_compute(config, FakeProgress(), stack)
        inputs = load_inputs(config)
        problems = ProblemSets(inputs.problems.problems)
        weights = build_weight_sync(config, inputs.tokenizer, problems, fleet, learner)
        await learner.save(base)
        await learner.saved(base)
        return Compute(stack, fleet, learner, weights, base)

    with asyncio.Runner() as runner:
        yield runner.run(start())
        runner.run(stack.aclose())


def train(compute: Compute, config: Config) -> tuple[RunState, FakeProgress]:
    """A whole run on the shared engine and learner."""
    progress = FakeProgress()

    async def run() -> RunState:
        inputs = load_inputs(config)
        folder = RunFolder(config.run.folder)
        async with AsyncExitStack() as stack:
            stack.callback(folder.close)
            services = await start_services(config, folder.path, progress, stack)
            await compute.learner.load(compute.base)
            ports = await build_collecting(config, inputs.tokenizer, compute.fleet, services, progress, stack)
            whole = Ports(**vars(ports), learner=compute.learner, weights=compute.weights)
            problems = ProblemSets(inputs.problems.problems)
            return await build_coordinator(config, inputs.tokenizer, problems, whole, folder).run(RunState())

    return asyncio.run(run()), progress


def records(folder: Path) -> list[dict[str, Any]]:
    """What became of every proposal."""
    paths = sorted((folder / "interventions").iterdir())
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def calls(folder: Path) -> list[dict[str, Any]]:
    """What the oracle was asked, and what came back."""
    return [json.loads(line) for line in (folder / "oracle_calls.jsonl").read_text().splitlines()]


def assert_freed(folder: Path, state: RunState, oracle: str) -> None:
    """A stall, interventions of this oracle that help, a patch, and RL with a signal after it."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["rollout/reward"] == 0.0
    kept = [record for record in records(folder) if record["kept"]]
    assert kept and all(record["success_rate"] > 0 for record in kept)
    assert {record["source"]["oracle"] for record in kept} == {oracle}
    assert "patch/loss" in rows[0]
    assert any(row["rollout/reward"] > 0 for row in rows[1:])
    assert any("reinforce/loss" in row for row in rows[1:])
    assert state.intervention_rounds == 1 and state.policy_version >= 2


def test_exact_and_recorded(compute: Compute, tmp_path: Path):
    first, second = tmp_path / "exact", tmp_path / "recorded"
    state, _ = train(compute, quickstart(first))
    assert_freed(first, state, "exact")
    written = tmp_path / "human.jsonl"
    lines = [{key: record[key] for key in ("problem_id", "replaced", "content")} for record in records(first)]
    written.write_text("".join(json.dumps(line) + "\n" for line in lines))
    state, _ = train(compute, quickstart(second, "oracle.kind=recorded", f"oracle.recorded={written}"))
    assert_freed(second, state, "recorded")
    assert [record["content"] for record in records(first)] == [record["content"] for record in records(second)]


@pytest.mark.parametrize("kind", ["gemini", "openai"])
def test_behind_an_api_that_misbehaves(compute: Compute, tmp_path: Path, kind: str):
    first, second = tmp_path / "first", tmp_path / "second"
    api = ["model=teacher", f"api_key_env={API_KEY_ENV}"]
    overrides = [f"oracle.kind={kind}", "oracle.categorize=true", *(f"oracle.{kind}.{item}" for item in api)]
    server_type = {"gemini": GeminiServer, "openai": OpenAIServer}[kind]
    with server_type(ExactAnswers(HARD), key=API_KEY, models=("teacher",)) as server:
        server.faults += [server.status(503), server.status(429, retry_after="1"), server.html(), server.truncated()]
        server.faults += [server.reset(), server.flawed("blocked")]
        overrides.append(f"oracle.{kind}.base_url={server.url}")
        state, progress = train(compute, quickstart(first, *overrides))
        assert_freed(first, state, kind)
        asked = len(server.questions)
        state, _ = train(compute, quickstart(second, *overrides, f"oracle.cache={first / 'oracle_answers.jsonl'}"))
        assert_freed(second, state, kind)
        assert len(server.questions) == asked  # a repeated run pays nothing
    faults = Counter(call["fault"] for call in calls(first) if call["event"] == "ended" and call["fault"])
    assert faults == {"server_error": 1, "rate_limited": 1, "not_json": 2, "connection": 1, "blocked": 1}
    assert [record["reason"] for record in records(first) if record["status"] == "refused"].count("blocked") == 1
    assert any("1 blocked" in line for line in progress.story)
    assert {call["event"] for call in calls(second)} == {"cached"}
    assert {record["category"] for record in records(first) if record["kept"]} == {"execution"}
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or API_KEY.encode() not in path.read_bytes(), path


def test_the_policy_itself(compute: Compute, tmp_path: Path):
    overrides = ["oracle.kind=policy", "oracle.prompt=chains", "oracle.policy.max_tokens=64"]
    state, _ = train(compute, quickstart(tmp_path / "policy", *overrides))
    assert_freed(tmp_path / "policy", state, "policy")


def test_monte_carlo(compute: Compute, tmp_path: Path):
    overrides = ["oracle.kind=monte_carlo", "oracle.explore_temperature=1.4"]
    state, _ = train(compute, quickstart(tmp_path / "monte_carlo", *overrides))
    assert_freed(tmp_path / "monte_carlo", state, "monte_carlo")


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server of `vllm serve`, with a random model that can only babble; its base URL."""
    model = tiny_checkpoint(tmp_path_factory.mktemp("babbler") / "model", max_length=8192)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    names = ["--served-model-name", "babbler", "--host", "127.0.0.1", "--port", port]
    size = ["--dtype", "float32", "--max-model-len", "8192", "--kv-cache-memory-bytes", str(2**28)]
    log = tmp_path_factory.mktemp("log") / "vllm.txt"
    environment = {**os.environ, **SERVER_ENVIRONMENT}
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, *names, *size, "--enforce-eager", "--no-enable-chunked-prefill"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        wait_until_up(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def wait_until_up(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for the first answer, at most four minutes."""
    for _ in range(480):
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"vllm serve did not come up: {log.read_text()[-3000:]}")


@pytest.mark.parametrize("structured", ["true", "false"])
def test_useless_replies_are_counted_and_never_trained_on(
    compute: Compute, tmp_path: Path, vllm_server: str, structured: str
):
    api = [f"base_url={vllm_server}", "model=babbler", "api_key_env=null", f"structured={structured}"]
    overrides = ["oracle.kind=openai", "oracle.openai.max_output_tokens=48", *(f"oracle.openai.{item}" for item in api)]
    overrides += ["run.iterations=1", "rollout.batch_size=8"]
    state, progress = train(compute, quickstart(tmp_path / "run", *overrides))
    refused = records(tmp_path / "run")
    assert len(refused) == 8 and {record["status"] for record in refused} == {"refused"}
    assert {record["reason"] for record in refused} <= {"cut_off", "no_json", "not_a_list", "no_usable_entry"}
    counted = " ".join(progress.story)
    assert all(record["reason"] in counted for record in refused)
    assert state.policy_version == 0 and "patching" not in progress.phases
    assert sum(call["event"] == "ended" and call["output_tokens"] > 0 for call in calls(tmp_path / "run")) == 8
