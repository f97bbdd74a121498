"""`report.html` of an evaluation."""

from __future__ import annotations

from pathlib import Path

from int_ray.evaluation_results import AVERAGE, Results, headings, read_results, rows_by_set
from int_ray.report.evaluation_figures import pass_at_curve
from int_ray.report.page import counted, render, write_page


def write_evaluation_report(folder: Path) -> Path:
    """Write `report.html` beside `results.json`. Raises ConfigError if that cannot be read or written."""
    results = read_results(folder / "results.json")
    name = folder.resolve().name
    page = render(
        "evaluation.html",
        title=f"{name}: int_ray evaluation",
        name=name,
        headline=_headline(results),
        results=results,
        curves=_curves(results),
        headings=headings(results),
        tables=rows_by_set(results, digits=2),
    )
    path = folder / "report.html"
    write_page(path, page)
    return path


def _headline(results: Results) -> str:
    sets = {name for scores in results.checkpoints.values() for name in scores.sets}
    return f"{counted(len(results.checkpoints), 'checkpoint')} on {counted(len(sets), 'problem set')}"


def _curves(results: Results) -> list[tuple[str, str]]:
    """Title and figure of every set, and of the average if there are several."""
    by_set = {name: {} for scores in results.checkpoints.values() for name in scores.sets}
    for checkpoint, scores in results.checkpoints.items():
        for name, score in scores.sets.items():
            by_set[name][checkpoint] = score.pass_at
    if len(by_set) > 1:
        by_set = {AVERAGE: {name: scores.average for name, scores in results.checkpoints.items()}, **by_set}
    return [
        (name, pass_at_curve(f"curve-{place}", name, curves)) for place, (name, curves) in enumerate(by_set.items())
    ]
