"""Every kind of oracle drives a small whole run: stall, oracle, patch, RL. One engine and learner for all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from actors.assembly import build_collecting, build_coordinator, build_weight_sync, start_compute, start_services
from actors.run_folder import RunFolder
from int_ray.config import Config
from int_ray.config_file import load_config
from int_ray.ports import Ports
from int_ray.preflight import load_inputs
from int_ray.types import ProblemSets, RunState
from tests.exact_answers import ExactAnswers
from tests.fakes import FakeProgress
from tests.wire_servers import GeminiServer, OpenAIServer

ROOT = Path(__file__).parents[2]
HARD = ROOT / "int_ray" / "chains" / "data" / "hard_train.jsonl"
KEY = "canary-key-4711"
SMALL = [
    "run.iterations=3",
    "problems.mixed=null",
    "rollout.mixed=0",
    "rollout.batch_size=8",
    "rollout.n=4",
    "reinforce.mini_batch_size=8",
    "trigger.patience=1",
    "trigger.threshold=0.5",
    "trigger.max_rounds=1",
    "patch.continuations=8",
    "patch.batch_size=4",
    "patch.epochs=8",
    "evaluate.sets={}",
]

pytestmark = pytest.mark.timeout(280)


def quickstart(folder: Path, *overrides: str) -> Config:
    """The quickstart, small."""
    return load_config(str(ROOT / "configs" / "quickstart.yaml"), [f"run.folder={folder}", *SMALL, *overrides])


@dataclass
class Compute:
    """What all runs share, and the weights that each begins with."""

    stack: AsyncExitStack
    engines: list[Any]
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
        engines, learner = await start_compute(config, FakeProgress(), stack)
        inputs = load_inputs(config)
        problems = ProblemSets(inputs.problems.problems)
        weights = build_weight_sync(config, inputs.tokenizer, problems, engines, learner)
        await learner.save(base)
        return Compute(stack, engines, learner, weights, base)

    with asyncio.Runner() as runner:
        yield runner.run(start())
        runner.run(stack.aclose())


def train(compute: Compute, config: Config) -> tuple[RunState, FakeProgress]:
    """A whole run on the shared engine and learner."""
    progress = FakeProgress()

    async def run() -> RunState:
        inputs = load_inputs(config)
        folder = RunFolder(config.run.folder, tensorboard=False)
        async with AsyncExitStack() as stack:
            stack.callback(folder.close)
            services = await start_services(config, folder.path, progress, stack)
            await compute.learner.load(compute.base)
            ports = await build_collecting(config, inputs.tokenizer, compute.engines, services, progress, stack)
            whole = Ports(**vars(ports), learner=compute.learner, weights=compute.weights)
            problems = ProblemSets(inputs.problems.problems)
            return await build_coordinator(config, inputs.tokenizer, problems, whole, folder).run(RunState())

    return asyncio.run(run()), progress


def records(folder: Path) -> list[dict[str, Any]]:
    """What became of every proposal."""
    paths = sorted((folder / "interventions").iterdir())
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def assert_freed(folder: Path, state: RunState, oracle: str) -> None:
    """A stall, interventions of this oracle that help, a patch, and RL with a signal after it."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["rollout/reward"] == 0.0
    kept = [record for record in records(folder) if record["kept"]]
    assert kept and all(record["success_rate"] > 0 for record in kept)
    assert {record["source"]["oracle"] for record in kept if record["source"]} <= {oracle}
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
def test_behind_an_api(compute: Compute, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    server_type = {"gemini": GeminiServer, "openai": OpenAIServer}[kind]
    with server_type(ExactAnswers(HARD), key=KEY) as server:
        config = quickstart(
            tmp_path / kind,
            f"oracle.kind={kind}",
            "oracle.categorize=true",
            f"oracle.{kind}.base_url={server.url}",
            f"oracle.{kind}.model=teacher",
            f"oracle.{kind}.api_key_env=INT_RAY_TEST_KEY",
        )
        state, _ = train(compute, config)
        assert_freed(tmp_path / kind, state, kind)
        asked = len(server.questions)
        again = config.model_copy(update={"run": config.run.model_copy(update={"folder": tmp_path / "again"})})
        shared = config.oracle.model_copy(update={"cache": tmp_path / kind / "oracle_answers.jsonl"})
        train(compute, again.model_copy(update={"oracle": shared}))
        assert len(server.questions) == asked  # a repeated run pays nothing
    assert {record["category"] for record in records(tmp_path / kind) if record["kept"]} == {"execution"}
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_the_policy_itself(compute: Compute, tmp_path: Path):
    overrides = ["oracle.kind=policy", "oracle.prompt=chains", "oracle.policy.max_tokens=64"]
    state, _ = train(compute, quickstart(tmp_path / "policy", *overrides))
    assert_freed(tmp_path / "policy", state, "policy")


def test_monte_carlo(compute: Compute, tmp_path: Path):
    overrides = ["oracle.kind=monte_carlo", "oracle.explore_temperature=1.4"]
    state, _ = train(compute, quickstart(tmp_path / "monte_carlo", *overrides))
    assert_freed(tmp_path / "monte_carlo", state, "monte_carlo")
