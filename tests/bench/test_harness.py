"""The harness itself: ratios and spreads by hand, what a failing module does, what is written and shown."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import __main__ as suite
from benchmarks import measure as harness
from benchmarks.measure import Figure, Scale, at_least, at_most, environment, paired, record
from benchmarks.quickstart_idle import figures, run

ROOT = Path(__file__).parents[2]


def test_a_speed_is_baseline_over_ours_and_a_cost_is_ours_over_baseline():
    pairs = [(2.0, 1.0), (4.0, 4.0), (1.0, 4.0)]  # ours, baseline
    speed, cost = at_least("speed", pairs, 0.95), at_most("cost", pairs, 0.95)
    assert (speed.value, speed.goal, speed.reached) == (1.0, ">= 0.95", True)  # of 0.5, 1, 4
    assert (cost.value, cost.goal, cost.reached) == (1.0, "<= 0.95", False)  # of 2, 1, 0.25
    assert speed.spread == 2.5 - 0.75 and speed.raw == tuple(pairs)


def test_a_single_value_is_a_figure_too():
    figure = at_most("waste", 0.004, 0.01, limit="0")
    assert figure == Figure("waste", 0.004, "<= 0.01", True, "0") and not figure.is_noisy


def test_a_figure_is_noisy_by_its_spread_or_by_what_else_ran():
    steady, wild = [(1.0, 1.0)] * 5, [(1.0, 1.0), (1.0, 2.0), (1.0, 1.0), (1.0, 2.0)]
    assert at_least("a", wild, 1).is_noisy and not at_least("a", steady, 1).is_noisy
    assert not record(at_least("a", steady, 1), busy_before=0.1)["noisy"]
    assert record(at_least("a", steady, 1), busy_before=1.2)["noisy"]


def test_pairs_are_interleaved_after_one_warm_up_of_each():
    calls: list[str] = []
    pairs = paired(lambda: calls.append("a"), lambda: calls.append("b"), pairs=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab" and len(pairs) == 3


def test_a_slower_side_shows_in_the_ratio():
    speed = at_least("speed", paired(lambda: time.sleep(0.4), lambda: time.sleep(0.2), pairs=3), 0.95)
    assert 0.3 < speed.value < 0.8 and not speed.reached


def test_peak_memory_counts_from_its_reset():
    harness.reset_peak_memory()
    before = harness.peak_memory()
    block = bytearray(64 << 20)
    block[:: os.sysconf("SC_PAGE_SIZE")] = bytes(len(block) // os.sysconf("SC_PAGE_SIZE"))
    assert 60 << 20 < harness.peak_memory() - before < 80 << 20


def test_busy_cores_sees_a_busy_core():
    worker = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert harness.busy_cores(0.5) > 0.4
    finally:
        worker.kill()
        worker.wait()


def test_the_environment_names_commit_and_versions():
    found = environment()
    assert {"python", "torch", "transformers", "ray"} <= found["versions"].keys()
    assert found["cores"] >= 1 and found["cpu"] and found["date"].endswith("+00:00")


def test_the_measuring_module_needs_the_standard_library_alone():
    script = "import sys; before = set(sys.modules); import benchmarks.measure; "
    script += "print({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=60)
    assert result.stdout.strip() == "{'benchmarks'}"


def rows(*figures: Figure) -> list[dict]:
    return [json.loads(json.dumps(record(figure))) for figure in figures]


def test_the_table_has_goals_and_the_notes_of_what_was_missed():
    out = io.StringIO()
    missed = at_least("speed", 0.5, 0.95, limit="1.0", note="half of it in copies")
    reached = at_most("waste", 0.004, 0.01, note="not to be shown")
    suite.show(rows(missed, reached), Scale.FULL, Console(file=out, width=120))
    table = out.getvalue()
    assert "missed" in table and "reached" in table and ">= 0.95" in table
    assert "speed: half of it in copies" in table and "not to be shown" not in table


def test_the_suite_goes_on_after_a_module_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(suite, "MODULES", ("nonsense", "packing"))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--tiny", "--out", str(tmp_path / "deep" / "bench.jsonl")])
    assert suite.main() == 1
    lines = [json.loads(line) for line in (tmp_path / "deep" / "bench.jsonl").read_text().splitlines()]
    assert {line["module"] for line in lines} == {"packing"}
    assert {"name", "value", "goal", "reached", "limit", "spread", "noisy", "raw", "commit", "versions", "cpu"} <= set(
        lines[0]
    )
    assert "No module named 'benchmarks.nonsense'" in (tmp_path / "deep" / "bench-nonsense.log").read_text()


def test_a_module_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(suite, "DEADLINE_S", 0.2)
    with pytest.raises(suite.ModuleFailed, match="not done after 0 s"):
        suite.measure("packing", Scale.TINY, tmp_path / "bench.jsonl", Console(file=io.StringIO()))


@pytest.mark.parametrize("module", suite.MODULES)
def test_every_module_is_there_and_explained(module: str):
    assert (ROOT / "benchmarks" / f"{module}.py").is_file()
    assert f"| `{module}` |" in (ROOT / "docs" / "benchmarks.md").read_text()


def test_an_unknown_module_is_refused():
    with pytest.raises(SystemExit):
        suite.parse(["no_such_module"])


def test_idle_shares_of_a_run_without_and_with_its_start_up(tmp_path: Path):
    """A run of 8 s, 6 of them work, inside a command of 20 s."""
    events = [
        {"ph": "M", "tid": 1, "name": "thread_name", "args": {"name": "run"}},
        {"ph": "M", "tid": 2, "name": "thread_name", "args": {"name": "rollout engine 0"}},
        {"ph": "B", "tid": 1, "ts": 0, "name": "training"},
        {"ph": "B", "tid": 2, "ts": 1e6, "name": "sample_group"},
        {"ph": "E", "tid": 2, "ts": 7e6},
        {"ph": "E", "tid": 1, "ts": 8e6},
    ]
    (tmp_path / "trace.json").write_text("".join(json.dumps({"pid": 1} | event) + ",\n" for event in events))
    running, whole, records = figures(tmp_path, 20.0)
    assert running.value == pytest.approx(2 / 8) and not running.reached
    assert whole.value == pytest.approx(14 / 20)
    assert "nothing 2.0 s" in running.note and "start-up, report and shutdown of 20 s 12.0 s" in whole.note
    assert records.value == 0 and records.reached


def test_the_tiny_quickstart_leaves_a_trace_with_work_in_it():
    running, whole, records = run(Scale.TINY)
    [(idle_s, total_s)] = running.raw
    assert 0 < idle_s < total_s and running.value < 0.9
    assert running.value < whole.value < 1
    assert 0 < records.value < 1
