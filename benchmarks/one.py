"""`python -m benchmarks.one MODULE SCALE FILE`: one module in a process of its own, its figures as JSON lines."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.measure import Scale, busy_cores, environment, record


def main(module: str, scale: str, file: str) -> None:
    """Run `benchmarks.MODULE` and write one line per figure once all are measured."""
    busy = busy_cores()
    figures = import_module(f"benchmarks.{module}").run(Scale(scale))
    common = {"module": module, "scale": scale} | environment()
    lines = (json.dumps(record(figure, busy) | common) + "\n" for figure in figures)
    Path(file).write_text("".join(lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
