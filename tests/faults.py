"""A training run of real processes that a test can do anything to: started, watched, killed by pid, resumed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from tests.exact_answers import ExactAnswers
from tests.stand_ins import DECODE_S, ENGINES, FOLDER, Story
from tests.wire_servers import OpenAIServer

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "from tests.stand_ins import main; main()"]
HARD = ROOT / "int_ray" / "chains" / "data" / "hard_train.jsonl"
KEY_ENV, KEY = "INT_RAY_TEST_KEY", "for-the-oracle"
# Small, and of staleness 0: a run ends with the same weights whatever happens to its processes.
SETTINGS = [
    "rollout.batch_size=8",
    "rollout.mixed=2",
    "rollout.n=4",
    "rollout.num_engines=2",
    "rollout.max_num_seqs=8",
    "reinforce.mini_batch_size=4",
    "oracle.kind=openai",
    "oracle.concurrency=1",
    "oracle.openai.model=teacher",
    f"oracle.openai.api_key_env={KEY_ENV}",
    "trigger.patience=1",
    "trigger.cooldown=0",
    "trigger.max_rounds=2",
    "patch.continuations=4",
    "patch.epochs=2",
    "evaluate.sets={hard: int_ray/chains/data/hard_test.jsonl}",
    "evaluate.n=2",
    "evaluate.k=[1]",
    "run.checkpoint_every=1",
]
STAND_INS_ONLY = ["learner.canary_tolerance=1000"]  # they have no log-probs
UNDISTURBED_ITERATIONS = 20
# Seconds that Ray's processes wait for a GCS that is gone, 60 by default: what a test waits for after it was killed.
GCS_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
FIGURES = "INT_RAY_FAULT_FIGURES"  # environment variable: a file that gets a JSON line per measured recovery


def wait_until(what: str, condition: Callable[[], object], deadline_s: float = 600) -> None:
    """Wait for a condition, with a deadline that only matters on failure."""
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, f"waited {deadline_s:.0f} s for {what}"
        time.sleep(0.1)


def figure(fault: str, seconds: float) -> None:
    """Note how long a recovery took, where somebody wants to know."""
    if path := os.environ.get(FIGURES):
        with Path(path).open("a") as file:
            file.write(json.dumps({"fault": fault, "seconds": round(seconds, 1)}) + "\n")


def is_alive(pid: int, told: float = math.inf) -> bool:
    """Whether a process runs, or could run if it was not stopped; one that began after `told` is another one."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < told + 1  # clocks differ a little
    except psutil.NoSuchProcess:
        return False


class TrainingRun:
    """`int-ray train` with stand-in engines and a paid oracle; `start` again after it has ended resumes it."""

    def __init__(self, folder: Path, iterations: int, *settings: str, decode_s: float = 0.1) -> None:
        self.folder = folder / "run"
        self.iterations = iterations
        self.story = Story(folder)
        kind = [] if os.environ.get(ENGINES) == "vllm" else STAND_INS_ONLY
        self.settings = [*SETTINGS, *kind, f"run.folder={self.folder}", f"run.iterations={iterations}", *settings]
        self._open = ExitStack()
        self.oracle = self._open.enter_context(OpenAIServer(ExactAnswers(HARD), key=KEY, models=("teacher",)))
        self.settings.append(f"oracle.openai.base_url={self.oracle.url}")
        told = {FOLDER: str(folder), DECODE_S: str(decode_s), GCS_PATIENCE: "10", KEY_ENV: KEY}
        self.environment = {**os.environ, **told}
        self.environment.pop("RAY_ADDRESS", None)
        self.family: dict[int, psutil.Process] = {}  # every process of the run that was ever seen
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self._next_look = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, *arguments: str) -> None:
        """Start it; what it says goes to a file, which nobody has to read meanwhile."""
        self.starts += 1
        command = [*COMMAND, "train", "configs/quickstart.yaml", *self.settings, "--resume", "auto", *arguments]
        with self._output_file().open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=output, stderr=subprocess.STDOUT, process_group=0
            )

    def _output_file(self) -> Path:
        return self.story.folder / f"output_{self.starts}.txt"

    @property
    def output(self) -> str:
        """What the present or last process said."""
        return self._output_file().read_text()

    def said(self) -> str:
        """By all processes so far, in one piece."""
        return "".join(path.read_text() for path in sorted(self.story.folder.glob("output_*.txt")))

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        """Wait for a condition while the run goes on."""

        def met() -> bool:
            self.look()
            if condition():
                return True
            assert self.exit_code is None, f"ended before {what}: {self.output}"
            return False

        wait_until(what, met)

    @property
    def exit_code(self) -> int | None:
        """Of the present or last process; None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def is_training(self) -> bool:
        """Whether the present process has come as far as its first rollouts."""
        begun = [event for event in self.story.events() if event["event"] in ("driver", "sampling")]
        return self.exit_code is None and bool(begun) and begun[-1]["event"] == "sampling"

    def look(self, *, at_once: bool = False) -> None:
        """Remember the processes that there are now; once a second, as it takes a look at all of the machine."""
        if at_once or time.monotonic() > self._next_look:
            self._next_look = time.monotonic() + 1
        else:
            return
        if self.process is not None and self.process.poll() is None:
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self.family.setdefault(process.pid, process)

    def end(self, code: int | None = 0) -> None:
        """Wait until the run has ended, with `code` unless that is None; no process of it may be left."""
        wait_until("the run to end", lambda: (self.look(), self.exit_code is not None)[1])
        assert code is None or self.exit_code == code, self.output
        self.assert_gone()

    def kill(self) -> None:
        """kill -9 of the driver alone."""
        assert self.process is not None
        self.look(at_once=True)
        self.process.kill()
        self.process.wait()

    def assert_gone(self) -> None:
        """Nothing is left of any process that the run ever had."""
        _, alive = psutil.wait_procs(list(self.family.values()), timeout=180)
        assert not alive, alive

    def close(self) -> None:
        """For the end of a test, passed or not: end what is left, by pid."""
        self.look(at_once=True)
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process in self.family.values():
            if process.is_running():
                process.kill()
        self._open.close()

    # What the run has to show.

    def journal(self, event: str | None = None) -> list[dict[str, Any]]:
        """Its journal's events."""
        return [one for one in read_lines(self.folder / "journal.jsonl") if event in (None, one["event"])]

    def metrics(self) -> list[dict[str, Any]]:
        """One row per iteration, the last where there are several; without what a clock or another engine changes.

        And without the bill, which a kill in the middle of a request raises.
        """
        rows = {row["iteration"]: row for row in self.rows()}
        return [
            {name: value for name, value in row.items() if not name.startswith(("time/", "sync/", "oracle/"))}
            for _, row in sorted(rows.items())
        ]

    def rows(self) -> list[dict[str, Any]]:
        """All rows of metrics, in the order of writing."""
        return read_lines(self.folder / "metrics.jsonl")

    def trained_groups(self, iteration: int) -> list[dict[str, Any]]:
        """The rollouts of an iteration as they were written down."""
        return read_lines(self.folder / "rollouts" / f"iteration_{iteration:06d}.jsonl")

    def weights(self) -> Mapping[str, bytes]:
        """The newest checkpoint's, bit by bit."""
        from safetensors.numpy import load_file

        newest = max(self.folder.glob("checkpoints/iteration_??????"))
        tensors: dict[str, bytes] = {}
        for path in newest.glob("*.safetensors"):
            tensors |= {name: tensor.tobytes() for name, tensor in load_file(path).items()}
        assert tensors
        return tensors

    def pids(self, event: str, *keys: str) -> list[int]:
        """Living processes that have told an event, oldest first; `keys` are others that it names."""
        mine = {one[key]: one["time"] for one in self.story.events(event) for key in (keys or ("pid",))}
        return [pid for pid, told in mine.items() if is_alive(pid, told)]


def undisturbed_run(folder: Path, iterations: int) -> TrainingRun:
    """A run that nothing happened to, for comparison."""
    run = TrainingRun(folder, iterations)
    try:
        run.start()
        run.end()
    finally:
        run.close()
    return run


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines; a torn one is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def assert_same_training(run: TrainingRun, undisturbed: TrainingRun) -> None:
    """Every problem of every iteration was trained exactly once, with the same samples: all else would show here."""
    assert run.metrics() == undisturbed.metrics()
    for row in undisturbed.metrics():
        ours, theirs = (one.trained_groups(row["iteration"]) for one in (run, undisturbed))
        assert [group["problem_id"] for group in ours] == [group["problem_id"] for group in theirs]
        assert ours == theirs
    assert run.weights() == undisturbed.weights()


def stop(pid: int) -> None:
    """SIGSTOP."""
    os.kill(pid, signal.SIGSTOP)


def kill(pid: int) -> None:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)


def one_version_one_set_of_weights(events: Iterable[Mapping[str, Any]]) -> bool:
    """Whether whatever was sampled with one policy version was sampled with the same weights, on every engine."""
    pairs = {(event["version"], event["weights"]) for event in events if event["event"] in ("sampling", "continuing")}
    return len({version for version, _ in pairs}) == len(pairs)
