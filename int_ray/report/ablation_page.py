"""`report.html` of an ablation: Table 1, drawn and in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from int_ray.ablation import Table, footnotes, headings, read_table, table_rows
from int_ray.metrics import Estimate
from int_ray.report.charts import BLUE, GREEN, INK, inline_svg
from int_ray.report.page import counted, render, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_ablation_report(folder: Path) -> Path:
    """Write `report.html` beside `results.json`. Raises ConfigError if that cannot be read or written."""
    table = read_table(folder / "results.json")
    name = folder.resolve().name
    scores = list(table.rows.values())
    page = render(
        "ablation.html",
        title=f"{name}: int_ray ablation",
        name=name,
        headline=f"{counted(len(scores), 'row')} of Table 1 on {counted(table.problems, 'problem')}",
        figures=[
            ("Problems with nonzero accuracy (share)", _rows("nonzero", table, [row.nonzero_share for row in scores])),
            ("Accuracy", _rows("accuracy", table, [row.accuracy for row in scores])),
        ],
        headings=headings(),
        rows=table_rows(table),
        footnotes=footnotes(table),
    )
    path = folder / "report.html"
    write_page(path, page)
    return path


def _rows(name: str, table: Table, estimates: Sequence[Estimate]) -> Markup:
    """One dot with its interval for each row; those of patched models in a colour of their own."""
    scores = list(table.rows.values())

    def draw(canvas: Figure) -> None:
        axes = canvas.subplots()
        for place, (score, estimate) in enumerate(zip(scores, estimates, strict=True)):
            colour = BLUE if score.cloned is None else GREEN
            axes.plot([estimate.low, estimate.high], [place, place], color=colour, alpha=0.35, linewidth=5)
            axes.plot(estimate.mean, place, color=colour, marker="o", markersize=6)
        axes.set_yticks(range(len(scores)), [score.label for score in scores])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set(ylim=(len(scores) - 0.5, -0.5), xlim=(-0.02, 1.02), xticks=(0, 0.25, 0.5, 0.75, 1))
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")

    values = "; ".join(f"{score.label} {item.mean:.3f}" for score, item in zip(scores, estimates, strict=True))
    return inline_svg(f"ablation-{name}", f"{name} of each row: {values}", draw, width=420, height=230)
