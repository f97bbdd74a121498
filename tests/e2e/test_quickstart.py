"""The shipped quickstart, whole, beside plain RL for as many iterations. `make soak` runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def train(folder: Path, *overrides: str) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Summary and metric rows of a run of the quickstart."""
    command = [sys.executable, "-m", "launch.cli", "train", "configs/quickstart.yaml", f"run.folder={folder}"]
    subprocess.run([*command, *overrides], cwd=ROOT, check=True)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return json.loads((folder / "summary.json").read_text()), rows


def test_interventions_free_what_plain_rl_leaves_stuck(tmp_path: Path):
    summary, rows = train(tmp_path / "int")
    assert [row["rollout/unsolved"] for row in rows[:3]] == [1.0, 1.0, 1.0]
    assert summary["run"]["interventions_kept"] > 0
    assert any("reinforce/loss" in row for row in rows[3:])
    for name in ("hard_train", "hard_test"):
        scores = summary["evaluation"][name]
        assert scores["end"]["pass@8"]["low"] > scores["base"]["pass@8"]["high"]
    _, plain_rows = train(tmp_path / "plain", "schedule=never", "evaluate.sets={}")
    freed, plain = (sum(row["rollout/unsolved"] for row in arm[-5:]) / 5 for arm in (rows, plain_rows))
    print(f"unsolved share of the last 5 iterations: {freed:.2f} with InT, {plain:.2f} with plain RL")
    assert plain > freed + 0.35
