from __future__ import annotations

from int_ray.config import TriggerConfig
from int_ray.trigger import Decision, NeverTrigger, PaperTrigger, PlateauTrigger, build_trigger
from tests.factories import group

STALL = [group("wwww", index=i) for i in range(5)]
SIGNAL = [group("wcww", index=i) for i in range(5)]
HALF_STALLED = STALL[:4] + SIGNAL[:1]  # unsolved share 0.8


def decisions(trigger: PlateauTrigger, *iterations: list) -> list[bool]:
    found: list[bool] = []
    for groups in iterations:
        found.append(trigger.observe(groups, rounds=sum(found)) is Decision.INTERVENE)
    return found


def test_intervenes_after_patience_stalled_iterations_in_a_row():
    trigger = PlateauTrigger(TriggerConfig(patience=3, cooldown=0))
    assert decisions(trigger, STALL, STALL, SIGNAL, STALL, STALL, STALL) == [False] * 5 + [True]


def test_the_threshold_itself_counts_as_stalled():
    assert decisions(PlateauTrigger(TriggerConfig(patience=1, threshold=0.8)), HALF_STALLED) == [True]


def test_cooldown_holds_the_next_round_back():
    trigger = PlateauTrigger(TriggerConfig(patience=1, cooldown=2, max_rounds=9))
    assert decisions(trigger, *[STALL] * 7) == [True, False, False, True, False, False, True]


def test_no_more_than_max_rounds():
    trigger = PlateauTrigger(TriggerConfig(patience=1, cooldown=0, max_rounds=2))
    assert decisions(trigger, *[STALL] * 5) == [True, True, False, False, False]


def test_a_share_within_the_hysteresis_keeps_the_count():
    trigger = PlateauTrigger(TriggerConfig(patience=2, threshold=0.9, hysteresis=0.15, cooldown=0))
    assert decisions(trigger, STALL, HALF_STALLED, STALL) == [False, False, True]
    strict = PlateauTrigger(TriggerConfig(patience=2, threshold=0.9, hysteresis=0.05, cooldown=0))
    assert decisions(strict, STALL, HALF_STALLED, STALL) == [False, False, False]


def test_grader_failures_never_feed_the_trigger():
    undetermined = [group("wwwx"), group("eeee")]
    trigger = PlateauTrigger(TriggerConfig(patience=1, cooldown=0))
    assert decisions(trigger, undetermined, undetermined) == [False, False]
    assert trigger.stalled == 0
    assert decisions(trigger, undetermined + STALL) == [True]


def test_zero_advantage_counts_all_right_groups_too():
    all_right = [group("cccc", index=i) for i in range(4)]
    assert decisions(PlateauTrigger(TriggerConfig(patience=1, signal="zero_advantage")), all_right) == [True]
    assert decisions(PlateauTrigger(TriggerConfig(patience=1, signal="unsolved")), all_right) == [False]


def test_a_restored_trigger_decides_the_same():
    config = TriggerConfig(patience=2, cooldown=1)
    first, second = PlateauTrigger(config), PlateauTrigger(config)
    first.observe(STALL, 0)
    second.restore(first.state())
    assert decisions(first, STALL, STALL, STALL) == decisions(second, STALL, STALL, STALL)


def test_the_paper_intervenes_once_and_plain_rl_never():
    paper, never = build_trigger("paper", TriggerConfig()), build_trigger("never", TriggerConfig())
    assert isinstance(paper, PaperTrigger) and isinstance(never, NeverTrigger)
    assert [paper.observe(SIGNAL, 0), paper.observe(STALL, 1)] == [Decision.INTERVENE, Decision.CONTINUE]
    resumed = PaperTrigger()
    resumed.restore(paper.state())
    assert resumed.observe(STALL, 1) is Decision.CONTINUE
    assert {never.observe(STALL, 0) for _ in range(9)} == {Decision.CONTINUE}
