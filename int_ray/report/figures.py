"""The figures of a run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from int_ray.report.charts import AMBER, BLUE, CARD, GREEN, INK, LINE, MUTED, RED, inline_svg
from int_ray.report.comparison import Comparison
from int_ray.report.run_files import Run, Score
from int_ray.timeline import RUN, SAMPLING, UPDATES, Span, idleness, stretches

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"good": GREEN, "bad": RED, "": BLUE}
ROW = 48  # pixels of a labelled row


def curve(run: Run, figure: str, title: str) -> Markup:
    """One share over the iterations, every patch marked."""
    iterations, values = [row.iteration for row in run.rows], [getattr(row, figure) for row in run.rows]
    last = max(run.settings.iterations or 0, iterations[-1])

    def draw(canvas: Figure) -> None:
        axes = canvas.subplots()
        for patch in run.patches:
            axes.axvline(patch + 0.5, color=AMBER, linestyle="--", linewidth=1.5)
        axes.plot(iterations, values, color=BLUE, clip_on=False, marker="o", markersize=3 if len(values) < 50 else 0)
        axes.annotate(
            f"{values[-1]:.2f}", (iterations[-1], values[-1]), (7, 0), textcoords="offset points", va="center"
        )
        axes.set(xlim=(0.5, last + 0.5), ylim=(0, 1), yticks=(0, 0.25, 0.5, 0.75, 1), xlabel="iteration")
        axes.locator_params(axis="x", integer=True, nbins=7)
        axes.grid(axis="y")

    patches = f"; patched after iteration {', '.join(map(str, run.patches))}" if run.patches else ""
    label = f"{title} over the iterations: {values[0]:.2f} at first, {values[-1]:.2f} at last{patches}"
    return inline_svg(f"curve-{figure.replace('_', '-')}", label, draw)


def before_and_after(name: str, comparisons: Sequence[Comparison]) -> Markup:
    """One figure on every set: the base hollow, the end filled, with their 95% intervals."""

    def draw(canvas: Figure) -> None:
        axes = _labelled_rows(canvas, [(item.set, _means(item)) for item in comparisons])
        for place, item in enumerate(comparisons):
            _interval(axes, -place + 0.08, item.base, MUTED, filled=False)
            if item.end is not None:
                _interval(axes, -place - 0.12, item.end, COLOURS[item.verdict], filled=True)
        axes.set_xticks((0, 0.25, 0.5, 0.75, 1))
        axes.grid(axis="x")

    label = f"{comparisons[0].figure}: " + ", ".join(f"{item.set} {_means(item)}" for item in comparisons)
    return inline_svg(name, label, draw, height=ROW * len(comparisons) + 30)


def time_shares(shares: Mapping[str, float]) -> Markup:
    """Phases and their shares of the time."""

    def draw(canvas: Figure) -> None:
        axes = _labelled_rows(canvas, [(name, f"{share:.0%}") for name, share in shares.items()])
        for place, share in enumerate(shares.values()):
            axes.plot((0, 1), (-place, -place), color=LINE, linewidth=6, solid_capstyle="round")
            axes.plot((0, share), (-place, -place), color=BLUE, linewidth=6, solid_capstyle="round")
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)

    label = "Share of the time: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return inline_svg("time", label, draw, height=38 * len(shares))


def timeline(spans: Sequence[Span]) -> Markup | None:
    """When engines sampled and when the learner updated, in the last process of a run; None if it did not begin."""
    runs = [span for span in spans if span.track == RUN and span.end > span.start]
    if not runs:
        return None
    idle = idleness([span for span in spans if span.start >= runs[-1].start])
    rows = {
        "engines sample": [span for span in spans if span.name == SAMPLING],
        "learner updates": [span for span in spans if span.name in UPDATES],
    }
    seconds = idle.seconds

    def draw(canvas: Figure) -> None:
        axes = canvas.subplots()
        for place, (name, worked) in enumerate(rows.items()):
            bars = stretches(worked, runs[-1], seconds / 1000)  # finer gaps could not be seen
            axes.text(0, -place + 0.3, name, va="bottom")
            axes.text(seconds, -place + 0.3, f"{sum(dict(bars).values()) / seconds:.0%}", va="bottom", ha="right")
            axes.plot((0, seconds), (-place, -place), color=LINE, linewidth=1, zorder=0)
            axes.broken_barh(bars, (-place - 0.2, 0.4), color=BLUE, linewidth=0)
        axes.set(xlim=(0, seconds), ylim=(-1.4, 0.9), yticks=(), xlabel="seconds")
        axes.spines["left"].set_visible(False)

    label = f"When engines and learner worked; neither did for {idle.share:.0%} of the time"
    return inline_svg("timeline", label, draw, height=130)


def _labelled_rows(canvas: Figure, labels: Sequence[tuple[str, str]]) -> Axes:
    """Axes from 0 to 1 with a row at y = 0, -1, ... and, above each, a name on the left and a value on the right."""
    axes = canvas.subplots()
    for place, (name, value) in enumerate(labels):
        axes.text(0, -place + 0.28, name, va="bottom", color=INK)
        axes.text(1, -place + 0.28, value, va="bottom", ha="right", color=INK)
    axes.set(xlim=(-0.02, 1.02), ylim=(-len(labels) + 0.6, 0.72), yticks=())
    axes.spines["left"].set_visible(False)
    return axes


def _interval(axes: Axes, y: float, score: Score, colour: str, *, filled: bool) -> None:
    axes.plot((score.low, score.high), (y, y), color=colour, linewidth=2.5, solid_capstyle="round", clip_on=False)
    face = colour if filled else CARD
    axes.plot(score.mean, y, "o", markersize=7, color=colour, markerfacecolor=face, markeredgewidth=1.8, clip_on=False)


def _means(item: Comparison) -> str:
    return f"{item.base.mean:.2f}" + ("" if item.end is None else f" → {item.end.mean:.2f}")
