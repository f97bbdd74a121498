"""The memory plan of a run on GPUs, as lines for a person."""

from __future__ import annotations

import shutil
import subprocess

from int_ray.config import Config
from int_ray.memory_plan import engine_warnings, memory_plans, read_shape, warnings


def memory_lines(config: Config) -> list[str]:
    """What each GPU will hold and, where its size is known, whether that fits. Nothing for a run on the CPU."""
    if config.learner.device == "cpu":
        return []
    shape = read_shape(config.model)
    if shape is None:
        return [f"GPU memory: no estimate; {config.model.path} is not a dense decoder with gated MLPs"]
    size = gpu_bytes() if config.run.ray_address is None else None
    plans = memory_plans(config, shape, size)
    lines = [f"GPU memory, {plan.story()}" for plan in plans]
    if size is None:
        return lines
    found = [*warnings(plans, size), *engine_warnings(config, shape, size)]
    return [*lines, *(f"WARNING: {warning}" for warning in found)]


def gpu_bytes() -> float | None:
    """Of the smallest GPU of this machine; None without one. Asks the driver: PyTorch would take some of the memory."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return None
    mebibytes = [int(line) for line in answer.stdout.split() if line.isdecimal()]
    return min(mebibytes) * 2.0**20 if mebibytes else None
