"""Curves of several arms in one figure, each named at its own end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from int_ray.metrics import Estimate
from int_ray.report.charts import AMBER, BLUE, GREEN, MUTED, RED, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 440, 250  # CSS pixels
STYLES = [  # colour, line, marker: told apart without colour too
    (MUTED, "--", "s"),
    (AMBER, "-", "^"),
    (BLUE, "-", "o"),
    (GREEN, "-.", "D"),
    (RED, ":", "v"),
]
MOST_MARKED = 12  # points of a curve that each get a marker
NAME_HEIGHT = 0.085  # of a name, as a share of the axis


@dataclass(frozen=True)
class Curve:
    """One arm; `place` chooses its looks, so that it has the same in all figures."""

    name: str
    place: int
    points: Mapping[float, Estimate]  # x, in order -> mean and band

    @property
    def end(self) -> tuple[float, float]:
        """The last x and its mean."""
        x = max(self.points)
        return x, self.points[x].mean


def draw_curves(
    name: str, label: str, curves: Sequence[Curve], x_label: str, *, share: bool = True, doubling: bool = False
) -> Markup:
    """Figure `name` of curves with at least one point each. `share`: y from 0 to 1; `doubling`: x is 1, 2, 4..."""

    def draw(canvas: Figure) -> None:
        axes = canvas.subplots()
        for curve in curves:
            _draw_curve(axes, curve)
        if share:
            axes.set(ylim=(-0.02, 1.02), yticks=(0, 0.25, 0.5, 0.75, 1))
        else:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        _x_axis(axes, [x for curve in curves for x in curve.points], doubling)
        axes.set_xlabel(x_label)
        axes.grid(axis="y")
        _name_ends(axes, curves)

    ends = "; ".join(f"{curve.name} {_ends(curve)}" for curve in curves)
    return inline_svg(name, f"{label} over {x_label}: {ends}", draw, width=WIDTH, height=HEIGHT)


def _draw_curve(axes: Axes, curve: Curve) -> None:
    colour, line, marker = STYLES[curve.place % len(STYLES)]
    xs, points = list(curve.points), curve.points.values()
    low, high = [point.low for point in points], [point.high for point in points]
    axes.fill_between(xs, low, high, color=colour, alpha=0.16, linewidth=0)
    size = 5 if len(xs) <= MOST_MARKED else 0
    means = [point.mean for point in points]
    axes.plot(xs, means, color=colour, linestyle=line, marker=marker, markersize=size, clip_on=False)


def _x_axis(axes: Axes, xs: Sequence[float], doubling: bool) -> None:
    if not doubling:
        axes.set_xlim(min(0.0, *xs), max(1.0, *xs))
        axes.locator_params(axis="x", integer=True, nbins=6)
        return
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(xs), max(2 * min(xs), *xs))
    powers = sorted({x for x in xs if int(x) & (int(x) - 1) == 0})
    axes.set_xticks(powers, [f"{x:.0f}" for x in powers])
    axes.minorticks_off()


def _name_ends(axes: Axes, curves: Sequence[Curve]) -> None:
    """Names to the right of the ends, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    ends = sorted(curves, key=lambda curve: curve.end[1])
    heights = spread_out([curve.end[1] for curve in ends], NAME_HEIGHT * (high - low), low, high)
    for curve, height in zip(ends, heights, strict=True):
        axes.annotate(
            curve.name,
            (curve.end[0], height),
            (9, 0),
            textcoords="offset points",
            va="center",
            color=STYLES[curve.place % len(STYLES)][0],
            annotation_clip=False,
        )


def spread_out(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending values moved as little as needed to be `gap` apart, none above `high` as long as there is room.

    Example: `spread_out([0.9, 1.0, 1.0], 0.1, 0.0, 1.0)` is `[0.8, 0.9, 1.0]`.
    """
    places: list[float] = []
    for value in values:
        places.append(max(value, places[-1] + gap) if places else max(value, low))
    limit = high
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - gap
    return places


def _ends(curve: Curve) -> str:
    (first, start), (last, end) = (min(curve.points), curve.points[min(curve.points)].mean), curve.end
    return f"{end:.2f} at {last:g}" if first == last else f"from {start:.2f} at {first:g} to {end:.2f} at {last:g}"
