"""The trace of a run: what is written, what a crash leaves, and who is found idle."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from actors.run_folder import RunFolder, traced_folder
from actors.trace import Trace, TracedProgress, traced
from int_ray.timeline import COORDINATOR, RUN, UPKEEP, Span, idleness, overhead, read_spans, stretches
from tests.fakes import FakeProgress


def names(path: Path) -> list[tuple[str, str]]:
    return [(span.track, span.name) for span in read_spans(path)]


def test_the_file_is_a_trace_event_array_but_for_its_bracket(tmp_path: Path):
    trace = Trace(tmp_path / "trace.json")
    with trace.span("learner", "patch"):
        pass
    trace.close()
    events = json.loads((tmp_path / "trace.json").read_text().rstrip().rstrip(",") + "]")
    assert [event["ph"] for event in events] == ["M", "M", "B", "E"]
    assert events[2]["name"] == "patch" and events[2]["ts"] <= events[3]["ts"]
    assert {event["tid"] for event in events[1:]} == {1}


def test_overlapping_spans_of_a_track_are_one(tmp_path: Path):
    trace = Trace(tmp_path / "trace.json")
    with trace.span("engine 0", "sample_group"), trace.span("engine 0", "canary"):
        pass
    with trace.span("engine 0", "canary"):
        pass
    assert names(tmp_path / "trace.json") == [("engine 0", "sample_group"), ("engine 0", "canary")]


def test_phases_follow_each_other_and_reach_the_person(tmp_path: Path):
    trace = Trace(tmp_path / "trace.json")
    shown = FakeProgress()
    progress = TracedProgress(shown, trace)
    progress.phase("sampling", 3)
    progress.say("all is well")
    progress.phase("patching")
    trace.figures({"engines": 2})
    trace.close()
    assert names(tmp_path / "trace.json") == [(COORDINATOR, "sampling"), (COORDINATOR, "patching")]
    assert shown.phases == ["sampling", "patching"] and shown.story == ["all is well"]
    events = [json.loads(line.rstrip(",")) for line in (tmp_path / "trace.json").read_text().splitlines()[1:]]
    assert [event["name"] for event in events if event["ph"] == "i"] == ["all is well"]
    assert [event["args"] for event in events if event["ph"] == "C"] == [{"engines": 2}]


def test_a_crash_leaves_a_readable_trace_and_a_resumed_run_goes_on_with_it(tmp_path: Path):
    path = tmp_path / "trace.json"
    first = Trace(path)
    with first.span("learner", "patch"), first.span("engine 0", "sample_group"):
        pass
    crashed = path.read_text().splitlines(keepends=True)
    path.write_text("".join(crashed[:-1]) + crashed[-1][:9])  # the learner's end is torn
    assert names(path) == [("learner", "patch"), ("engine 0", "sample_group")]
    second = Trace(path)
    with second.span("learner", "reinforce"):
        pass
    events = json.loads(path.read_text().rstrip().rstrip(",") + "]")
    assert sorted({event["pid"] for event in events}) == [1, 2]
    assert names(path) == [("learner", "patch"), ("engine 0", "sample_group"), ("learner", "reinforce")]


class Sampler:
    size = 7

    async def sample_group(self, problem: str, *, n: int) -> list[str]:
        return [problem] * n

    async def fail(self) -> None:
        raise ValueError("no weights")

    def at_once(self) -> int:
        return self.size


def test_a_traced_object_answers_and_fails_as_before(tmp_path: Path):
    trace = Trace(tmp_path / "trace.json")
    sampler = traced(Sampler(), trace, "engine 0", "sample_group", "fail", "at_once")
    assert asyncio.run(sampler.sample_group("p", n=2)) == ["p", "p"] and sampler.size == 7
    with pytest.raises(ValueError, match="no weights"):
        asyncio.run(sampler.fail())
    assert sampler.at_once() == 7 and trace.seconds["engine 0", "at_once"] >= 0
    recorded = ["sample_group", "fail", "at_once"]
    assert names(tmp_path / "trace.json") == [("engine 0", name) for name in recorded]


def test_what_a_run_writes_is_recorded_as_upkeep(tmp_path: Path):
    trace = Trace(tmp_path / "trace.json")
    folder = traced_folder(RunFolder(tmp_path), trace)
    folder.metrics(1, {"rollout/reward": 0.5})
    folder.journal.write("checkpoint", iteration=1)
    folder.rollouts(1, [])
    assert names(tmp_path / "trace.json") == [(UPKEEP, "metrics"), (UPKEEP, "journal"), (UPKEEP, "rollouts")]
    folder.close()
    assert (tmp_path / "metrics.jsonl").read_text() and (tmp_path / "journal.jsonl").read_text()


def test_what_ends_after_the_run_does_no_harm(tmp_path: Path):
    trace = Trace(tmp_path / "trace.json")
    with trace.span("engine 0", "sample_group"):
        trace.close()
    [span] = read_spans(tmp_path / "trace.json")
    assert span.name == "sample_group"


def test_a_full_disk_ends_the_recording_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trace = Trace(tmp_path / "trace.json")
    trace.say("before")
    with open("/dev/full", "a", buffering=1) as full:
        monkeypatch.setattr(trace, "_file", full)
        with trace.span("learner", "patch"):
            trace.say("after")
        trace.close()
    assert "before" in (tmp_path / "trace.json").read_text()


def test_idle_time_by_hand():
    """0-10: engines 1-4, learner 3-6, a save 6-7 and grading 7-8 inside the phase 6-9; before 0 there is start-up."""
    spans = [
        Span(COORDINATOR, "starting Ray", -5, 0),
        Span(RUN, "training", 0, 10),
        Span("engine 0", "sample_group", 1, 4),
        Span("learner", "reinforce", 3, 6),
        Span(COORDINATOR, "saving", 6, 9),
        Span("learner", "save", 6, 7),
        Span("graders", "grade", 7, 8),
        Span("graders", "grade", 8, 8),
    ]
    found = idleness(spans)
    assert found.seconds == 10
    assert found.by_cause == {"nothing": 2, "learner save": 1, "graders grade": 1, "saving": 1}
    assert found.share == 0.5


def test_requests_that_wait_for_new_weights_are_no_work():
    spans = [
        Span(RUN, "training", 0, 10),
        Span("engine 0", "sample_group", 0, 10),
        Span("weight sync", "publish", 4, 6),
        Span("learner", "send_weights", 5, 6),
    ]
    assert idleness(spans).by_cause == {"weight sync publish": 1, "learner send weights": 1}


def test_overhead_by_hand():
    """Before 0 there is start-up; the checkpoint waits, though engines sample; records beside work cost nothing."""
    spans = [
        Span(COORDINATOR, "saving", -5, -1),
        Span(RUN, "training", 0, 100),
        Span("engine 0", "sample_group", 0, 20),
        Span(UPKEEP, "write", 4, 5),  # beside sampling
        Span(UPKEEP, "metrics", 19, 22),  # 2 of them after it
        Span("learner", "reinforce", 30, 50),
        Span(UPKEEP, "rollouts", 29, 40),  # 1 of them before it
        Span(COORDINATOR, "saving", 60, 65),
        Span("engine 0", "sample_group", 62, 70),
        Span("learner", "save", 60, 65),
        Span(UPKEEP, "write", 64, 66),  # 1 of them in the phase, 1 beside sampling
        Span(COORDINATOR, "evaluating hard", 66, 90),
    ]
    found = overhead(spans)
    assert found.seconds == 100
    assert found.by_cause == {"saving": 4, "metrics": 2, "rollouts": 1, "write": 1}
    assert found.share == 0.08


def test_a_run_without_a_trace_has_no_overhead():
    assert overhead([]).share == 0 and overhead([Span(UPKEEP, "write", 0, 1)]).by_cause == {}


def test_stretches_are_cut_to_the_run_and_joined_over_short_gaps():
    within = Span(RUN, "training", 10, 20)
    spans = [
        Span("e", "x", *times) for times in ((8, 9), (9, 11), (10.5, 12), (12.5, 13), (15, 22), (16, 17), (25, 26))
    ]
    assert stretches(spans, within, gap=0.1) == [(0, 2), (2.5, 0.5), (5, 5)]
    assert stretches(spans, within, gap=0.5) == [(0, 3), (5, 5)]


def test_lines_that_are_no_events_are_left_out(tmp_path: Path):
    lines = [
        "[",
        '{"ph": "B", "pid": 1, "tid": 9, "ts": 1},',
        '{"ph": 3},',
        "null",
        '{"ph":"B","pid":1,"tid":1,"ts":1e999},',
    ]
    (tmp_path / "trace.json").write_text("\n".join(lines))
    assert read_spans(tmp_path / "trace.json") == []


def test_a_trace_without_a_run_has_no_idle_time():
    assert idleness([Span("learner", "patch", 0, 1)]).share == 0
    assert idleness([]).share == 0


def test_two_engines_working_in_turn_leave_no_gap():
    spans = [
        Span(RUN, "training", 0, 4),
        Span("engine 0", "sample_group", 0, 2),
        Span("engine 1", "sample_group", 2, 4),
    ]
    assert idleness(spans).by_cause == {}
