"""The first evaluation of a run beside its last."""

from __future__ import annotations

from dataclasses import dataclass

from int_ray.report.run_files import Run, Score

DIGITS = 2  # of every share that is shown


@dataclass(frozen=True)
class Comparison:
    """One figure, such as pass@8, on one set; `end` is None while there is one evaluation only."""

    set: str
    num_problems: int
    figure: str
    base: Score
    end: Score | None

    @property
    def change(self) -> str:
        """`higher`, `lower`, or `no clear change` where the 95% intervals, as shown, touch."""
        if self.end is None:
            return ""
        base_low, base_high, low, high = (
            round(bound, DIGITS) for bound in (self.base.low, self.base.high, self.end.low, self.end.high)
        )
        if low > base_high:
            return "higher"
        return "lower" if high < base_low else "no clear change"

    @property
    def verdict(self) -> str:
        """`good`, `bad` or neither; a lower unsolved share is the good one."""
        wanted, unwanted = ("lower", "higher") if self.figure == "unsolved" else ("higher", "lower")
        return {wanted: "good", unwanted: "bad"}.get(self.change, "")


def compare_evaluations(run: Run) -> list[Comparison]:
    """Every set and every figure that its first evaluation has."""
    return [
        Comparison(name, events[0].num_problems, figure, base, events[-1].figures.get(figure) if events[1:] else None)
        for name, events in run.evaluations.items()
        for figure, base in events[0].figures.items()
    ]
