"""`int-ray collect` whole and real, with an oracle behind HTTP: killed in the middle, resumed, and trained on."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.exact_answers import ExactAnswers
from tests.wire_servers import GeminiServer

ROOT = Path(__file__).parents[2]
HARD = ROOT / "int_ray" / "chains" / "data" / "hard_train.jsonl"
KEY = "canary-key-0815"


class SlowAnswers:
    """The exact oracle's knowledge; `freely` questions after the first chunk are answered, the others are held up."""

    def __init__(self, folder: Path, freely: int):
        self.knowledge = ExactAnswers(HARD)
        self.folder = folder
        self.freely = freely
        self.release = threading.Event()
        self.held = 0
        self.lock = threading.Lock()

    def __call__(self, prompt: str) -> str:
        if finished_chunks(self.folder):
            with self.lock:
                self.freely -= 1
                is_held = self.freely < 0
                self.held += is_held
            if is_held:
                self.release.wait(120)
        return self.knowledge(prompt)


@dataclass
class Killed:
    """What was there when the collection was killed, and what came of it when it went on."""

    folder: Path
    answers: int  # on disk at the kill
    asked: int  # questions until then
    files: dict[str, str]  # name -> content at the kill
    questions: list[str]  # prompts of all questions
    asked_in_all: int
    output: str


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def finished_chunks(folder: Path) -> list[int]:
    return [event["chunk"] for event in json_lines(folder / "journal.jsonl") if event["event"] == "collected"]


def wait_for(what: str, condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, f"waited 240 s for {what}"
        time.sleep(0.1)


def start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "launch.cli", *arguments]
    environment = os.environ | {"GEMINI_API_KEY": KEY}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def kill(process: subprocess.Popen[str]) -> None:
    """Kill -9, and make sure that nothing it started stays behind."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    _, alive = psutil.wait_procs(family, timeout=180)
    assert not alive, alive


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("problems") / "hard.jsonl"
    path.write_text("".join(HARD.read_text().splitlines(keepends=True)[:24]))
    return path


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, problems: Path) -> Iterator[Killed]:
    """A collection that was killed in its second chunk of three, and then resumed to the end."""
    folder = tmp_path_factory.mktemp("collect") / "run"
    answers = SlowAnswers(folder, freely=3)
    with GeminiServer(answers, key=KEY) as server:
        arguments = ["collect", "configs/quickstart.yaml", *overrides(folder, problems, server.url)]
        process = start(arguments)
        try:
            wait_for("a question that is held up", lambda: answers.held > 0, process)
            wait_for("the answers", lambda: is_quiet(folder, len(server.questions) - answers.held), process)
            at_kill = {
                "answers": len(json_lines(folder / "oracle_answers.jsonl")),
                "files": {str(path): path.read_text() for path in folder.glob("*/iteration_*.jsonl")},
            }
        finally:
            kill(process)
        at_kill["asked"] = len(server.questions)
        answers.release.set()
        resumed = start([*arguments, "--resume", "auto"])
        output, _ = resumed.communicate(timeout=400)
        assert resumed.returncode == 0, output
        questions = [server.prompt(question) for question in server.questions]
        yield Killed(folder=folder, questions=questions, asked_in_all=len(questions), output=output, **at_kill)


def is_quiet(folder: Path, expected: int) -> bool:
    return len(json_lines(folder / "oracle_answers.jsonl")) >= expected


def overrides(folder: Path, problems: Path, url: str) -> list[str]:
    return [
        f"run.folder={folder}",
        f"problems.train={problems}",
        "run.iterations=1",
        "problems.mixed=null",
        "rollout.mixed=0",
        "rollout.batch_size=8",
        "rollout.n=4",
        "reinforce.mini_batch_size=8",
        "patch.continuations=8",
        "patch.batch_size=4",
        "patch.epochs=8",
        "evaluate.sets={}",
        "oracle.kind=gemini",
        f"oracle.gemini.base_url={url}",
    ]


def test_what_was_answered_before_the_kill_is_not_asked_again(killed: Killed):
    assert killed.answers > 3 and killed.asked > killed.answers  # some were on the way
    different = len(set(killed.questions))
    assert killed.asked_in_all - killed.asked == different - killed.answers
    assert len(json_lines(killed.folder / "oracle_answers.jsonl")) == different


def test_what_was_sampled_before_the_kill_is_not_sampled_again(killed: Killed):
    names = sorted(Path(path).parent.name for path in killed.files)
    assert names == ["interventions", "rollouts", "rollouts"]
    assert all(Path(path).read_text() == content for path, content in killed.files.items())
    assert "1 of 3 chunks of problems are finished already" in killed.output
    assert finished_chunks(killed.folder) == [1, 2, 3]


def test_the_summary_says_what_there_is_and_what_was_spent(killed: Killed):
    calls = [line for line in json_lines(killed.folder / "oracle_calls.jsonl") if line["event"] == "started"]
    assert len(calls) == killed.asked_in_all
    for words in ("problems sampled", "interventions kept", f"{len(calls)} calls", "broken_off", "inspect"):
        assert words in killed.output, words


def test_the_key_is_nowhere(killed: Killed):
    assert KEY not in killed.output
    for path in killed.folder.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_the_file_says_where_each_intervention_comes_from(killed: Killed):
    rows = json_lines(killed.folder / "interventions.jsonl")
    assert rows and len({row["problem_id"] for row in rows}) > 8
    for row in rows:
        assert row["num_correct"] > 0 and row["num_graded"] == 8
        assert row["proposed_by"]["oracle"] == "gemini" and row["proposed_by"]["prompt_hash"]
        assert row["completion"].startswith("".join(row["steps"][: row["location"] - 1]))
        assert row["incorrect_attempt"].split("\n\n")[row["location"] - 1] == row["replaced"].strip()


@pytest.mark.slow
def test_the_command_that_it_prints_trains_with_the_file(killed: Killed):
    (line,) = (line for line in killed.output.splitlines() if line.startswith("To train with them: "))
    arguments = shlex.split(line.partition("int-ray train ")[2])
    process = start(["train", *arguments, "schedule=never"])
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    folder = Path(f"{killed.folder}-trained")
    (row,) = json_lines(folder / "metrics.jsonl")
    assert row["rollout/reward"] > 0  # the patch came before the first iteration
    groups = json_lines(next((folder / "rollouts").iterdir()))
    assert {rollout["policy_version"] for group in groups for rollout in group["rollouts"]} == {1}
