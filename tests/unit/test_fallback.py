"""The next oracle is asked where the ones before failed, and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from int_ray.oracles.fallback import FallbackOracle
from int_ray.types import Attempt, OracleReply, Proposal, Source
from tests.factories import attempt
from tests.fakes import FakeProgress

REFUSED = ("gemini: no_usable_entry", "gemini: location_not_whole")
HELP = OracleReply((Proposal(1, "12+5=17"),), faults=("location_out_of_range",))


class Scripted:
    """A reply per problem id."""

    def __init__(self, replies: Mapping[str, OracleReply]):
        self.replies = replies
        self.asked: list[list[str]] = []

    async def intervene(self, attempts: Sequence[Attempt]) -> list[OracleReply]:
        self.asked.append([item.problem.id for item in attempts])
        return [self.replies[item.problem.id] for item in attempts]


def failing(*names: str) -> Scripted:
    return Scripted({f"p{index}": OracleReply(failure=name) for index, name in enumerate(names)})


def ask(*oracles: tuple[str, Scripted], count: int) -> tuple[list[OracleReply], FakeProgress]:
    progress = FakeProgress()
    attempts = [attempt("12+5=18\n\n", index=index) for index in range(count)]
    return asyncio.run(FallbackOracle(oracles, progress).intervene(attempts)), progress


def test_each_kind_is_asked_about_what_the_ones_before_failed_at():
    gemini = Scripted(
        {
            "p0": HELP,
            "p1": OracleReply(failure="no_error", log="fine"),
            "p2": OracleReply(failure="timeout"),
            "p3": OracleReply(failure="no_usable_entry", faults=("location_not_whole",)),
            "p4": OracleReply(failure="no_json", faults=("attempt_trimmed",)),
        }
    )
    policy = Scripted({"p2": HELP, "p3": OracleReply(failure="no_json"), "p4": OracleReply(failure="no_error")})
    exact = Scripted({"p3": OracleReply(failure="no_reference", faults=("odd",))})
    replies, progress = ask(("gemini", gemini), ("policy", policy), ("exact", exact), count=5)
    assert (policy.asked, exact.asked) == ([["p2", "p3", "p4"]], [["p3"]])
    assert replies == [
        HELP,
        OracleReply(failure="no_error", log="fine"),
        OracleReply(HELP.proposals, faults=("gemini: timeout", "location_out_of_range")),
        OracleReply(failure="no_reference", faults=(*REFUSED, "policy: no_json", "odd")),
        OracleReply(failure="no_error", faults=("gemini: no_json", "gemini: attempt_trimmed")),
    ]
    assert progress.phases == ["asking policy where others failed", "asking exact where others failed"]


def test_an_outage_stands_for_an_attempt_about_which_all_kinds_failed():
    """And only then: a fallback that answers is what a fallback is for."""
    spent = OracleReply(failure="over_budget", source=Source("gemini"))
    gemini = Scripted({f"p{index}": spent for index in range(3)})
    recorded = Scripted(
        {
            "p0": OracleReply(failure="no_recorded_intervention", faults=("odd",)),
            "p1": HELP,
            "p2": OracleReply(failure="no_error"),
        }
    )
    replies, _ = ask(("gemini", gemini), ("recorded", recorded), count=3)
    assert replies == [
        replace(spent, faults=("recorded: no_recorded_intervention", "recorded: odd")),
        replace(HELP, faults=("gemini: over_budget", *HELP.faults)),
        OracleReply(failure="no_error", faults=("gemini: over_budget",)),
    ]


def test_nobody_else_is_asked_without_a_failure():
    second = failing()
    replies, progress = ask(("exact", Scripted({"p0": HELP})), ("policy", second), count=1)
    assert (replies, second.asked, progress.phases) == ([HELP], [], [])


def test_no_attempts_are_no_replies():
    assert ask(("exact", failing()), ("policy", failing()), count=0)[0] == []
