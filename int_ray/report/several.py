"""Several runs on one page: the arms of an experiment side by side, and what they say to the paper's claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from int_ray.claims import Judgement, judge_claims
from int_ray.contrasts import benchmarks
from int_ray.evaluation_results import AVERAGE
from int_ray.metrics import Estimate
from int_ray.report import arm_figures
from int_ray.report.arms import TITLES, Arm, differing_settings, read_arms
from int_ray.report.page import counted, render, write_page
from int_ray.resampling import RESAMPLES

BADGES = {"reproduced": "good", "not reproduced": "bad", "not testable": ""}


@dataclass(frozen=True)
class Row:
    """One policy in the table: an arm at some iteration."""

    name: str
    scores: dict[tuple[str, int], Estimate | None]  # set and k


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write one page over runs, or over folders `FOLDER/seed-*/ARM/` of runs, finished or not; returns `out`.

    Raises ConfigError if a folder holds no run, two runs are the same seed of the same arm, or `out` cannot be written.
    """
    arms = read_arms(folders)
    claims = judge_claims(arms)
    columns = score_columns(arms)
    page = render(
        "several.html",
        title=f"{', '.join(arm.title for arm in arms)}: int_ray comparison",
        headline=headline(claims),
        lead=_lead(arms),
        arms=arms,
        claims=claims,
        badges=BADGES,
        signed=_signed,
        resamples=RESAMPLES,
        pass_at=arm_figures.pass_at_over_iterations(arms),
        training=_figure_8(arms),
        columns=columns,
        rows=score_rows(arms, columns),
        patched=any(arm.patched_only(set_) is not None for arm in arms for set_ in arm.sets),
        over_k=arm_figures.pass_at_over_k(arms),
        interventions=arm_figures.intervention_figures(arms),
        drift=arm_figures.drift_curves(arms),
        notes=_notes(arms),
    )
    write_page(out, page)
    return out


def headline(claims: Sequence[Judgement]) -> str:
    """How many claims hold, of those that could be tested."""
    testable = [claim for claim in claims if claim.verdict != "not testable"]
    if not testable:
        return "Side by side"
    held = sum(claim.verdict == "reproduced" for claim in testable)
    return f"{held} of {counted(len(testable), 'testable claim')} of the paper reproduced"


def score_columns(arms: Sequence[Arm]) -> list[tuple[str, int]]:
    """Sets and k of the table; pass@1 as the last one is averaged over the benchmarks, where there are several."""
    most = {set_: arm_figures.largest_k(arms, set_) for set_ in arm_figures.all_sets(arms)}
    columns = [(set_, k) for set_, largest in most.items() for k in sorted({1, largest}) if largest]
    return [*columns, (AVERAGE, 1)] if len(benchmarks(arms)) > 1 else columns


def score_rows(arms: Sequence[Arm], columns: Sequence[tuple[str, int]]) -> list[Row]:
    """The base, then every arm right after its patch (no RL, as far as that was evaluated) and at its end."""
    shared = benchmarks(arms)
    rows = []
    for arm in arms:
        evaluated = {set_: arm.evaluated(set_) for set_ in arm.sets}
        base = {set_: 0 for set_, iterations in evaluated.items() if 0 in iterations}
        if base and not rows:
            rows.append(_row("base", arm, base, columns, shared))
        patched = {set_: at for set_ in arm.sets if (at := arm.patched_only(set_)) is not None}
        if patched:
            rows.append(_row(f"{arm.title}, before RL", arm, patched, columns, shared))
        last = {set_: max(iterations) for set_, iterations in evaluated.items() if max(iterations, default=0)}
        name = arm.title if arm.method == "standard_rl" else f"{arm.title} + RL"
        rows.append(_row(name, arm, last, columns, shared))
    return rows


def _row(name: str, arm: Arm, at: Mapping[str, int], columns: Sequence[tuple[str, int]], shared: Sequence[str]) -> Row:
    """Scores of an arm after the iteration that `at` has for each set; `shared`: the sets of the average."""
    scores = {
        (set_, k): arm_figures.score(arm.pass_at(k, set_, at[set_])) if set_ in at else None
        for set_, k in columns
        if set_ != AVERAGE
    }
    if (AVERAGE, 1) in columns:
        iterations = {at.get(set_) for set_ in shared}
        last = iterations.pop() if len(iterations) == 1 else None
        scores[AVERAGE, 1] = None if last is None else arm_figures.average(arm, shared, last)
    return Row(name, scores)


def _signed(value: float) -> str:
    return f"{value:+.3f}" if abs(value) < 10 else f"{value:+.1f}"


def _figure_8(arms: Sequence[Arm]) -> list[arm_figures.Figure]:
    """In the paper's order: reward, held-out pass@1, shares of problems."""
    training = arm_figures.training_curves(arms)
    return [*training[:1], *arm_figures.held_out_curve(arms), *training[1:]]


def _lead(arms: Sequence[Arm]) -> str:
    runs = "; ".join(f"{arm.title}: {counted(len(arm.runs), 'seed')}" for arm in arms)
    return f"{runs}. Lines are means over seeds."


def _notes(arms: Sequence[Arm]) -> list[str]:
    """What is missing, or makes runs differ in more than they should."""
    notes = []
    for arm in arms:
        if arm.place >= len(TITLES):
            notes.append(f"{arm.title}: drawn, but no claim is judged by it: another arm is {TITLES[arm.method]} too.")
        if names := differing_settings(arm):
            notes.append(f"{arm.title}: its runs differ in {', '.join(names)}, not in the seed alone.")
        for member in arm.left_out:
            how = member.run.ending or "not finished yet"
            notes.append(f"{member.folder}: {how}; left out, since other seeds of {arm.title} are finished.")
        for member in arm.runs.values():
            if member.run.ending != "finished":
                notes.append(f"{member.folder}: {member.run.ending or 'not finished yet'}.")
            notes += [f"{member.folder}: {note}" for note in dict.fromkeys(member.run.notes)]
    return notes
