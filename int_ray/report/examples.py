"""Which interventions a report shows: kept ones, of different problems and rounds, short and telling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from int_ray.report.lines import Line
from int_ray.report.run_files import Run, read_lines


@dataclass(frozen=True)
class Example:
    """A kept intervention, and the shortest continuation that reached a right answer, in paragraphs."""

    iteration: int
    line: Line
    location: int  # 1-based, within the steps
    continuation: tuple[str, ...]


def read_examples(folder: Path, run: Run) -> list[Example]:
    """All candidates of a run; a missing file, or lines that cannot be read, are noted in `run.notes`."""
    return [example for iteration in run.rounds for example in _read_round(folder, iteration, run.notes)]


def choose_examples(candidates: Sequence[Example], number: int = 4) -> list[Example]:
    """The best ones, the rounds in turn, each problem once.

    First those from which most continuations succeed, with steps of the policy before and after; then short ones.
    """
    first: dict[str, Example] = {}  # problem -> its best example
    for example in sorted(candidates, key=_rank):
        first.setdefault(example.line.problem_id, example)
    places: Counter[int] = Counter()
    turns: list[tuple[int, Example]] = []  # an example and its place within its round
    for example in first.values():
        turns.append((places[example.iteration], example))
        places[example.iteration] += 1
    chosen = [example for _, example in sorted(turns, key=lambda turn: turn[0])[:number]]
    return sorted(chosen, key=lambda example: example.iteration)


def _rank(example: Example) -> tuple[bool, bool, int, str]:
    line = example.line
    convincing = 2 * (line.num_correct or 0) >= (line.num_graded or 0)
    inside = example.location > 1 and len(example.continuation) > 2
    length = sum(map(len, (*line.steps, line.content or "", *example.continuation)))
    return not convincing, not inside, length, line.problem_id


def _read_round(folder: Path, iteration: int, notes: list[str]) -> Iterator[Example]:
    for line in read_lines(folder / "interventions" / f"iteration_{iteration:06d}.jsonl", Line, notes):
        if line.status == "kept" and line.continuation and line.location and line.replaces_a_step:
            paragraphs = tuple(part for part in line.continuation.split("\n\n") if part.strip())
            yield Example(iteration, line, line.location, paragraphs)
