"""`int-ray compare`, tiny and real: three arms on one Ray, one engine and one learner; resumed; nothing left to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(1900)  # two calls of at most 900 s in one test

ROOT = Path(__file__).parents[2]
DATA = "int_ray/chains/data"
ARMS = ("standard_rl", "distillation", "int")
SMALL = [
    "compare.arms={standard_rl: [schedule=never], distillation: [patch.clone=solutions], int: []}",
    "run.iterations=2",
    "run.checkpoint_every=1",
    f"problems.train={{path: {DATA}/hard_train.jsonl, limit: 8}}",
    "problems.mixed=null",
    "rollout.mixed=0",
    "rollout.batch_size=8",
    "rollout.n=8",
    "reinforce.mini_batch_size=4",
    "patch.continuations=8",
    "evaluate.sets={}",  # those of the file are not merged with these
    f"evaluate.sets.hard_train={{path: {DATA}/hard_train.jsonl, limit: 8}}",
    f"evaluate.sets.easy={{path: {DATA}/easy.jsonl, limit: 8}}",
    "evaluate.n=4",
    "evaluate.k=[1, 4]",
]


def compare(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "launch.cli", "compare", "configs/compare.yaml", f"run.folder={folder}", *SMALL]
    result = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def events(folder: Path, name: str) -> list[dict]:
    lines = (folder / "journal.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished experiment, with the story of its process."""
    path = tmp_path_factory.mktemp("compare") / "experiment"
    (path.parent / "story.txt").write_text(compare(path))
    return path


def test_every_arm_is_an_ordinary_run_on_shared_compute(folder: Path):
    story = (folder.parent / "story.txt").read_text()
    assert story.count("Starting Ray") == 1
    assert [f"== Run {n} of 3: seed 0, {arm}" in story for n, arm in enumerate(ARMS, start=1)] == [True] * 3
    for arm in ARMS:
        run = folder / "seed-0" / arm
        assert len(events(run, "started")) == len(events(run, "finished")) == 1
        for name in ("config.yaml", "metrics.jsonl", "summary.json", "report.html", "trace.json"):
            assert (run / name).is_file(), f"{arm}: {name}"
        assert (run / "checkpoints" / "iteration_000002" / "manifest.json").is_file()


def test_all_arms_begin_with_the_same_policy(folder: Path):
    for name in ("hard_train", "easy"):
        path = f"evaluations/iteration_000000/{name}.jsonl"
        first, *others = [(folder / "seed-0" / arm / path).read_text() for arm in ARMS]
        assert first and others == [first, first]


def test_distillation_clones_solutions_and_int_interventions(folder: Path):
    runs = {arm: folder / "seed-0" / arm for arm in ARMS}
    (line, *_) = (runs["distillation"] / "solutions/iteration_000001.jsonl").read_text().splitlines()
    solution = json.loads(line)
    assert solution["kept"] and solution["outcome"] == "correct" and solution["num_tokens"] > 40
    assert list((runs["int"] / "interventions").iterdir()) and not list(
        (runs["distillation"] / "interventions").iterdir()
    )
    patched = {arm: [event["iteration"] for event in events(run, "drift")] for arm, run in runs.items()}
    assert patched == {"standard_rl": [0, 0, 2, 2], "distillation": [0, 0, 1, 1, 2, 2], "int": [0, 0, 1, 1, 2, 2]}
    kl = {(arm, event["iteration"]): event["kl"] for arm, run in runs.items() for event in events(run, "drift")}
    assert all(value == pytest.approx(0, abs=1e-6) for (_, iteration), value in kl.items() if iteration == 0)
    assert kl["distillation", 1] > 0 and kl["int", 1] > 0


def test_results_and_verdicts(folder: Path):
    results = json.loads((folder / "results.json").read_text())
    assert results["seeds"] == {arm: [0] for arm in ARMS}
    policies = [row["policy"] for row in results["pass_at"] if (row["set"], row["k"]) == ("easy", 1)]
    assert len(policies) == 6  # the base, two patched policies before RL, three arms at their end
    assert {claim["verdict"] for claim in results["claims"]} <= {"reproduced", "not reproduced", "not testable"}
    assert "| policy |" in (folder / "results.md").read_text()
    assert "<svg" in (folder / "report.html").read_text()


def test_a_second_call_trains_what_is_left_and_a_third_nothing(folder: Path):
    run = folder / "seed-0" / "int"
    before = (run / "metrics.jsonl").read_text()
    (run / "summary.json").unlink()  # as if the process had died while it evaluated at the end
    story = compare(folder, "--resume", "auto")
    assert "2 of 3 runs are finished already" in story and "Going on after iteration 2" in story
    assert (run / "summary.json").is_file() and (run / "metrics.jsonl").read_text() == before
    story = compare(folder, "--resume", "auto")
    assert "3 of 3 runs are finished already" in story and "Ray" not in story
