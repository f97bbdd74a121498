"""Where interventions are made and how long they are, as in the paper's Figures 4 and 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from int_ray.report.charts import AMBER, BLUE, GREEN, MUTED, inline_svg
from int_ray.report.items import CATEGORIES
from int_ray.report.lines import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"high": AMBER, "execution": BLUE, None: MUTED}
MOST_STEP_BINS = 40


@dataclass
class Histograms:
    """What the figures are drawn from. Refused proposals are left out."""

    locations: list[tuple[str | None, int, int]] = field(default_factory=list)  # category, location, number of steps
    interventions: list[tuple[int, int | None]] = field(default_factory=list)  # characters, tokens
    solutions: dict[str, int] = field(default_factory=dict)  # problem -> characters of the reference solution
    full_solutions: list[int] = field(default_factory=list)  # tokens of what the oracle wrote to be cloned whole
    attempt_characters: int = 0
    attempt_tokens: int = 0

    def add(self, line: Line) -> None:
        """Note where one intervention is and how long it is, beside the reference solution of its problem."""
        if line.status == "refused" or line.content is None:
            return
        if line.replaces_a_step and line.location is not None:
            self.locations.append((line.category, line.location, len(line.steps)))
        self.interventions.append((len(line.content), line.intervention_tokens))
        if line.solution:
            self.solutions[line.problem] = len(line.solution)
        if line.attempt_tokens:
            self.attempt_characters += sum(map(len, line.steps))
            self.attempt_tokens += line.attempt_tokens

    @property
    def characters_per_token(self) -> float | None:
        """Of the attempts, if tokens are known for every intervention."""
        known = self.attempt_tokens and all(tokens is not None for _, tokens in self.interventions)
        return self.attempt_characters / self.attempt_tokens if known else None

    def figures(self) -> list[tuple[Markup, str]]:
        """Figures with their captions; none where there is nothing to draw."""
        return [*self._location_figures(), *self._length_figures()]

    def _location_figures(self) -> list[tuple[Markup, str]]:
        if not self.locations:
            return []
        relative = [(category, (location - 0.5) / steps) for category, location, steps in self.locations]
        absolute = [(category, float(location)) for category, location, _ in self.locations]
        last = max(location for _, location, _ in self.locations)
        width = -(-last // MOST_STEP_BINS)
        edges = np.arange(0.5, last + width + 0.5, width)
        return [
            (
                _locations("relative", relative, np.linspace(0, 1, 11), "relative location"),
                "Where in the attempt a step was replaced: 0 is the start, 1 the end.",
            ),
            (_locations("absolute", absolute, edges, "number of the step"), "Which step was replaced."),
        ]

    def _length_figures(self) -> list[tuple[Markup, str]]:
        """In tokens if they are known, else in characters."""
        if not self.interventions:
            return []
        caption = "What the oracle wrote"
        ratio = self.characters_per_token
        if ratio is None:
            unit, ours = "characters", [characters for characters, _ in self.interventions]
            theirs = list(self.solutions.values())
        else:
            unit, ours = "tokens", [tokens for _, tokens in self.interventions if tokens is not None]
            theirs = [round(characters / ratio) for characters in self.solutions.values()]
        if self.full_solutions and ratio is not None:
            panels = {"interventions": ours, "full solutions": self.full_solutions}
            return [
                (
                    _lengths(panels, unit),
                    f"{caption}: replacement steps, and full solutions.",
                )
            ]
        if theirs:
            caption += ", and how long the problems' reference solutions are"
            caption += f" (estimated: {ratio:.1f} characters a token, as in the attempts)" if ratio else ""
        return [(_lengths({"interventions": ours, "reference solutions": theirs}, unit), f"{caption}.")]


def _locations(name: str, places: Sequence[tuple[str | None, float]], edges: np.ndarray, unit: str) -> Markup:
    """One bar per bin, stacked by the category of the error."""
    by_category = {
        category: values for category in CATEGORIES if (values := [place for kind, place in places if kind == category])
    }
    middle = median(place for _, place in places)
    label = f"Histogram of the {unit} of {len(places)} interventions; median {middle:.2g}."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        colours = [COLOURS[category] for category in by_category]
        names = [CATEGORIES[category] for category in by_category]
        axes.hist(list(by_category.values()), bins=list(edges), stacked=True, color=colours, label=names, rwidth=0.9)
        _tidy(axes, unit)
        axes.set_xlim(edges[0], edges[-1])
        axes.locator_params(axis="x", integer=edges[-1] > 1)
        if set(by_category) != {None}:
            axes.legend(frameon=False, labelcolor="linecolor", handlelength=0.8)

    return inline_svg(f"location-{name}", label, draw)


def _lengths(lengths: dict[str, list[int]], unit: str) -> Markup:
    """One panel each, above one another, on one logarithmic scale."""
    given = {name: [max(1, value) for value in values] for name, values in lengths.items() if values}
    everything = [value for values in given.values() for value in values]
    edges = np.geomspace(min(everything) / 1.1, max(everything) * 1.1, 25)
    medians = {name: f"median {median(values):.0f} {unit}" for name, values in given.items()}
    label = "Histograms of lengths. " + "; ".join(f"{name}: {words}" for name, words in medians.items()) + "."

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(given), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, values), colour in zip(panels, given.items(), (GREEN, MUTED), strict=False):
            axes.hist(values, bins=list(edges), color=colour, rwidth=0.9)
            axes.set_title(f"{name}, {medians[name]}")
            axes.set_xscale("log")
            _tidy(axes, unit if axes is panels[-1] else "")
        _plain_ticks(panels[-1], min(everything), max(everything))

    return inline_svg("lengths", label, draw)


def _tidy(axes: Axes, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(unit)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(axis="y")


def _plain_ticks(axes: Axes, low: int, high: int) -> None:
    """1, 2, 5, 10, 20... written out, since a person reads lengths and not powers."""
    from matplotlib.ticker import NullLocator

    round_ones = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]
    ticks = [tick for tick in round_ones if low / 1.2 <= tick <= high * 1.2]
    if len(ticks) < 2:
        ticks = sorted({low, high})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
