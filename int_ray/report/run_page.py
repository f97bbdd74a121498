"""`report.html` of a run folder."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from int_ray.report.arm_figures import Figure, drift_curves, pass_at_over_iterations, pass_at_over_k
from int_ray.report.arms import read_arms
from int_ray.report.comparison import Comparison, compare_evaluations
from int_ray.report.examples import choose_examples, read_examples
from int_ray.report.figures import before_and_after, curve, time_shares, timeline
from int_ray.report.inspection_figures import Histograms
from int_ray.report.lines import Line
from int_ray.report.page import render, write_page
from int_ray.report.run_files import Run, phase_shares, read_lines, read_run
from int_ray.report.verdict import judge
from int_ray.timeline import read_spans

CURVES = {
    "reward": ("Mean reward", "Share of the training rollouts that reach a right answer."),
    "unsolved": ("Unsolved share", "Training problems of the iteration without one right rollout."),
    "zero_advantage": ("Zero-advantage share", "Groups that are all wrong or all right: RL learns nothing from them."),
}


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder from what is there, finished or not.

    Raises ConfigError if it is no run, or the page cannot be written.
    """
    run = read_run(folder)
    examples = [] if run.settings.clones_solutions else choose_examples(read_examples(folder, run))
    by_figure: dict[str, list[Comparison]] = {}
    for item in compare_evaluations(run):
        by_figure.setdefault(item.figure, []).append(item)
    page = render(
        "run.html",
        title=f"{run.name}: int_ray run",
        run=run,
        verdict=judge(run),
        curves=[(*texts, curve(run, name, texts[0])) for name, texts in CURVES.items()] if run.rows else [],
        evaluations=[
            (items, before_and_after(f"evaluation-{place}", items)) for place, items in enumerate(by_figure.values())
        ],
        progress=_progress(folder),
        time=time_shares(phase_shares(run.seconds)) if run.seconds else None,
        timeline=timeline(read_spans(folder / "trace.json")),
        minutes=sum(run.seconds.values()) / 60,
        examples=examples,
        histograms=_histograms(folder, run),
        facts=_facts(run),
    )
    path = folder / "report.html"
    write_page(path, page)
    return path


def _progress(folder: Path) -> list[tuple[str, list[Figure]]]:
    """What evaluations within the run show beside its first and its last one."""
    arms = read_arms([folder])
    is_curve = any(len(arm.evaluated(set_)) > 2 for arm in arms for set_ in arm.sets)
    return [
        ("pass@k over the iterations", pass_at_over_iterations(arms) if is_curve else []),
        ("pass@k over k", pass_at_over_k(arms)),
        ("How far the policy moved", drift_curves(arms)),
    ]


def _histograms(folder: Path, run: Run) -> list[tuple[Markup, str]]:
    """Where interventions are and how long: figures with captions."""
    histograms = Histograms()
    for iteration in run.rounds:
        path = folder / "interventions" / f"iteration_{iteration:06d}.jsonl"
        for line in read_lines(path, Line, []):  # what cannot be read is noted for the examples already
            histograms.add(line)
    return histograms.figures()


def _facts(run: Run) -> dict[str, object]:
    facts: dict[str, object] = {"iterations": f"{len(run.rows)} of {run.settings.iterations or '?'}"}
    if run.rounds:
        what = run.settings.clone
        facts[f"{what} from"] = run.origin
        facts[f"{what} tested"] = sum(event.tested for event in run.rounds.values())
        facts[f"{what} kept"] = sum(event.kept for event in run.rounds.values())
        facts["patches after iteration"] = ", ".join(map(str, run.patches)) or "none"
    return facts | {"ended": run.ending or "not yet"}
