"""The shipped quickstart as a user runs it: the share of its time in which no engine samples and no learner updates,
and the share in which it waits for what keeps it safe and visible.

Weight syncs, checkpoints, grading, the oracle and the files of the run all count as idle, so this bounds what a faster
orchestration could win.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measure import Figure, Scale, at_most, wall_seconds
from int_ray.timeline import idleness, overhead, read_spans

ROOT = Path(__file__).parents[1]
GOAL, OVERHEAD_GOAL = 0.10, 0.03
TINY = (
    "run.iterations=2",
    "rollout.batch_size=8",
    "rollout.n=4",
    "reinforce.mini_batch_size=4",
    "trigger.patience=1",
    "patch.continuations=4",
    "evaluate.n=1",
    "evaluate.k=[1]",
)


def run(scale: Scale) -> list[Figure]:
    """One run, about 5 minutes."""
    overrides = TINY if scale is Scale.TINY else ()
    with tempfile.TemporaryDirectory() as folder:
        run_folder = Path(folder) / "run"
        command = [sys.executable, "-m", "launch.cli", "train", "configs/quickstart.yaml", f"run.folder={run_folder}"]
        seconds = wall_seconds(lambda: subprocess.run([*command, *overrides], cwd=ROOT, check=True))
        return figures(run_folder, seconds)


def figures(run_folder: Path, wall_s: float) -> list[Figure]:
    """Of a run whose command took `wall_s` from the shell's view."""
    spans = read_spans(run_folder / "trace.json")
    idle, records = idleness(spans), overhead(spans)
    idle_s = idle.share * idle.seconds
    around_s = wall_s - idle.seconds
    causes = {f"start-up, report and shutdown of {wall_s:.0f} s": around_s, **idle.by_cause}
    return [
        _figure("quickstart.idle_share", GOAL, idle_s, idle.seconds, idle.by_cause),
        _figure("quickstart.idle_share_with_start_up", GOAL, idle_s + around_s, wall_s, causes),
        _figure(
            "quickstart.overhead_share",
            OVERHEAD_GOAL,
            records.share * records.seconds,
            records.seconds,
            records.by_cause,
        ),
    ]


def _figure(name: str, goal: float, idle_s: float, total_s: float, causes: Mapping[str, float]) -> Figure:
    largest = ", ".join(f"{cause} {seconds:.1f} s" for cause, seconds in list(causes.items())[:5])
    return at_most(name, [(idle_s, total_s)], goal, limit="0", note=f"of {total_s:.0f} s: {largest}")
