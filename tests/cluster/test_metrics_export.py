"""What a run tells Ray comes out of the port that Prometheus reads, on the loopback interface."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path
from unittest.mock import Mock

import pytest
import ray

from actors.engine_client import RemoteEngine
from actors.fleet import Fleet
from actors.gauges import FIGURES, FROM_ROWS, Gauges
from actors.trace import Trace
from int_ray.oracle_config import BudgetConfig
from int_ray.oracles.spending import Ledger
from tests.fakes import FakeProgress

pytestmark = pytest.mark.usefixtures("ray_cluster")
SHOWN = re.compile(r'^ray_int_ray_(\w+)\{[^}]*run="(\w+)"[^}]*\} (\S+)$', re.MULTILINE)


def exported() -> dict[tuple[str, str], float]:
    """(Run, figure) -> value, as Prometheus would read it; nothing while the port is not up yet.

    Whoever reads a value takes it away until Ray reports it again, after ten seconds.
    """
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return {(run, name): float(value) for name, run, value in SHOWN.findall(answer.read().decode())}
    except OSError:
        return {}


def test_every_figure_comes_out_of_rays_metrics_port(tmp_path: Path):
    """Of two runs in turn, as in a comparison, on the same engines."""
    fleet = Fleet([Mock(spec=RemoteEngine) for _ in range(2)], 100, FakeProgress())
    trace = Trace(tmp_path / "trace.json")
    with trace.span("learner", "reinforce"):
        pass
    ledger = Ledger(tmp_path / "calls.jsonl", BudgetConfig(), {})
    runs = {name: Gauges(tmp_path / name, fleet, ledger, trace) for name in ("first", "second")}
    wanted = {(run, figure) for run in runs for figure in FIGURES}
    found: dict[tuple[str, str], float] = {}
    until = time.monotonic() + 180
    while missing := wanted - found.keys():
        assert time.monotonic() < until, f"waited 180 s, still missing: {missing}"
        for iteration, gauges in enumerate(runs.values(), start=3):
            gauges.log(iteration, dict.fromkeys(FROM_ROWS, 0.25))
            gauges.refresh()
        time.sleep(1)
        found |= exported()
    assert (found["first", "iteration"], found["first", "reward"], found["first", "engines"]) == (3, 0.25, 2)
    assert found["second", "iteration"] == 4
