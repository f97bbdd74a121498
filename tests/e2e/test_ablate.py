"""`int-ray ablate` whole and real on a few problems: the table agrees with a recount of the rows' own rollouts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NUMBER, ROLLOUTS = 6, 4
SMALL = [
    f"problems.train={{path: int_ray/chains/data/hard_train.jsonl, limit: {NUMBER}}}",
    f"rollout.batch_size={NUMBER}",
    "rollout.n=4",
    f"reinforce.mini_batch_size={NUMBER}",
    "oracle.attempts=1",
    "patch.continuations=4",
    f"ablate.n={ROLLOUTS}",
]
ROWS = ["naive", "from_intervention", "with_intervention", "patch", "no_filter", "no_prefix", "suffix"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_seven_rows_of_table_1(tmp_path: Path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "launch.cli", "ablate", "configs/quickstart.yaml", f"run.folder={folder}", *SMALL]
    run = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    table = json.loads((folder / "results.json").read_text())
    assert list(table["rows"]) == ROWS and table["problems"] == NUMBER
    for name, row in table["rows"].items():
        groups = lines(folder / "rows" / f"{name}.jsonl")
        assert all(len(group["rollouts"]) == ROLLOUTS for group in groups)
        right = [sum(one["outcome"] == "correct" for one in group["rollouts"]) for group in groups]
        assert row["nonzero"] == sum(count > 0 for count in right), name
        assert row["accuracy"]["mean"] == pytest.approx(sum(right) / ROLLOUTS / NUMBER), name
        assert f"{row['nonzero']}/{NUMBER}" in run.stdout

    # The base model never solves these; nearly every correction by the exact oracle gets it to a right answer.
    assert table["rows"]["naive"]["nonzero"] == 0 < table["rows"]["with_intervention"]["nonzero"]
    versions = {name: lines(folder / "rows" / f"{name}.jsonl")[0]["rollouts"][0]["policy_version"] for name in ROWS}
    assert list(versions.values()) == [0, 0, 0, 1, 2, 3, 4]
    before, after = (lines(folder / "rows" / f"{name}.jsonl") for name in ROWS[1:3])
    assert all(len(one["prefix_ids"]) < len(other["prefix_ids"]) for one, other in zip(before, after, strict=True))
    journal = lines(folder / "journal.jsonl")
    assert {event["row"] for event in journal if event["event"] == "patched"} == set(ROWS[3:])
    assert "7 rows of Table 1" in (folder / "report.html").read_text()
