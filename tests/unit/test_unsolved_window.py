from __future__ import annotations

from dataclasses import replace

from int_ray.types import RolloutGroup
from int_ray.unsolved_window import UnsolvedWindow, failed_rollouts
from tests.factories import completion, group


def ids(groups: list[RolloutGroup]) -> list[str]:
    return [item.problem.id for item in groups]


def test_problems_that_stayed_unsolved_over_the_window():
    window = UnsolvedWindow(2)
    window.add([group("ww", index=0), group("cw", index=1), group("ww", index=2)])
    window.add([group("ww", index=1), group("cw", index=2), group("ww", index=3)])
    assert ids(window.stayed_unsolved()) == ["p0", "p3"]


def test_an_old_success_leaves_the_window():
    window = UnsolvedWindow(1)
    window.add([group("cw", index=0)])
    window.add([group("ww", index=0)])
    assert ids(window.stayed_unsolved()) == ["p0"]


def test_the_latest_group_is_shown_and_undetermined_ones_are_not():
    window = UnsolvedWindow(3)
    latest = group("ww", index=0, version=2)
    window.add([group("ww", index=0, version=1)])
    window.add([latest, group("wx", index=1)])
    assert window.stayed_unsolved() == [latest]
    window.clear()
    assert window.stayed_unsolved() == []


def test_more_groups_of_an_iteration_take_no_place_in_the_window():
    window = UnsolvedWindow(2)
    window.add([group("ww", index=0), group("ww", index=1)])
    window.add([group("ww", index=2)])
    window.extend([group("cw", index=0), group("ww", index=3)])
    assert len(window) == 2 and ids(window.stayed_unsolved()) == ["p1", "p2", "p3"]


def test_failed_rollouts_are_different_finished_first_and_graded():
    mixed = group("twwxc")
    texts = ["long", "first", "first", "unjudged", "right"]
    rollouts = tuple(
        replace(rollout, completion=completion(text, seed=i))
        for i, (rollout, text) in enumerate(zip(mixed.rollouts, texts, strict=True))
    )
    mixed = replace(mixed, rollouts=rollouts)
    assert [rollout.completion.text for rollout in failed_rollouts(mixed, 4)] == ["first", "long"]
    assert [rollout.completion.text for rollout in failed_rollouts(mixed, 1)] == ["first"]
