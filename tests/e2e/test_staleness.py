"""A real run that samples ahead: weights change in mid-response, the bound holds, a patch drains."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "rollout.staleness=2",
    "rollout.top_p=1.0",
    "rollout.batch_size=8",
    "rollout.mixed=4",
    "rollout.n=8",
    "rollout.max_num_seqs=32",  # so that a batch is still being sampled when the one before it is trained
    "reinforce.importance_cap=2.0",
    "reinforce.zero_advantage=keep",  # every iteration changes the weights
    "reinforce.mini_batch_size=4",
    "trigger.patience=2",
    "trigger.max_rounds=1",
    "patch.continuations=8",
    "run.iterations=4",
    "run.checkpoint_every=4",
    "evaluate.sets={}",
]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staleness") / "run"
    command = [sys.executable, "-m", "launch.cli", "train", "configs/quickstart.yaml", f"run.folder={folder}"]
    result = subprocess.run([*command, *SETTINGS], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert ", staleness " in result.stdout
    return folder


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def rollouts(folder: Path) -> list[dict]:
    lines = [line for path in sorted((folder / "rollouts").iterdir()) for line in path.read_text().splitlines()]
    return [rollout for line in lines for rollout in json.loads(line)["rollouts"]]


def test_the_bound_holds_and_is_used(run_folder: Path):
    ages = [row["rollout/staleness_max"] for row in rows(run_folder)]
    assert len(ages) == 4 and max(ages) in (1, 2) and ages[0] == 0
    assert all(row["sync/canary_error"] < 1e-3 for row in rows(run_folder))


def test_the_round_drains_the_pipeline_and_the_patch_leaves_nothing_older_behind(run_folder: Path):
    (round_,) = (run_folder / "interventions").iterdir()
    number = int(round_.stem.rpartition("_")[2])
    before, after = rows(run_folder)[number - 1], rows(run_folder)[number]
    assert "drained/rollout/staleness_max" in before and before["drained/rollout/staleness_max"] <= 2
    assert after["rollout/staleness_max"] == 0


def test_every_problem_is_trained_on_once(run_folder: Path):
    seeds = Counter(rollout["seed"] for rollout in rollouts(run_folder))
    assert max(seeds.values()) == 1 and len(seeds) % (12 * 8) == 0


def test_weights_change_in_mid_response_and_the_learner_agrees_about_all_tokens(run_folder: Path):
    switched = [rollout for rollout in rollouts(run_folder) if rollout["switches"]]
    assert switched and all(0 < at < len(one["token_ids"]) for one in switched for at in one["switches"])


def test_engine_and_learner_differ_by_the_versions_between_them_alone(run_folder: Path):
    mismatches: dict[bool, list[float]] = {True: [], False: []}  # by whether all tokens are of the present version
    for row in rows(run_folder):
        mismatches[row["rollout/staleness_max"] == 0].append(row["reinforce/rollout_mismatch"])
        # Over what the engine samples, learner / engine probability is 1 on average; the cap can only lower it.
        assert 0.8 < row["reinforce/importance_weight"] < 1.1
    assert len(mismatches[True]) >= 2  # the first iteration, and the one after the patch
    assert max(mismatches[True]) < 1e-3
    assert max(mismatches[True]) < max(mismatches[False])
