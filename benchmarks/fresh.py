"""Runs one function in a process of its own: for peak memory, first imports and process groups.

Arguments and result are JSON, the result being the last line that the child prints.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def in_fresh_process(function: Callable[..., Any], *arguments: Any, timeout_s: float = 600) -> Any:
    """`function(*arguments)`, run by a new interpreter. `function` must be importable by its name.

    Raises RuntimeError with the end of the child's complaint if it fails, TimeoutExpired if it takes too long.
    """
    name = f"{function.__module__}:{function.__qualname__}"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.fresh", name, json.dumps(arguments)]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=timeout_s)
    if done.returncode != 0:
        complaint = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"{name}{arguments} failed: {complaint[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    module, _, function_name = sys.argv[1].partition(":")
    result = getattr(importlib.import_module(module), function_name)(*json.loads(sys.argv[2]))
    print(json.dumps(result))
