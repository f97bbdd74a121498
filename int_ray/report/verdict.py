"""What happened in a run, in words, from its numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from int_ray.report.comparison import Comparison, compare_evaluations
from int_ray.report.page import counted, words
from int_ray.report.run_files import Row, Run

WINDOW = 5  # iterations that "at first" and "now" are means of
STUCK = 0.8  # unsolved share from which a run counts as stuck
CLEAR, LARGE = 0.1, 0.35  # changes of the unsolved share that a headline speaks of


@dataclass(frozen=True)
class Verdict:
    """A headline and the sentences that carry it."""

    headline: str
    sentences: tuple[str, ...]


def judge(run: Run) -> Verdict:
    """The verdict on a run of any schedule, with or without evaluations, finished or not."""
    if not run.rows:
        return Verdict("No iteration is finished yet.", (*_ending(run),))
    sentences = (*_ending(run), *_stall(run), *_rounds(run), *_outages(run), *_course(run), *_scores(run))
    return Verdict(_headline(run), sentences)


def _headline(run: Run) -> str:
    before, after = _before(run), _after(run)
    if not after:
        return "Just patched: too early to tell."
    now = _mean(after, "unsolved")
    was = _mean(before, "unsolved") if before else now
    if min(was, now) >= STUCK and was - now < CLEAR:
        return "Patched, and still stuck." if run.patches else "The run is stuck."
    if run.patches and was >= STUCK and was - now >= LARGE:
        return "Stuck, then freed by a patch."
    when = "after the patch" if run.patches else "without an intervention"
    if was - now >= CLEAR:
        return f"The run made progress {when}."
    if now - was >= CLEAR:
        return f"The run got worse {when}."
    return f"Little has changed {when}." if before else "Patched at the start, and moving."


def _before(run: Run) -> list[Row]:
    """How it was: up to the iteration at whose end the policy was first patched, or else the first ones."""
    if not run.patches:
        return run.rows[:WINDOW]
    return [row for row in run.rows if row.iteration <= min(run.patches)][-WINDOW:]


def _after(run: Run) -> list[Row]:
    """How it is: the last iterations since the first patch, if there was one."""
    return [row for row in run.rows if row.iteration > min(run.patches, default=0)][-WINDOW:]


def _mean(rows: Sequence[Row], figure: str) -> float:
    return sum(getattr(row, figure) for row in rows) / len(rows)


def _ending(run: Run) -> list[str]:
    if run.ending == "finished":
        return []
    done = f"after {run.rows[-1].iteration if run.rows else 0} of {run.settings.iterations or '?'} iterations"
    if run.ending is None:
        return [f"Its journal has no end {done}: it is still going, or was killed."]
    return [f"It {'was interrupted' if run.ending == 'interrupted' else 'failed'} {done}."]


def _stall(run: Run) -> list[str]:
    """How long there was nothing to learn from."""
    barren = next((index for index, row in enumerate(run.rows) if row.reward > 0), len(run.rows))
    why = "every rollout of every training problem failed, and RL had nothing to learn from."
    if barren == len(run.rows):
        return [f"Not one reward in {counted(barren, 'iteration')}: {why}"]
    return [f"It began with {counted(barren, 'iteration')} without one reward: {why}"] if barren else []


def _rounds(run: Run) -> list[str]:
    rounds = run.rounds.values()
    if not rounds:
        return []
    tested, kept = (sum(getattr(event, name) for event in rounds) for name in ("tested", "kept"))
    if not tested:
        if not run.num_answered:
            return ["No intervention of the file could be used."]
        return [f"The oracle was asked, but no {run.settings.clone[:-1]} came of it."]
    plural = "s" if len(run.patches) > 1 else ""
    when = f"after iteration{plural} {', '.join(map(str, run.patches))}"
    patched = f" The policy was patched with them {when}." if run.patches else " There was no patch."
    if run.settings.clones_solutions:
        return [f"{kept} of {counted(tested, 'full solution')} by the oracle were right, and cloned.{patched}"]
    helped = (
        "helped: going on from its own steps and the new one, the policy reached a right answer"
        if run.settings.filters
        else "were used, without a test"
    )
    origin = f" from {run.origin}" if 0 in run.rounds else ""
    return [f"{kept} of {counted(tested, 'intervention')}{origin} {helped}.{patched}"]


def _outages(run: Run) -> list[str]:
    if not run.outages:
        return []
    reasons = ", ".join(words(reason) for reason in dict.fromkeys(run.outages.values()))
    return [f"The oracle could not be asked in {counted(len(run.outages), 'iteration')} ({reasons})."]


def _course(run: Run) -> list[str]:
    """What came of it during training."""
    before, after = _before(run), _after(run)
    if not before or not after or before == after:
        return []
    unsolved, reward = ([f"{_mean(rows, figure):.2f}" for rows in (before, after)] for figure in ("unsolved", "reward"))
    return [
        f"The share of training problems without one right rollout {_move(*unsolved)}, and the mean reward "
        f"{_move(*reward)} (mean of the last {counted(len(after), 'iteration')})."
    ]


def _move(was: str, now: str) -> str:
    if was == now:
        return f"stayed at {was}"
    return f"{'fell' if float(now) < float(was) else 'rose'} from {was} to {now}"


def _scores(run: Run) -> list[str]:
    """pass@k of the largest k, before and after, on every set; and whatever has become worse."""
    compared = [item for item in compare_evaluations(run) if item.end]
    sizes = [int(item.figure.removeprefix("pass@")) for item in compared if item.figure.startswith("pass@")]
    largest = f"pass@{max(sizes, default=0)}"
    sets = [f"{item.set} {_from_to(item)} ({item.change})" for item in compared if item.figure == largest]
    worse = [f"{item.figure} on {item.set}, {_from_to(item)}" for item in compared if item.verdict == "bad"]
    sentences = [f"Evaluated by {largest}: {', '.join(sets)}."] if sets else []
    return [*sentences, f"Clearly worse: {'; '.join(worse)}."] if worse else sentences


def _from_to(item: Comparison) -> str:
    return f"from {item.base.mean:.2f} to {item.end.mean:.2f}" if item.end else ""
