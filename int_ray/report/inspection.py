"""Interventions as one HTML page to browse, whatever their number: `write_inspection(run_folder_or_file)`.

All are counted; the first `MOST_LISTED` are listed, each with a fair share of `PAGE_CHARACTERS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from int_ray.config_file import ConfigError
from int_ray.report.inspection_figures import Histograms
from int_ray.report.items import OBJECTIONS, Item, shorten
from int_ray.report.lines import Interventions, Line
from int_ray.report.page import render, write_page
from int_ray.report.tally import STATUSES, Summary, read_bill

MOST_LISTED = 4000  # interventions
PAGE_CHARACTERS = 16_000_000  # of texts, before they are escaped
SCRIPT = Path(__file__).parent / "templates" / "inspect.js"


@dataclass
class Problem:
    """A problem with everything that was proposed about it, in the order of the file."""

    name: str
    question: str
    answer: str
    solution: str
    items: list[Item] = field(default_factory=list)

    @property
    def num_kept(self) -> int:
        """Interventions that were trained on."""
        return sum(item.line.status == "kept" for item in self.items)


def write_inspection(source: Path, out: Path | None = None) -> tuple[Path, list[str]]:
    """Write the page beside `source`, which is a run folder or a file, or to `out`.

    Returns its path, and sentences about what could not be read. Raises ConfigError if there is no intervention, or the
    page cannot be written.
    """
    interventions, summary, histograms = Interventions(source), Summary(), Histograms()
    listed: list[tuple[str, Line]] = []
    for round_, line in interventions:
        summary.add(round_, line)
        histograms.add(line)
        if len(listed) < MOST_LISTED:
            listed.append((round_, line))
    if not listed:
        raise ConfigError([": ".join([f"{source} holds no interventions", *interventions.notes])])
    page = render(
        "inspect.html",
        script=SCRIPT.read_text(encoding="utf-8"),
        title=f"Interventions of {source.resolve().name}",
        name=source.resolve().name,
        summary=summary,
        statuses=[status for status in STATUSES if summary.all.statuses[status]],
        objections=OBJECTIONS,
        bill=read_bill(source, interventions.notes) if source.is_dir() else None,
        notes=interventions.notes,
        figures=histograms.figures(),
        problems=by_problem(listed),
        num_listed=len(listed),
    )
    path = out or (source / "inspect.html" if source.is_dir() else source.with_suffix(".html"))
    write_page(path, page)
    return path, interventions.notes


def by_problem(listed: Sequence[tuple[str, Line]]) -> list[Problem]:
    """What is listed, shortened so that all of it together keeps to `PAGE_CHARACTERS`."""
    share = PAGE_CHARACTERS // (len(listed) + len({line.problem for _, line in listed}))
    problems: dict[str, Problem] = {}
    for round_, line in listed:
        if line.problem not in problems:
            name = line.problem_id or f"problem {len(problems) + 1}"
            question, answer, solution = (
                shorten(text, share // 3) for text in (line.question, line.answer, line.solution)
            )
            problems[line.problem] = Problem(shorten(name, 80), question, answer, solution)
        problems[line.problem].items.append(Item.of(round_, line, share))
    return list(problems.values())
