"""The live figures: what they are made of, and that the dashboard shows all of them and no others."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from actors import gauges
from actors.engine_client import EngineGroup, RemoteEngine, Sampling
from actors.failures import EngineDiedError
from actors.fleet import Fleet
from actors.gauges import FIGURES, FROM_ROWS, PREFIX, Gauges
from actors.trace import Trace
from int_ray.journal import Journal
from int_ray.oracle_config import BudgetConfig, Price
from int_ray.oracles.chat import Answer
from int_ray.oracles.spending import Call, Ledger
from int_ray.report.live import LiveRun
from tests.fakes import FakeProgress

CLUSTERS = Path(__file__).parents[2] / "launch/clusters"
BOARD = json.loads((CLUSTERS / "grafana.json").read_text())
PROMPT = np.array([1, 2], np.int32)
SAMPLED = EngineGroup(np.arange(7), np.zeros(7, np.float32), np.array([0, 3, 7]), ("a", "b"), (True, True), 1, 0)


def engine() -> RemoteEngine:
    mock = Mock(spec=RemoteEngine)
    mock.sample_group.return_value = SAMPLED
    return mock


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What Ray is told, by the names of its metrics, without a Ray."""
    values: dict[str, float] = {}

    class Exported:
        def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
            assert description and tag_keys == ("run",)
            self.name = name

        def set_default_tags(self, default_tags: dict[str, str]) -> Exported:
            assert default_tags.keys() == {"run"}
            return self

        def set(self, value: float) -> None:
            values[self.name] = value

    monkeypatch.setattr(gauges, "Gauge", Exported)
    return values


def watched(folder: Path, num_engines: int = 2) -> Gauges:
    ledger = Ledger(folder / "oracle_calls.jsonl", BudgetConfig(), {"m": Price(input=1.0, output=0.0)})
    fleet = Fleet([engine() for _ in range(num_engines)], 100, FakeProgress())
    return Gauges(folder, fleet, ledger, Trace(folder / "trace.json"))


def test_rows_and_evaluations_become_figures(tmp_path: Path, exported: Mapping[str, float]):
    figures = watched(tmp_path)
    figures.log(3, {"rollout/reward": 0.5, "rollout/unsolved": 0.25, "sync/seconds": 1.5, "reinforce/loss": 9.0})
    figures.log(3, {"evaluate/hard/pass@1": 0.75})
    assert exported == {
        "int_ray_iteration": 3,
        "int_ray_reward": 0.5,
        "int_ray_unsolved_ratio": 0.25,
        "int_ray_weight_sync_seconds": 1.5,
    }


def test_a_refresh_looks_at_fleet_ledger_and_trace(tmp_path: Path, exported: Mapping[str, float]):
    figures = watched(tmp_path)
    fleet, ledger = figures.fleet, figures.ledger

    async def work() -> None:
        async with fleet.least_busy(16) as member:
            await member.engine.sample_group(PROMPT, PROMPT, Sampling(2, 8, 1.0))
            fleet.recruit(engine())
            fleet.admit(fleet.recruits)
            fleet.lose(fleet.members[1], EngineDiedError("gone"))
            call = await ledger.reserve(Call("openai", "m", "p1", "key"))
            assert isinstance(call, Call)
            ledger.start(call)
            ledger.end(call, Answer("text", input_tokens=500_000, output_tokens=7))
            with figures.trace.span("learner", "reinforce"):
                pass
            figures.refresh()

    fleet.policy_version = 4
    asyncio.run(work())
    found = {name.removeprefix(PREFIX): value for name, value in exported.items()}
    assert found["tokens_per_second"] > 0 and found["tokens_per_second"] == pytest.approx(
        3.5 * found["rollouts_per_second"]
    )
    expected = {"policy_version": 4, "engines": 2, "engines_lost": 1, "engines_joined": 1, "samples_in_flight": 16}
    expected |= {"requests_waiting": 0, "oracle_calls": 1, "oracle_tokens": 500_007, "oracle_cost": 0.5}
    assert {name: found[name] for name in expected} == expected and found["learner_step_seconds"] >= 0
    figures.refresh()
    assert exported["int_ray_tokens_per_second"] == 0  # nothing since the last one


def test_figures_are_kept_fresh_and_reach_who_watches_the_folder(
    tmp_path: Path, exported: Mapping[str, float], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gauges, "REFRESH_S", 0.01)
    figures = watched(tmp_path)

    async def run() -> None:
        async with figures.live():
            while "int_ray_engines" not in exported:
                await asyncio.sleep(0.01)
            figures.fleet.policy_version = 7

    asyncio.run(asyncio.wait_for(run(), 30))
    assert exported["int_ray_policy_version"] == 7  # the last look is at the end
    assert exported["int_ray_engines"] == 0  # of this run: others may use them next
    (tmp_path / "journal.jsonl").touch()
    assert LiveRun.open(tmp_path).figures["policy_version"] == 7 and LiveRun.open(tmp_path).figures["engines"] == 2


def test_learner_restarts_and_failed_checkpoints_are_counted_from_the_journal(
    tmp_path: Path, exported: Mapping[str, float]
):
    journal = Journal(tmp_path / "journal.jsonl")  # of a resumed run: an earlier process has written into it
    journal.write("checkpoint_failed", iteration=2, reason="no room")
    figures = watched(tmp_path)
    figures.refresh()
    assert (exported["int_ray_learner_restarts"], exported["int_ray_checkpoints_failed"]) == (0, 1)
    journal.write("learner_rebuilt", iteration=2, origin="iteration_000002", reason="rank 0 died")
    journal.write("checkpoint", iteration=3, path="iteration_000003")
    (tmp_path / "journal.jsonl").open("a").write("torn\n")
    journal.write("checkpoint_failed", iteration=4, reason="no room")
    figures.refresh()
    figures.refresh()  # counts nothing twice
    assert (exported["int_ray_learner_restarts"], exported["int_ray_checkpoints_failed"]) == (1, 2)


def panels() -> list[dict[str, Any]]:
    return BOARD["panels"]


def test_the_dashboard_shows_every_figure_and_no_other():
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    shown = [name for expression in expressions for name in re.findall(r"ray_int_ray_(\w+)", expression)]
    assert sorted(shown) == sorted(FIGURES)
    assert all(re.fullmatch(r'ray_int_ray_\w+\{run=~"\$run"\}', expression) for expression in expressions)
    queried = [re.findall(r"ray_int_ray_(\w+)", variable["query"]) for variable in BOARD["templating"]["list"]]
    assert {name for names in queried for name in names} <= FIGURES.keys()


def test_the_dashboard_has_what_grafana_requires():
    assert BOARD["title"] and BOARD["uid"] and BOARD["schemaVersion"] >= 36
    assert {variable["name"]: variable["type"] for variable in BOARD["templating"]["list"]} == {
        "source": "datasource",
        "run": "query",
    }
    assert len({panel["id"] for panel in panels()}) == len(panels())
    places = set()
    for panel in panels():
        assert panel["type"] == "timeseries" and panel["title"]
        place = panel["gridPos"]
        assert place.keys() == {"h", "w", "x", "y"} and place["x"] + place["w"] <= 24
        places.add((place["x"], place["y"]))
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(set(references)) == len(references)
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert source == {"type": "prometheus", "uid": "${source}"}
    assert len(places) == len(panels())


def test_every_figure_is_told(tmp_path: Path, exported: Mapping[str, float]):
    figures = watched(tmp_path)
    with figures.trace.span("learner", "patch"):
        pass
    figures.log(1, dict.fromkeys(FROM_ROWS, 0.5))
    figures.refresh()
    assert exported.keys() == {PREFIX + name for name in FIGURES}
