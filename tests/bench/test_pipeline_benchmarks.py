"""The benchmarks of the pipeline at toy size: what they count is right, whatever the times are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import orchestration, scale
from benchmarks.measure import Scale


def test_orchestration_reports_its_three_figures():
    figures = {figure.name: figure for figure in orchestration.run(Scale.TINY)}
    assert list(figures) == [
        "orchestration.overhead_sync",
        "orchestration.overhead_async",
        "pipeline.async_over_sync",
    ]
    for busy, wall in figures["orchestration.overhead_sync"].raw + figures["orchestration.overhead_async"].raw:
        assert 0 < busy < wall  # scripted stages never take less than the script says


def test_the_bottleneck_of_a_synchronous_run_is_every_stage():
    busy, wall = orchestration.synchronous(iterations=3, shrink=0.1)
    assert busy == pytest.approx(3 * (0.05 + 0.03 + 0.005) + 0.005) and wall > busy


def test_the_gain_repeats_itself_and_is_no_larger_than_its_bound():
    first, second = orchestration.gain(iterations=6), orchestration.gain(iterations=6)
    assert first == second
    assert 1 < first.value < float(first.limit)


def test_equal_lengths_gain_what_two_equal_stages_allow():
    times = [orchestration.simulated(staleness, 20, sigma=0.0, train_s=1.0) for staleness in (0, 1)]
    assert times == pytest.approx([40.0, 21.0])  # both stages in turn; side by side after the first


def test_every_rollout_is_trained_on_once_in_a_run_whose_engines_crash():
    figures = {figure.name: figure for figure in scale.run(Scale.TINY)}  # raises if one is lost or doubled
    assert figures["scale.staleness_max"].value <= scale.STALENESS
    assert figures["scale.rollouts_per_s"].value > 0 and figures["scale.dispatch_p99_s"].value > 0


@pytest.mark.parametrize("virtual", [True, False])
def test_groups_of_dead_engines_are_decoded_again_and_trained_on_once(virtual: bool):
    outcome = scale.simulate(scale.TOY, virtual=virtual)
    assert (outcome.lost, outcome.doubled) == (0, 0)
    assert outcome.crashed > 0
    assert outcome.silent == outcome.duplicated > 0
    assert outcome.again == outcome.crashed + outcome.silent
    assert outcome.rollouts == scale.TOY.batch * scale.GROUP * scale.TOY.iterations


def test_groups_wait_in_line_and_that_is_no_overhead():
    outcome = scale.simulate(scale.TOY, virtual=True)
    assert outcome.waited > 0.5
    assert max(outcome.dispatch_s) < 1e-6  # in virtual time int_ray's own work takes none


@pytest.mark.parametrize(
    "change", [{"lost": 1}, {"doubled": 1}, {"crashed": 0}, {"duplicated": 0}, {"waited": 0.0}], ids=str
)
def test_a_run_that_proves_nothing_is_no_figure(change: dict[str, float]):
    outcome = scale.simulate(scale.TOY, virtual=True)
    scale.check(outcome)
    with pytest.raises(RuntimeError, match=r"never trained on|no hard run"):
        scale.check(replace(outcome, **change))
