from __future__ import annotations

import asyncio
import io
import json
import shlex
import shutil
from pathlib import Path

from rich.console import Console

from actors.run_folder import RunFolder
from actors.summary import summarise
from int_ray.config_file import load_config
from int_ray.metrics import evaluate_set
from int_ray.oracle_config import BudgetConfig, Price
from int_ray.oracles.chat import Answer
from int_ray.oracles.spending import Call, Ledger
from int_ray.types import RunState
from launch.console import ConsoleProgress, introduce, show_summary, what_next
from tests.factories import group


def test_plain_lines_where_there_is_no_terminal():
    out = io.StringIO()
    with ConsoleProgress(Console(file=out, width=80)) as progress:
        progress.phase("sampling", 2)
        progress.advance()
        progress.say("Iteration 1/2: reward [0.5]")
        progress.phase("sampling", 2)  # said once only
    assert out.getvalue() == "[00:00] Sampling (2)\n[00:00] Iteration 1/2: reward [0.5]\n"
    assert set(progress.seconds()) == {"sampling"}


def test_a_live_line_names_the_phase_on_a_terminal():
    out = io.StringIO()
    with ConsoleProgress(Console(file=out, width=80, force_terminal=True)) as progress:
        progress.phase("asking the oracle", 7)
        progress.advance(3)
    assert "asking the oracle" in out.getvalue() and "3/7" in out.getvalue()


def test_the_summary_compares_the_first_evaluation_with_the_last(tmp_path: Path):
    folder = RunFolder(tmp_path)
    for iteration, outcomes in ((0, "wwww"), (2, "cwww"), (4, "cccc")):
        folder.evaluation(iteration, "hard", [], evaluate_set([group(outcomes)], (1, 2), 0))
    for iteration in (1, 2, 3, 4):
        shares = {"rollout/reward": iteration / 4, "rollout/unsolved": 0.0, "rollout/zero_advantage": 0.0}
        folder.metrics(iteration, shares)
    for iteration in (2, 3):
        folder.journal.write("intervention_round", iteration=iteration, **COUNTS)
    summary = summarise(folder, RunState(4, 2, 2), 10.0, {"sampling": 4.0})
    assert summary["evaluation"]["hard"]["base"]["pass@1"]["mean"] == 0.0
    assert summary["evaluation"]["hard"]["end"]["pass@1"]["mean"] == 1.0
    assert summary["run"]["interventions_kept"] == 4 and summary["run"]["last_reward"] == 1.0
    out = io.StringIO()
    show_summary(summary, Console(file=out, width=100))
    assert "pass@2" in out.getvalue() and "1.000 [1.000, 1.000]" in out.getvalue()
    assert "sampling 100%" in out.getvalue() and "4 kept of 10 tested, from 2 rounds" in out.getvalue()
    assert "spent" not in out.getvalue() and summary["oracle"] == {}


def test_the_summary_shows_the_figures_that_both_evaluations_have(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.metrics(1, {"rollout/reward": 0.0, "rollout/unsolved": 1.0, "rollout/zero_advantage": 1.0})
    for iteration, sizes in ((0, (1, 2)), (1, (1, 4))):  # resumed with another evaluate.k
        folder.evaluation(iteration, "hard", [], evaluate_set([group("cwww")], sizes, 0))
    out = io.StringIO()
    show_summary(summarise(folder, RunState(1), 10.0, {}), Console(file=out, width=100))
    assert "pass@1" in out.getvalue() and "unsolved" in out.getvalue() and "pass@2" not in out.getvalue()


def test_the_summary_of_a_run_whose_disk_took_no_row_says_so(tmp_path: Path):
    out = io.StringIO()
    show_summary(summarise(RunFolder(tmp_path), RunState(1), 10.0, {}), Console(file=out, width=100))
    assert "no record of it was written" in out.getvalue()


def test_the_summary_and_the_report_count_the_same_rounds(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.metrics(4, {"rollout/reward": 0.0, "rollout/unsolved": 1.0, "rollout/zero_advantage": 1.0})
    for iteration, outage in ((0, None), (2, "over_budget"), (3, "over_budget"), (4, None)):
        folder.journal.write("intervention_round", iteration=iteration, outage=outage, **COUNTS)
    summary = summarise(folder, RunState(4, 2, 1), 10.0, {})
    assert summary["run"]["intervention_rounds"] == 1 and summary["run"]["interventions_kept"] == 4
    out = io.StringIO()
    show_summary(summary, Console(file=out, width=100))
    assert "4 kept of 10 tested, from a file and 1 round" in out.getvalue()


def test_the_summary_says_what_the_oracle_has_cost(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.metrics(1, {"rollout/reward": 0.0, "rollout/unsolved": 1.0, "rollout/zero_advantage": 1.0})
    ledger = Ledger(tmp_path / "oracle_calls.jsonl", BudgetConfig(), {"m": Price(input=1.0, output=0.0)})
    call = asyncio.run(ledger.reserve(Call("openai", "m", "p1", "key")))
    assert isinstance(call, Call)
    ledger.start(call)
    ledger.end(call, Answer("text", input_tokens=500_000, output_tokens=7))
    ledger.close()
    summary = summarise(folder, RunState(1), 10.0, {})
    assert summary["oracle"]["oracle/calls"] == 1 and summary["oracle"]["oracle/cost"] == 0.5
    out = io.StringIO()
    show_summary(summary, Console(file=out, width=200))
    assert "1 calls, 500,000 tokens read, 7 written; cost 0.500" in out.getvalue()


def test_the_summary_says_how_long_neither_engines_nor_learner_worked(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.metrics(1, {"rollout/reward": 0.0, "rollout/unsolved": 1.0, "rollout/zero_advantage": 1.0})
    run = [{"ph": "M", "pid": 1, "tid": 1, "name": "thread_name", "args": {"name": "run"}}]
    run += [{"ph": "M", "pid": 1, "tid": 2, "name": "thread_name", "args": {"name": "learner"}}]
    run += [{"ph": "B", "pid": 1, "tid": 1, "ts": 0, "name": "training"}]
    run += [{"ph": "B", "pid": 1, "tid": 2, "ts": 1e6, "name": "patch"}, {"ph": "E", "pid": 1, "tid": 2, "ts": 7e6}]
    run += [{"ph": "B", "pid": 1, "tid": 2, "ts": 7e6, "name": "save"}, {"ph": "E", "pid": 1, "tid": 2, "ts": 10e6}]
    run += [{"ph": "E", "pid": 1, "tid": 1, "ts": 10e6}]
    (tmp_path / "trace.json").write_text("".join(json.dumps(event) + ",\n" for event in run))
    summary = summarise(folder, RunState(1), 10.0, {})
    assert summary["idle"] == {"share": 0.4, "of_seconds": 10.0, "seconds": {"learner save": 3.0, "nothing": 1.0}}
    out = io.StringIO()
    show_summary(summary, Console(file=out, width=200))
    assert "40% of the time after start-up, most of it in learner save 30%, nothing 10%" in out.getvalue()


def test_the_summary_says_what_safety_and_records_cost(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.metrics(1, {"rollout/reward": 0.0, "rollout/unsolved": 1.0, "rollout/zero_advantage": 1.0})
    run = [{"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}} for tid, name in TRACKS]
    run += [{"ph": "B", "pid": 1, "tid": 1, "ts": 0, "name": "training"}]
    run += [{"ph": "B", "pid": 1, "tid": 2, "ts": 1e6, "name": "saving"}, {"ph": "E", "pid": 1, "tid": 2, "ts": 3e6}]
    run += [{"ph": "B", "pid": 1, "tid": 3, "ts": 4e6, "name": "write"}, {"ph": "E", "pid": 1, "tid": 3, "ts": 4.5e6}]
    run += [{"ph": "E", "pid": 1, "tid": 1, "ts": 100e6}]
    (tmp_path / "trace.json").write_text("".join(json.dumps(event) + ",\n" for event in run))
    summary = summarise(folder, RunState(1), 100.0, {})
    assert summary["overhead"] == {"share": 0.025, "of_seconds": 100.0, "seconds": {"saving": 2.0, "write": 0.5}}
    out = io.StringIO()
    show_summary(summary, Console(file=out, width=200))
    assert "safety and records" in out.getvalue()
    assert "2.5% of the time after start-up, most of it in saving 2.0%, write 0.5%" in out.getvalue()


TRACKS = [(1, "run"), (2, "coordinator"), (3, "upkeep")]


COUNTS = {"intervention/problems": 3, "intervention/attempts": 6, "intervention/tested": 5, "intervention/kept": 2}


def test_the_first_lines_say_what_is_about_to_happen():
    first, second = introduce(load_config("configs/quickstart.yaml", ["run.folder=runs/x"]))
    assert "32 problems x 16 rollouts" in first and "runs/x" in first
    assert "80% of the problems stay unsolved for 3 iterations" in second
    assert "no interventions" in introduce(load_config("configs/quickstart.yaml", ["schedule=never"]))[1]


def test_the_last_lines_can_be_pasted(tmp_path: Path):
    overrides = ["run.seed=1", "evaluate.k=[1, 4]", f"run.folder={tmp_path}/my run"]
    config = load_config("configs/quickstart.yaml", overrides)
    report, compare, curves = what_next(
        "configs/quickstart.yaml", overrides, ["my_checker"], config, tmp_path / "my run/report.html"
    )
    assert report.endswith("/my%20run/report.html") and "file:///" in report
    command = shlex.split(compare.partition(": ")[2])
    assert command[1:4] == ["train", "configs/quickstart.yaml", "run.seed=1"]
    assert command[4:7] == ["evaluate.k=[1, 4]", "schedule=never", f"run.folder={tmp_path}/my run-never"]
    assert command[7:] == ["--plugin", "my_checker"]
    assert shlex.split(curves.partition(": ")[2])[1:] == ["--logdir", f"{tmp_path}/my run"]
    assert all(shutil.which(command[0]) for command in (command, shlex.split(curves.partition(": ")[2])))


def test_plain_rl_is_offered_the_interventions():
    config = load_config("configs/quickstart.yaml", ["schedule=never"])
    line = what_next("configs/quickstart.yaml", ["schedule=never"], [], config, Path("report.html"))[1]
    assert "schedule=plateau run.folder=runs/quickstart-plateau" in line
