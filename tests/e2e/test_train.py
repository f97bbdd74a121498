"""The command, whole and real: Ray, vLLM, two FSDP2 ranks; interrupted, resumed, and looked at from the outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from actors.checkpoint import Checkpoints
from int_ray.report.live import LiveRun
from int_ray.timeline import read_spans

pytestmark = pytest.mark.timeout(1800)  # the first test to ask for it waits for the whole run
ROOT = Path(__file__).parents[2]
SMALL = [
    "run.iterations=4",
    "run.checkpoint_every=1",
    "rollout.batch_size=8",
    "rollout.n=8",
    "reinforce.mini_batch_size=4",
    "trigger.patience=2",
    "patch.continuations=8",
    "evaluate.n=4",
    "evaluate.k=[1, 4]",
]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "launch.cli", "train", "configs/quickstart.yaml", f"run.folder={folder}", *SMALL]
    # Tests that run in the background ignore Ctrl-C, and so would all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A process group of its own, as a shell gives it: a terminal's Ctrl-C reaches all of it.
    return subprocess.Popen(
        [*command, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
    )


def wait_for(what: str, condition: Callable[[], bool], deadline_s: float) -> None:
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, f"waited {deadline_s:.0f} s for {what}"
        time.sleep(0.2)


def events(folder: Path) -> list[dict]:
    path = folder / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def count_events(folder: Path, name: str) -> int:
    return sum(event["event"] == name for event in events(folder))


def has_event(folder: Path, name: str) -> bool:
    return count_events(folder, name) > 0


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted after its first checkpoint, killed twice, told to stop, and resumed to the end."""
    folder = tmp_path_factory.mktemp("train") / "run"
    process = start(folder)
    try:
        wait_for("the first checkpoint", lambda: has_event(folder, "checkpoint") or process.poll() is not None, 500)
        assert process.poll() is None, process.communicate()[0]
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 4  # Ray, two ranks, an engine: there is something to leave behind
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert_resumable_and_gone(process, output, family)
    rounds = count_events(folder, "intervention_round")
    family = killed_when(folder, "the patch", lambda: count_events(folder, "intervention_round") > rounds)
    before = finished_groups(folder)
    family += killed_when(folder, "some groups to be sampled", lambda: bool(finished_groups(folder) - before))
    stopped_by_sigterm(folder)
    (folder / "output.txt").write_text(run_to_the_end(folder, "--resume", "auto"))
    _, alive = psutil.wait_procs(family, timeout=180)  # Ray's agents wait a while for a GCS that is gone
    assert not alive, alive
    return folder


def stopped_by_sigterm(folder: Path) -> None:
    """Resume, and ask it to stop as soon as it works; where no iteration has ended, it stands at its checkpoint."""
    before = finished_groups(folder)
    process = start(folder, "--resume", "auto")
    try:
        wait_for("a group", lambda: bool(finished_groups(folder) - before) or process.poll() is not None, 500)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=180)
    finally:
        process.kill()
    assert_resumable_and_gone(process, output, family)
    assert count_events(folder, "interrupted") > 0 and count_events(folder, "finished") == 0, output
    newest, _, mistakes = Checkpoints(folder / "checkpoints", 1).latest()
    assert newest is not None and not mistakes, output


def assert_resumable_and_gone(process: subprocess.Popen[str], output: str, family: list[psutil.Process]) -> None:
    assert process.returncode == 75, output
    assert "--resume auto" in output and "Traceback" not in output, output
    _, alive = psutil.wait_procs(family, timeout=180)
    assert not alive, alive


def run_to_the_end(folder: Path, *arguments: str) -> str:
    process = start(folder, *arguments)
    try:
        output, _ = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


def killed_when(folder: Path, what: str, condition: Callable[[], bool]) -> list[psutil.Process]:
    """Resume, and kill -9 the driver as soon as the condition is met; returns what may outlive it for a while only."""
    started = count_events(folder, "started")
    process = start(folder, "--resume", "auto")
    try:
        wait_for("its start", lambda: count_events(folder, "started") > started or process.poll() is not None, 500)
        wait_for(what, lambda: condition() or process.poll() is not None, 500)
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    finally:
        process.kill()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, output
    return family


def finished_groups(folder: Path) -> set[bytes]:
    """Lines of the groups that a resumed run would not sample again."""
    try:
        return {line for path in (folder / "groups").iterdir() for line in path.read_bytes().splitlines()}
    except FileNotFoundError:  # a file that a checkpoint outdates is deleted
        return set()


def test_the_resumed_run_finishes_with_a_stall_a_patch_and_an_evaluation(run_folder: Path):
    names = [event["event"] for event in events(run_folder)]
    assert names.count("started") == 5 and "interrupted" in names and names[-1] == "finished"
    summary = json.loads((run_folder / "summary.json").read_text())
    assert summary["run"]["iterations"] == 4
    assert summary["run"]["intervention_rounds"] >= 1
    assert summary["run"]["interventions_kept"] >= 1
    assert summary["run"]["policy_version"] >= 1
    assert set(summary["evaluation"]) == {"hard_train", "hard_test", "easy"}
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert {row["iteration"] for row in rows} == {1, 2, 3, 4}
    assert rows[0]["rollout/unsolved"] == 1.0
    assert all(row["sync/canary_error"] < 1e-3 for row in rows if "sync/canary_error" in row)


def test_the_resumed_run_is_to_the_last_bit_the_one_that_nothing_happened_to(run_folder: Path, tmp_path: Path):
    run_to_the_end(tmp_path / "run")
    ours, theirs = (metrics_rows(folder) for folder in (run_folder, tmp_path / "run"))
    assert ours == theirs
    for path in sorted((tmp_path / "run" / "rollouts").iterdir()):
        assert (run_folder / "rollouts" / path.name).read_text() == path.read_text()
    for path in sorted((tmp_path / "run" / "evaluations").rglob("*.score.json")):
        assert (run_folder / path.relative_to(tmp_path / "run")).read_text() == path.read_text()
    ours, theirs = (folder / "checkpoints" / "iteration_000004" for folder in (run_folder, tmp_path / "run"))
    names = sorted(path.relative_to(theirs) for path in theirs.rglob("*.safetensors"))
    assert len(names) >= 4  # two shards of the model, two of its reference
    for name in names:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def metrics_rows(folder: Path) -> dict[int, dict[str, float]]:
    """Iteration -> its last row, without what a clock has measured."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timeless = ({name: row[name] for name in row if not name.startswith(("time/", "sync/seconds"))} for row in rows)
    return {int(row["iteration"]): row for row in timeless}


def test_the_run_folder_is_readable(run_folder: Path):
    assert "schedule: plateau" in (run_folder / "config.yaml").read_text()
    group = json.loads((run_folder / "rollouts" / "iteration_000001.jsonl").read_text().splitlines()[0])
    assert group["question"].endswith("=?") and len(group["rollouts"]) == 8
    assert group["rollouts"][0]["outcome"] in {"wrong", "correct", "unparsable", "truncated"}
    kept = [
        record
        for path in (run_folder / "interventions").iterdir()
        for record in map(json.loads, path.read_text().splitlines())
        if record.get("kept")
    ]
    assert kept and all(record["success_rate"] > 0 and record["content"] for record in kept)
    assert list((run_folder / "tensorboard").glob("events*"))
    assert "Evaluation" in (run_folder / "output.txt").read_text()


def test_the_trace_has_the_work_of_both_processes(run_folder: Path):
    spans = read_spans(run_folder / "trace.json")
    runs = [span for span in spans if span.track == "run"]
    assert len(runs) == 5
    for run in runs:
        inside = {(span.track, span.name) for span in spans if run.start <= span.start and span.end <= run.end}
        assert ("rollout engine 0", "sample_group") in inside and ("weight sync", "publish") in inside
    assert {("learner", "patch"), ("learner", "save"), ("oracle", "intervene")} <= {
        (span.track, span.name) for span in spans
    }
    idle = json.loads((run_folder / "summary.json").read_text())["idle"]
    assert 0 < idle["share"] < 1 and idle["of_seconds"] == pytest.approx(sum(run.end - run.start for run in runs), 0.1)


def test_what_safety_and_records_cost_is_told(run_folder: Path):
    overhead = json.loads((run_folder / "summary.json").read_text())["overhead"]
    assert 0 < overhead["share"] < 1 and "saving" in overhead["seconds"]
    assert "safety" in (run_folder / "output.txt").read_text()


def test_the_finished_run_can_be_watched(run_folder: Path):
    live = LiveRun.open(run_folder)
    assert live.run.ending == "finished" and live.iteration == 4 and live.kept >= 1
    assert live.figures["engines"] == 1 and any("After iteration 4" in line for line in live.story)
    assert live.figures["policy_version"] >= 1 and live.figures["learner_step_seconds"] > 0


def test_the_checkpoint_is_an_ordinary_model_folder(run_folder: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = run_folder / "checkpoints" / "iteration_000004"
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "12+5=?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    text = tokenizer.decode(model.generate(**prompt, max_new_tokens=20, do_sample=False)[0])
    assert "12+5=" in text.rpartition("<|assistant|>")[2]


def test_sigterm_ends_a_run_as_ctrl_c_does(tmp_path: Path):
    """While Ray starts, whose own handler would end the process with 15; batch systems go on after 75."""
    process = start(tmp_path / "run")
    family: list[psutil.Process] = []

    def has_ray() -> bool:
        family[:] = psutil.Process(process.pid).children(recursive=True)
        return len(family) >= 4  # GCS, raylet and their helpers

    try:
        wait_for("Ray's processes", lambda: process.poll() is not None or has_ray(), 150)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=180)
    finally:
        process.kill()
    assert_resumable_and_gone(process, output, family)
    assert has_event(tmp_path / "run", "interrupted")


def test_the_documented_python_example_runs(tmp_path: Path):
    command = [sys.executable, "docs/own_task.py", str(tmp_path / "own")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 iterations" in result.stdout
    assert has_event(tmp_path / "own", "intervention_round")
