"""The figures of an evaluation: pass@k over k."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from markupsafe import Markup

from int_ray.metrics import Estimate
from int_ray.report.charts import AMBER, BLUE, GREEN, RED, inline_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (BLUE, AMBER, GREEN, RED)
LINES = ("-", "--", ":")  # after every colour was used once
STYLES = [(colour, line) for line in LINES for colour in COLOURS]  # one for each of the first 12 checkpoints


def pass_at_curve(name: str, title: str, curves: Mapping[str, Mapping[int, Estimate]]) -> Markup:
    """pass@k over k on a logarithmic axis, one line with its 95% band for each checkpoint."""

    def draw(canvas: Figure) -> None:
        axes = canvas.subplots()
        sizes = sorted({k for points in curves.values() for k in points})
        for place, (checkpoint, points) in enumerate(curves.items()):
            colour, line = STYLES[place % len(STYLES)]
            means = [points[k].mean for k in points]
            low, high = ([getattr(points[k], bound) for k in points] for bound in ("low", "high"))
            axes.fill_between(list(points), low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(list(points), means, color=colour, linestyle=line, marker="o", markersize=3, label=checkpoint)
        axes.set_xscale("log", base=2)
        axes.set(ylim=(0, 1), yticks=(0, 0.25, 0.5, 0.75, 1), xlabel="k")
        axes.set_xticks(_labelled(sizes), [str(k) for k in _labelled(sizes)])
        axes.minorticks_off()
        axes.grid(axis="y")
        if len(curves) > 1:
            axes.legend(frameon=False, loc="best", fontsize=10)

    ends = "; ".join(_ends(checkpoint, points) for checkpoint, points in curves.items())
    return inline_svg(name, f"pass@k over k on {title}: {ends}", draw)


def _labelled(sizes: list[int]) -> list[int]:
    """Powers of two, and the largest if none is near it."""
    powers = [k for k in sizes if k & (k - 1) == 0]
    return powers if sizes[-1] < 1.5 * powers[-1] else [*powers, sizes[-1]]


def _ends(checkpoint: str, points: Mapping[int, Estimate]) -> str:
    first, last = min(points), max(points)
    return f"{checkpoint} from {points[first].mean:.2f} at {first} to {points[last].mean:.2f} at {last}"
