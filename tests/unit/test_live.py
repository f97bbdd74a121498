"""`int-ray watch`: what it makes of a run folder that is being written, and how it ends."""

from __future__ import annotations

import io
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType
from rich.console import Console

from actors.job_client import ClusterError, JobClient
from actors.run_folder import RunFolder
from actors.trace import Trace, TracedProgress
from int_ray.config_file import ConfigError, dump_config, load_config
from int_ray.report.live import LiveRun, Tail
from launch import watch
from launch.watch import EXIT_DETACHED, clock, folder_of, run_watch, sparkline, watch_folder, watch_job
from tests.fakes import FakeProgress
from tests.run_folders import write_run
from tests.unit.test_cli import cli

ROOT = Path(__file__).parents[2]
CONFIG = "configs/quickstart.yaml"


def seen(live: LiveRun) -> str:
    """What a person sees, with single spaces."""
    out = io.StringIO()
    Console(file=out, width=200).print(watch.picture(live))
    return " ".join(out.getvalue().split())


def begin(path: Path) -> RunFolder:
    """A run of 4 iterations that has just begun."""
    folder = RunFolder(path)
    (path / "config.yaml").write_text(dump_config(load_config(ROOT / CONFIG, ["run.iterations=4"])))
    folder.journal.write("started", iteration=0, schedule="plateau")
    return folder


def row(reward: float, seconds: float = 60.0) -> dict[str, float]:
    shares = {"rollout/reward": reward, "rollout/unsolved": 1 - reward, "rollout/zero_advantage": 0.5}
    return {**shares, "time/iteration_s": seconds}


def test_only_what_was_appended_is_read_and_half_a_line_waits(tmp_path: Path):
    path = tmp_path / "lines"
    tail = Tail(path)
    assert list(tail.lines()) == []
    path.write_bytes(b"one\ntw")
    assert list(tail.lines()) == [b"one\n"]
    with path.open("ab") as file:
        file.write(b"o\nthree\n")
    assert list(tail.lines()) == [b"two\n", b"three\n"]
    assert list(tail.lines()) == []


def test_a_run_is_followed_from_its_first_line_to_its_end(tmp_path: Path):
    folder = begin(tmp_path)
    live = LiveRun.open(tmp_path)
    assert "now starting" in seen(live) and "iteration 0 of 4" in seen(live)
    trace = Trace(tmp_path / "trace.json")
    progress = TracedProgress(FakeProgress(), trace)
    progress.phase("sampling", 32)
    progress.say("32 problems had no right rollout")
    trace.figures({"engines": 2, "engines_lost": 1, "samples_in_flight": 64, "tokens_per_second": 1234.5})
    folder.metrics(1, row(0.25))
    live.look()
    assert "now sampling, for 0 s" in seen(live) and "32 problems had no right rollout" in seen(live)
    assert "iteration 1 of 4, about 3 min left" in seen(live) and "reward ▃ 0.250" in seen(live)
    assert "2 at work, 1 lost; 64 samples in flight; 1,234 tokens/s" in seen(live)
    trace.figures({"engines": 2, "engines_joined": 1, "requests_waiting": 3, "oracle_calls": 5, "oracle_cost": 0.5})
    counts = {"intervention/problems": 3, "intervention/attempts": 6, "intervention/tested": 5, "intervention/kept": 2}
    folder.journal.write("intervention_round", iteration=2, **counts)
    folder.metrics(2, row(1.0, seconds=20.0))
    folder.journal.write("finished", seconds={})
    live.look()
    assert live.run.ending == "finished" and "now finished" in seen(live) and "left" not in seen(live)
    assert (
        "1 joined" in seen(live) and "3 requests waiting" in seen(live) and "5 calls, 0 tokens, cost 0.5" in seen(live)
    )
    assert "2 kept, from 1 round" in seen(live) and "reward ▃█ 1.000" in seen(live)


def test_the_time_left_is_judged_by_the_last_iterations(tmp_path: Path):
    folder = begin(tmp_path)
    for iteration, seconds in enumerate((30.0, 10.0), start=1):
        folder.metrics(iteration, row(0.5, seconds))
    assert LiveRun.open(tmp_path).seconds_left == 2 * 20.0


def test_a_resumed_run_goes_back_to_its_checkpoint(tmp_path: Path):
    folder = begin(tmp_path)
    for iteration in (1, 2, 3):
        folder.metrics(iteration, row(0.5))
    folder.journal.write("interrupted", seconds={})
    live = LiveRun.open(tmp_path)
    assert live.run.ending == "interrupted" and live.iteration == 3
    folder.journal.write("started", iteration=1, schedule="plateau")
    folder.metrics(2, row(0.75))
    live.look()
    assert live.run.ending is None and live.iteration == 2 and [item.reward for item in live.run.rows] == [0.5, 0.75]


def test_lines_that_cannot_be_read_are_left_out(tmp_path: Path):
    folder = begin(tmp_path)
    folder.metrics(1, row(0.5))
    for name in ("metrics.jsonl", "journal.jsonl", "trace.json"):
        with (tmp_path / name).open("ab") as file:
            file.write(
                b'nonsense\n{"ph": "C", "pid": 1, "tid": 0, "name": "figures", "args": {"engines": "\xff"}},\n{"half'
            )
    live = LiveRun.open(tmp_path)
    assert live.iteration == 1 and not live.figures and "iteration 1 of 4" in seen(live)


def test_nothing_that_a_run_says_can_steer_the_terminal(tmp_path: Path):
    begin(tmp_path)
    Trace(tmp_path / "trace.json").say("\x1b[2J\x1b]0;title\x07 \u202eback [red]rich[/red]")
    text = seen(LiveRun.open(tmp_path))
    assert "\x1b" not in text and "\u202e" not in text and "⟨U+001B⟩[2J" in text and "[red]rich[/red]" in text


def test_a_run_that_is_silent_is_named(tmp_path: Path):
    begin(tmp_path)
    Trace(tmp_path / "trace.json").say("hello")
    live = LiveRun.open(tmp_path)
    live.heard = time.time() - 600
    assert "silent for 10 min" in seen(live)


@pytest.mark.parametrize(("ending", "code"), [("finished", 0), ("failed", 1), ("interrupted", 75), (None, 0)])
def test_the_exit_code_is_the_runs(tmp_path: Path, ending: str | None, code: int):
    result = cli("watch", str(write_run(tmp_path / "run", ending=ending)), "--once")
    assert result.exit_code == code, result.output
    assert "iteration 6 of 6" in " ".join(result.output.split())


def test_watching_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.01)
    folder = begin(tmp_path)

    def end() -> None:
        folder.metrics(1, row(0.5))
        folder.journal.write("interrupted", seconds={})

    timer = threading.Timer(0.2, end)
    timer.start()
    out = io.StringIO()
    assert watch_folder(tmp_path, Console(file=out, width=100, force_terminal=True), once=False) == 75
    timer.join()
    assert "interrupted" in out.getvalue() and "iteration" in out.getvalue()


def test_ctrl_c_leaves_the_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", interrupt)
    begin(tmp_path)
    console = Console(file=io.StringIO(), force_terminal=True)
    assert watch_folder(tmp_path, console, once=False) == EXIT_DETACHED


def test_what_is_no_run_is_one_line(tmp_path: Path):
    with pytest.raises(ConfigError, match="holds no run"):
        LiveRun.open(tmp_path)
    (tmp_path / "journal.jsonl").write_text(json.dumps({"time": "2026-01-01T00:00:00Z", "event": "collecting"}) + "\n")
    with pytest.raises(ConfigError, match="holds a collection"):
        LiveRun.open(tmp_path)
    result = cli("watch", str(tmp_path / "nowhere"))
    assert result.exit_code == 2 and result.stderr.count("\n") == 1


@dataclass
class Job:
    """A job as the job API tells of it."""

    entrypoint: str
    status: JobStatus = JobStatus.RUNNING
    code: int | None = None
    start_time: int | None = 0  # ms

    def get_job_info(self, job_id: str) -> JobDetails:
        if job_id != "known":
            raise RuntimeError("Request failed with status code 404: no such job")
        return JobDetails(
            type=JobType.SUBMISSION,
            status=self.status,
            entrypoint=self.entrypoint,
            driver_exit_code=self.code,
            start_time=self.start_time,
        )

    def get_job_logs(self, job_id: str) -> str:
        return "what the job said\n"


def watched(job: Job, job_id: str = "known") -> int:
    return watch_job(cast(JobClient, cast(Any, job)), "http://127.0.0.1:8265", job_id, once=True)


def test_a_job_is_shown_by_its_folder_where_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_run(tmp_path / "run", ending="failed")
    assert watched(Job(f"python -m launch.cli train {CONFIG} run.folder={folder} --resume auto")) == 1
    assert "iteration" in capsys.readouterr().out
    elsewhere = f"python -m launch.cli train {CONFIG} run.folder=/not/here"
    assert watched(Job(elsewhere)) == 0
    assert capsys.readouterr().out == "what the job said\n"
    assert watched(Job(elsewhere, JobStatus.FAILED, 2)) == 2
    with pytest.raises(ClusterError, match="job unknown: Request failed with status code 404"):
        watched(Job(""), "unknown")


def test_a_job_that_has_not_begun_in_its_folder_is_shown_by_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = begin(tmp_path)
    folder.journal.write("interrupted", seconds={})
    command = f"python -m launch.cli train {CONFIG} run.folder={tmp_path} --resume auto"
    resubmitted = Job(command, start_time=round((time.time() + 60) * 1000))
    assert watched(resubmitted) == 0 and capsys.readouterr().out == "what the job said\n"
    assert watched(Job(command, start_time=None)) == 0 and capsys.readouterr().out == "what the job said\n"
    assert watched(Job(command, start_time=round((time.time() - 60) * 1000))) == 75
    assert "interrupted" in capsys.readouterr().out


def test_the_folder_of_a_job_is_in_its_command_or_its_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(ROOT)
    own = tmp_path / "own.yaml"
    own.write_text((ROOT / CONFIG).read_text().replace("folder: runs/quickstart", "folder: /shared/first"))
    assert folder_of(f"python -m launch.cli train {own} run.seed=1") == Path("/shared/first")
    assert folder_of(f"python -m launch.cli train {CONFIG} run.folder=/a 'run.folder=/shared/b c'") == Path(
        "/shared/b c"
    )
    relative = f"python -m launch.cli train {CONFIG}"  # to the job's copy of its folder, not to ours
    assert folder_of(f"{relative} run.seed=1") is None and folder_of(f"{relative} run.folder=runs/first") is None
    assert folder_of("python -m launch.cli train") is None and folder_of("echo 'x") is None
    assert folder_of("python -m launch.cli train not/here.yaml") is None and folder_of("sleep 5") is None


def test_a_folder_goes_before_a_job_of_that_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run_watch(str(write_run(tmp_path / "run")), address="http://127.0.0.1:9", once=True) == 0
    assert "finished" in capsys.readouterr().out


def test_sparklines_and_times_by_hand():
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█" and sparkline([]) == ""
    assert sparkline([0.0, 1.0] * 4, width=4) == "▅▅▅▅"
    assert [clock(seconds) for seconds in (0, 89, 90, 3600, 7500)] == ["0 s", "89 s", "2 min", "60 min", "2 h 05 min"]
