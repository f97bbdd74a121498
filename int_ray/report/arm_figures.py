"""The paper's figures over several arms: what each shows, and why one is missing where it cannot be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from markupsafe import Markup

from int_ray.claims import K
from int_ray.contrasts import HARD_TEST, HARD_TRAIN, benchmarks
from int_ray.evaluation import curve_sizes
from int_ray.metrics import Estimate
from int_ray.report.arms import Arm
from int_ray.report.curves import Curve, draw_curves
from int_ray.report.inspection_figures import Histograms
from int_ray.resampling import BySeed, aligned, estimate

TRAINING = {
    "reward": ("Training reward", "Share of the training rollouts that reach a right answer (Fig. 8a)."),
    "unsolved": (
        "Unsolved share",
        "Training problems of an iteration without one right rollout: what the paper calls zero-advantage ratio "
        "(Fig. 8c).",
    ),
    "zero_advantage": (
        "Zero-advantage share",
        "Groups that are all wrong or all right: GRPO learns nothing from them.",
    ),
}
DRIFT = {
    "kl": (
        "KL from the base",
        "Nats per token on rollouts of the base model, at temperature 1 (the argument of Fig. 5).",
    ),
    "entropy": ("Entropy", "Nats per token on the policy's own rollouts, at temperature 1."),
}


@dataclass(frozen=True)
class Figure:
    """A drawing with its title and what it shows."""

    title: str
    svg: Markup
    caption: str


def largest_k(arms: Sequence[Arm], set_: str) -> int:
    """K, or the largest k below it that every evaluation of the set has rollouts for; 0: it was not evaluated."""
    rollouts = [
        arm.most_rollouts(set_, iteration) for arm in arms if set_ in arm.sets for iteration in arm.evaluated(set_)
    ]
    return min(K, *rollouts) if rollouts else 0


def all_sets(arms: Sequence[Arm]) -> list[str]:
    """Every set that any arm was evaluated on, the hard test problems first."""
    names = dict.fromkeys(name for arm in arms for name in arm.sets)
    return sorted(names, key=lambda name: {HARD_TEST: 0, HARD_TRAIN: 1}.get(name, 2))


def score(values: BySeed) -> Estimate | None:
    """The mean over seeds and problems with its interval; None of nothing."""
    (table,) = aligned(values)
    return estimate([table]) if table.size else None


def average(arm: Arm, sets: Sequence[str], iteration: int) -> Estimate | None:
    """pass@1 with the same weight for each set; None if one of them was not measured."""
    tables = [table for set_ in sets for table in aligned(arm.pass_at(1, set_, iteration))]
    return estimate(tables) if tables and all(table.size for table in tables) else None


def pass_at_over_iterations(arms: Sequence[Arm]) -> list[Figure]:
    """Figure 7, on every set."""
    figures = []
    for place, set_ in enumerate(all_sets(arms)):
        k = largest_k(arms, set_)
        curves = [
            _curve(arm, {float(at): score(arm.pass_at(k, set_, at)) for at in arm.evaluated(set_)})
            for arm in arms
            if k and set_ in arm.sets
        ]
        figures += _figure(f"pass-at-{place}", f"pass@{k} on {set_}", curves, "iteration", "")
    return figures


def pass_at_over_k(arms: Sequence[Arm]) -> list[Figure]:
    """Every set after the last iteration that all arms were evaluated at, up to the number of rollouts."""
    figures = []
    for place, set_ in enumerate(all_sets(arms)):
        having = [arm for arm in arms if set_ in arm.sets]
        common = sorted(set.intersection(*(set(arm.evaluated(set_)) for arm in having)))
        n = min((arm.most_rollouts(set_, common[-1]) for arm in having), default=0) if common else 0
        curves = [
            _curve(arm, {float(k): score(arm.pass_at(k, set_, common[-1])) for k in curve_sizes(n, ())})
            for arm in having
            if n
        ]
        title = f"{set_} after iteration {common[-1]}" if common else set_
        figures += _figure(f"over-k-{place}", title, curves, "k", "", doubling=True)
    return figures


def training_curves(arms: Sequence[Arm]) -> list[Figure]:
    """Figure 8 a and c, over the iterations that all seeds of an arm have; bands from the lowest to the highest."""
    figures = []
    for figure, (title, caption) in TRAINING.items():
        curves = []
        for arm in arms:
            rows = [{row.iteration: getattr(row, figure) for row in one.run.rows} for one in arm.runs.values()]
            curves.append(_curve(arm, _over_seeds(rows)))
        figures += _figure(figure.replace("_", "-"), title, curves, "iteration", caption)
    return figures


def held_out_curve(arms: Sequence[Arm]) -> list[Figure]:
    """Figure 8 b: pass@1 on everything but the hard problems."""
    sets = benchmarks(arms)
    curves = []
    for arm in arms if sets else ():
        common = sorted(set.intersection(*(set(arm.evaluated(set_)) for set_ in sets)))
        curves.append(_curve(arm, {float(at): average(arm, sets, at) for at in common}))
    caption = f"On {', '.join(sets)}{', each with the same weight' if len(sets) > 1 else ''} (Fig. 8b)."
    return _figure("held-out", "Held-out pass@1", curves, "iteration", caption)


def drift_curves(arms: Sequence[Arm]) -> list[Figure]:
    """How far training moved the policy, mean over the sets it was measured on."""
    figures = []
    for figure, (title, caption) in DRIFT.items():
        curves = []
        for arm in arms:
            measured = []
            for one in arm.runs.values():
                values: dict[int, list[float]] = {}
                for event in one.run.drifts:
                    if (value := getattr(event, figure)) is not None:
                        values.setdefault(event.iteration, []).append(value)
                measured.append({iteration: mean(found) for iteration, found in values.items()})
            curves.append(_curve(arm, _over_seeds(measured)))
        figures += _figure(figure, title, curves, "iteration", caption, share=False)
    return figures


def intervention_figures(arms: Sequence[Arm]) -> list[tuple[Markup, str]]:
    """Figures 3 and 4 with their captions, over all interventions of the arms that have any."""
    histograms = Histograms()
    for arm in arms:
        for one in arm.runs.values():
            if arm.method == "distillation":
                histograms.full_solutions += [round(tokens) for tokens in one.solution_tokens.values()]
            else:
                for line in one.lines:
                    histograms.add(line)
    return histograms.figures()


def _over_seeds(rows: Sequence[Mapping[int, float]]) -> dict[float, Estimate | None]:
    """Iteration -> mean and range of the seeds that all have it."""
    common = set.intersection(*map(set, rows))
    return {float(at): _range([row[at] for row in rows]) for at in sorted(common)}


def _range(values: Sequence[float]) -> Estimate:
    return Estimate(mean(values), min(values), max(values))


def _curve(arm: Arm, points: Mapping[float, Estimate | None]) -> Curve:
    return Curve(arm.title, arm.place, {x: point for x, point in points.items() if point is not None})


def _figure(
    name: str,
    title: str,
    curves: Sequence[Curve],
    x_label: str,
    caption: str,
    *,
    share: bool = True,
    doubling: bool = False,
) -> list[Figure]:
    """One figure of the curves that have points, and none without."""
    drawn = [curve for curve in curves if curve.points]
    if not drawn:
        return []
    return [Figure(title, draw_curves(name, title, drawn, x_label, share=share, doubling=doubling), caption)]
