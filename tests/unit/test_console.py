from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from actors.run_folder import RunFolder
from actors.summary import summarise
from int_ray.metrics import evaluate_set
from int_ray.types import RunState
from launch.console import ConsoleProgress, show_summary
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
    folder = RunFolder(tmp_path, tensorboard=False)
    for iteration, outcomes in ((0, "wwww"), (2, "cwww"), (4, "cccc")):
        folder.evaluation(iteration, "hard", [], evaluate_set([group(outcomes)], (1, 2), 0))
    for iteration in (1, 2, 3, 4):
        folder.metrics(iteration, {"rollout/reward": iteration / 4, "rollout/unsolved": 0.0})
    folder.metrics(2, {"rollout/reward": 0.5, "rollout/unsolved": 0.0, "intervention/problems": 3.0} | COUNTS)
    summary = summarise(folder, RunState(4, 2, 1), 10.0, {"sampling": 4.0})
    assert summary["evaluation"]["hard"]["base"]["pass@1"]["mean"] == 0.0
    assert summary["evaluation"]["hard"]["end"]["pass@1"]["mean"] == 1.0
    assert summary["run"]["interventions_kept"] == 2 and summary["run"]["last_reward"] == 1.0
    out = io.StringIO()
    show_summary(summary, Console(file=out, width=100))
    assert "pass@2" in out.getvalue() and "1.000 [1.000, 1.000]" in out.getvalue()


COUNTS = {"intervention/attempts": 6.0, "intervention/tested": 5.0, "intervention/kept": 2.0}
