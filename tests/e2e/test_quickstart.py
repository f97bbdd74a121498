"""The shipped quickstart, whole, beside plain RL for as many iterations, over seeds. `make soak` runs it.

Prints the rows that docs/results.md quotes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from int_ray.metrics import Estimate, estimate_mean

ROOT = Path(__file__).parents[2]
LAST = 5  # iterations
FIGURES = [("hard_train", "pass@8"), ("hard_train", "unsolved"), ("hard_test", "pass@8"), ("easy", "pass@1")]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def train(folder: Path, *overrides: str) -> dict[str, Any]:
    """Summary of a run of the quickstart."""
    command = [sys.executable, "-m", "launch.cli", "train", "configs/quickstart.yaml", f"run.folder={folder}"]
    subprocess.run([*command, *overrides], cwd=ROOT, check=True)
    return json.loads((folder / "summary.json").read_text())


def unsolved_by_problem(folder: Path) -> dict[str, float]:
    """Problem -> share of its groups without a right rollout, over the last iterations; mixed-in problems left out."""
    found: dict[str, list[bool]] = defaultdict(list)
    for path in sorted((folder / "rollouts").iterdir())[-LAST:]:
        for group in map(json.loads, path.read_text().splitlines()):
            if group["problem_id"].startswith("hard_train"):
                found[group["problem_id"]].append(all(item["outcome"] != "correct" for item in group["rollouts"]))
    return {problem: sum(flags) / len(flags) for problem, flags in found.items()}


def gap(freed: Path, stuck: Path) -> Estimate:
    """Unsolved share of plain RL minus that of InT, paired by problem: both runs see the same batches."""
    ours, theirs = unsolved_by_problem(freed), unsolved_by_problem(stuck)
    assert ours.keys() == theirs.keys()
    return estimate_mean([theirs[problem] - ours[problem] for problem in sorted(ours)], seed=0)


def last_unsolved(folder: Path) -> float:
    """Mean of the unsolved share over the last iterations."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return sum(row["rollout/unsolved"] for row in rows[-LAST:]) / LAST


def show(name: str, summary: dict[str, Any], unsolved: float) -> None:
    """One row for docs/results.md."""
    cells = [f"{unsolved:.2f}", f"{summary['run']['wall_time_s'] / 60:.1f}"]
    for set_, figure in FIGURES:
        value = summary["evaluation"][set_]["end"][figure]
        cells.append(f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")
    print("|", " | ".join([name, *cells]), "|")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_interventions_free_what_plain_rl_leaves_stuck(tmp_path: Path, seed: int):
    freed, stuck = tmp_path / "int", tmp_path / "plain"
    summary = train(freed, f"run.seed={seed}")
    plain = train(stuck, f"run.seed={seed}", "schedule=never")
    difference = gap(freed, stuck)
    figures = " | ".join(f"{set_} {figure}" for set_, figure in FIGURES)
    print(f"\n| run | unsolved, last {LAST} iterations | minutes | {figures} |")
    show(f"InT, seed {seed}", summary, last_unsolved(freed))
    show(f"plain RL, seed {seed}", plain, last_unsolved(stuck))
    print(f"gap: {difference.mean:.2f} [{difference.low:.2f}, {difference.high:.2f}]")
    ends = {name: scores["end"] for name, scores in summary["evaluation"].items()}
    bases = {name: scores["base"] for name, scores in summary["evaluation"].items()}
    assert ends["hard_test"]["pass@8"]["mean"] >= 0.15
    assert ends["hard_test"]["pass@8"]["low"] > bases["hard_test"]["pass@8"]["high"]
    assert ends["hard_train"]["unsolved"]["mean"] <= 0.5
    assert ends["easy"]["pass@1"]["mean"] >= bases["easy"]["pass@1"]["mean"] - 0.10
    assert last_unsolved(stuck) >= 0.85
    assert difference.mean >= 0.35 and difference.low > 0
    assert summary["run"]["wall_time_s"] < 20 * 60
    print(f"overhead: {summary['overhead']['share']:.2%}, {summary['overhead']['seconds']}")
    assert summary["overhead"]["seconds"]  # its share depends on the machine
