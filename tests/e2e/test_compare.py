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
    f"evaluate.sets.hard_test={{path: {DATA}/hard_test.jsonl, limit: 2}}",
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
    for name in ("hard_train", "hard_test", "easy"):
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
    late, all_ = [0] * 3 + [2] * 3, [0] * 3 + [1] * 3 + [2] * 3  # once for each set
    assert patched == {"standard_rl": late, "distillation": all_, "int": all_}
    kl = {
        (arm, event["iteration"]): event["kl"]
        for arm, run in runs.items()
        for event in events(run, "drift")
        if event["set"] == "easy"
    }
    assert all(value == pytest.approx(0, abs=1e-6) for (_, iteration), value in kl.items() if iteration == 0)
    # An estimate on a few sampled responses: its sign is not certain, that something moved is.
    assert all(abs(kl[arm, 1]) > 1e-6 for arm in ("distillation", "int"))
    for arm in ("distillation", "int"):
        rows = [json.loads(line) for line in (runs[arm] / "drift/iteration_000001/easy.jsonl").read_text().splitlines()]
        assert len(rows) == 8 and kl[arm, 1] == pytest.approx(sum(row["kl"] for row in rows) / 8)


def test_results_and_verdicts(folder: Path):
    results = json.loads((folder / "results.json").read_text())
    assert results["seeds"] == {arm: [0] for arm in ARMS}
    policies = [row["policy"] for row in results["pass_at"] if (row["set"], row["k"]) == ("easy", 1)]
    assert len(policies) == 6  # the base, two patched policies before RL, three arms at their end
    claims = {claim["says"]: claim for claim in results["claims"]}
    assert len(claims) == 11
    for rival in ("standard RL", "distillation + RL"):  # n = 4, and one benchmark
        harder = claims[f"InT + RL solves more hard test problems than {rival}."]
        assert (harder["verdict"], harder["difference"]) == ("not testable", None)
        assert harder["why"] == "hard_test was evaluated with 4 rollouts per problem, and pass@8 needs 8."
        average = claims[f"InT + RL is better than {rival} on average over the benchmarks."]
        assert average["verdict"] == "not testable"
        assert average["why"] == "It needs at least 2 sets beside the hard problems; there is 1."
    assert claims["Interventions are shorter than full solutions."]["verdict"] == "reproduced"
    # Whatever these come to, they were measured, on the problems of their sets.
    for says, problems in (
        ("RL on the base model stays stuck on the hard training problems.", 8),
        ("InT + RL keeps held-out pass@1.", 8),
        ("Cloning interventions moves the model less than cloning solutions.", 8 + 8 + 2),
    ):
        claim = claims[says]
        assert (claim["seeds"], claim["problems"]) == (1, problems), says
        assert claim["difference"]["low"] <= claim["difference"]["mean"] <= claim["difference"]["high"]
        assert "One seed: the interval is over problems alone." in claim["why"]
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
