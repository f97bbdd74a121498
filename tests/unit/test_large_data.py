"""A million rows: bounded memory, and the exact row after a resume. Prints the figures of docs/data.md."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from int_ray.data.batches import ProblemBatches
from int_ray.data.problems import load_problems
from int_ray.data_config import ProblemsConfig

ROWS = 1_000_000
DRAWN = range(20_000, 22_000)  # batches of 32 around the epoch's middle
MIB = 1024


def write_rows(path: Path, count: int) -> None:
    with path.open("w") as lines:
        for number in range(count):
            question = f"Problem {number}: what is the remainder of ${number * 7 + 3}^{{{number % 9 + 2}}}$ modulo 97?"
            solution = f"The powers of {number * 7 + 3} repeat.\n\nSo it is \\boxed{{{number % 97}}}." * 2
            lines.write(json.dumps({"problem": question, "answer": str(number % 97), "solution": solution}) + "\n")


def memory(name: str) -> int:
    """A figure of this process in MiB: RssAnon (its own now) or VmHWM (its own and mapped files, at most so far)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) // MIB


def load_and_draw(source: str, resumed_at: int) -> dict[str, object]:
    """What a process of its own finds out; it prints it as JSON."""
    config = ProblemsConfig.model_validate({"train": source})
    before, started = memory("RssAnon"), time.perf_counter()
    loaded = load_problems(config.train, config, distinct=True)
    loaded_at, took = memory("RssAnon"), time.perf_counter() - started
    started = time.perf_counter()
    assert sum(1 for _ in loaded.problems) == len(loaded.problems)
    iterated = time.perf_counter() - started
    batches = ProblemBatches(loaded.problems, 32, seed=0)
    digest = hashlib.sha256()
    for iteration in range(resumed_at, DRAWN.stop):
        if iteration >= DRAWN.start + 1000:
            digest.update("".join(problem.id for problem in batches.batch(iteration)).encode())
        else:
            batches.batch(iteration)
    grown = {"loading_mib": loaded_at - before, "drawing_mib": memory("RssAnon") - before}
    times = {"load_s": round(took, 1), "iterate_s": round(iterated, 1)}
    return {"problems": len(loaded.problems), "peak_mib": memory("VmHWM"), "drawn": digest.hexdigest()} | grown | times


def in_a_process(source: Path, resumed_at: int) -> dict[str, object]:
    script = "import json, sys; from tests.unit.test_large_data import load_and_draw; "
    script += "print(json.dumps(load_and_draw(sys.argv[1], int(sys.argv[2]))))"
    command = [sys.executable, "-c", script, str(source), str(resumed_at)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200).stdout)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_million_rows_take_bounded_memory_and_are_found_again(tmp_path: Path):
    source = tmp_path / "rows.jsonl"
    write_rows(source, ROWS)
    whole, resumed = in_a_process(source, DRAWN.start), in_a_process(source, DRAWN.start + 1000)
    print(f"\n{source.stat().st_size >> 20} MiB of JSONL: {whole}")
    assert whole["problems"] == ROWS
    assert whole["drawn"] == resumed["drawn"]
    assert whole["loading_mib"] < 200 and whole["drawing_mib"] < 200  # a million Problem objects take over 700
