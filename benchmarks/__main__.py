"""`python -m benchmarks [MODULE ...]`: the CPU suite; a table for people, one JSON line per figure for machines."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from benchmarks.measure import Scale

MODULES = ("packing", "head", "learner", "rollout", "pause", "sync", "orchestration", "scale", "quickstart_idle")
DEADLINE_S = 900.0  # of one module
Row = dict[str, Any]


def main() -> int:
    """Run what the command line names; 1 if a module failed. A missed goal is a result, not a failure."""
    arguments = parse(sys.argv[1:])
    scale = Scale.TINY if arguments.tiny else Scale.FULL
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a log has no width of its own
    rows: list[Row] = []
    failures: list[str] = []
    for module in arguments.modules or MODULES:
        try:
            found = measure(module, scale, arguments.out, console)
        except ModuleFailed as failure:
            failures.append(str(failure))
            console.print(f"{module} failed: {failure}", style="red", markup=False, highlight=False, soft_wrap=True)
            continue
        with arguments.out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in found)
        rows += found
    if rows:
        show(rows, scale, console)
    console.print(f"{len(rows)} figures, with their raw pairs: {arguments.out}", highlight=False, soft_wrap=True)
    return 1 if failures else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(MODULES)}; default: all of them")
    parser.add_argument("--tiny", action="store_true", help="seconds: checks that it works, times mean nothing")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    parser.add_argument("--out", type=Path, default=Path(f"runs/bench-{stamp}.jsonl"), help="JSON lines are added here")
    parsed = parser.parse_args(arguments)
    if unknown := set(parsed.modules) - set(MODULES):
        parser.error(f"no such module: {', '.join(sorted(unknown))}; choose of {', '.join(MODULES)}")
    return parsed


class ModuleFailed(Exception):
    """A module ended without figures; its last words and where the others are."""


def measure(module: str, scale: Scale, out: Path, console: Console) -> list[Row]:
    """The figures of one module, run in a process of its own. Raises ModuleFailed."""
    log, figures = (out.with_name(f"{out.stem}-{module}.{kind}") for kind in ("log", "partial"))
    command = [sys.executable, "-u", "-m", "benchmarks.one", module, scale.value, str(figures)]
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    if not console.is_terminal:
        console.print(f"{module} ...")
    live = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with log.open("w") as output, live as progress:
        progress.add_task(module)
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise ModuleFailed(f"not done after {DEADLINE_S:.0f} s; see {log}") from None
        finally:
            end(process)
    if code != 0:
        last = log.read_text().strip().rpartition("\n")[2] or f"exit code {code}"
        raise ModuleFailed(f"{last}; see {log}")
    rows = [json.loads(line) for line in figures.read_text().splitlines()]
    figures.unlink()
    return rows


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a module that still runs to stop, as Ctrl-C would; then end what it has left behind."""
    with suppress(ProcessLookupError):  # nothing is left
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def show(rows: Sequence[Row], scale: Scale, console: Console) -> None:
    """One line per figure; the notes of missed goals below."""
    title = "int_ray, CPU suite" if scale is Scale.FULL else "int_ray, CPU suite at toy size: the figures mean nothing"
    names = (Column(name, no_wrap=True) for name in ("figure", "median", "spread", "goal", ""))
    table = Table(*names, "limit", title=title)
    for row in rows:
        numbers = f"{row['value']:.4g}", f"{row['spread']:.2g}"
        table.add_row(row["name"], *numbers, row["goal"], verdict(row), row["limit"])
    console.print(table)
    for row in rows:
        if row["note"] and not row["reached"]:
            console.print(f"{row['name']}: {row['note']}", markup=False, highlight=False, soft_wrap=True)


def verdict(row: Row) -> str:
    """Example: "reached", "missed, noisy"."""
    return ("reached" if row["reached"] else "missed") + (", noisy" if row["noisy"] else "")


if __name__ == "__main__":
    sys.exit(main())
