"""`python -m benchmarks.gpu`: the figures of one GPU, in under nine minutes, with random weights of Qwen3-1.7B's shape.

Needs torch, transformers and numpy alone. Without CUDA the same code runs at toy size. The last line is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch

from benchmarks import gpu_kernels, gpu_training
from benchmarks.gpu_machine import Machine
from benchmarks.measure import Figure, environment, record

# Those that share a trainer come one after the other; first the one that needs it untrained.
MEASURES: tuple[Callable[[Machine], list[Figure]], ...] = (
    gpu_kernels.chunked_head,
    gpu_kernels.pack_weights,
    gpu_training.over_torch,
    gpu_training.packed_8k,
    gpu_training.packed_over_padded,
    gpu_training.reference_share,
    gpu_training.long_document,
)


def main() -> int:
    """Measure everything that this machine can; 1 if something failed. A missed goal is a result, not a failure."""
    machine = Machine.here()
    print(f"{machine.name}, torch {torch.__version__}" + (": toy size, the figures mean nothing" * machine.is_toy))
    figures: list[Figure] = []
    failures: dict[str, str] = {}
    for measure in MEASURES:
        started = time.perf_counter()
        print(f"{measure.__name__} ...", flush=True)
        try:
            figures += measure(machine)
        # Out of memory, missing kernels, unequal results: the other figures are still worth having.
        except (RuntimeError, ImportError, AssertionError) as error:
            failures[measure.__name__] = str(error).strip().splitlines()[0]
            print(f"{measure.__name__} failed: {failures[measure.__name__]}")
        machine.free()
        print(f"{measure.__name__}: {time.perf_counter() - started:.0f} s", flush=True)
    show(figures)
    result = {"device": machine.name, "toy": machine.is_toy, "failures": failures} | environment()
    print(json.dumps(result | {"figures": [record(figure) for figure in figures]}))
    return 1 if failures else 0


def show(figures: list[Figure]) -> None:
    """A table for people."""
    print(f"\n{'figure':34} {'value':>12}  {'goal':9} {'':8} limit")
    for figure in figures:
        verdict = ("reached" if figure.reached else "missed") if figure.goal else ""
        print(f"{figure.name:34} {figure.value:12.4g}  {figure.goal:9} {verdict:8} {figure.limit}")
        if figure.note:
            print(f"    {figure.note}")
    print()


if __name__ == "__main__":
    sys.exit(main())
