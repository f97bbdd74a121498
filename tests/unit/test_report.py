"""What a run's report says, and that nothing in a run folder can break or take over the page."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from errno import ENOSPC
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from actors.run_folder import RunFolder
from actors.trace import Trace
from int_ray.config_file import ConfigError
from int_ray.report.comparison import Comparison
from int_ray.report.examples import Example, choose_examples, read_examples
from int_ray.report.lines import Line
from int_ray.report.page import render, visible, write_page
from int_ray.report.run_files import Run, Score, phase_shares, read_run
from int_ray.report.run_page import write_report
from int_ray.report.verdict import judge
from launch.cli import app
from launch.collect import BEGINS as COLLECTING
from tests.run_folders import BEFORE_AND_AFTER, write_run

HOSTILE = "<script>alert(1)</script></title></svg><img src=x onerror=alert(1)> {{ 7*7 }} \u202eabc\x1b[31m $x$"


class Elements(HTMLParser):
    """Every start tag of a page with its attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found[-1:] != [("style", {})]:
            self.text += data

    def values(self, name: str) -> list[str]:
        """All values of one attribute."""
        return [attributes[name] or "" for _, attributes in self.found if name in attributes]

    def count(self, tag: str) -> int:
        """How many elements there are."""
        return sum(found == tag for found, _ in self.found)


def words(report: Path) -> str:
    """What a page says, with single spaces."""
    return " ".join(Elements(report.read_text().replace("<td>", " ")).text.split())


@pytest.fixture(scope="module")
def freed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run that was stuck and then freed."""
    return write_report(write_run(tmp_path_factory.mktemp("report") / "freed"))


def test_the_story_of_a_run_that_a_patch_freed(freed: Path):
    said, page = words(freed), Elements(freed.read_text())
    assert "Stuck, then freed by a patch." in said
    assert "It began with 3 iterations without one reward" in said
    assert "2 of 3 interventions helped" in said and "patched with them after iteration 3" in said
    # Iterations 1-3 (all unsolved) against 4-6 (0.5, 0.25 and 0 of them).
    assert "fell from 1.00 to 0.25" in said and "rose from 0.00 to 0.75" in said
    # Two of four right: pass@2 = 1 - C(2,2) / C(4,2) = 5/6.
    assert "hard from 0.00 to 0.83 (higher), easy from 1.00 to 1.00 (no clear change)" in said
    assert "Where 0.2 minutes went" in said
    assert "mini_batch_size: 16" in said
    assert "pass@k over k" in said and "pass@k over the iterations" not in said  # two evaluations make no curve
    # Curves; pass@1, pass@2 and unsolved; over k, a set each; two of places, lengths; time.
    assert page.count("svg") == 3 + 3 + 2 + 3 + 1
    assert page.count("del") == 2 and page.count("ins") == 2  # the refused and the unhelpful one are no examples
    assert "2 of 4 continuations right" in said


def test_a_page_needs_nothing_but_itself(freed: Path):
    page = Elements(freed.read_text())
    policy = page.values("content")[0]
    assert "default-src 'none'" in policy and "script-src" not in policy
    assert page.count("script") == 0
    links = page.values("href") + page.values("src") + page.values("xlink:href")
    assert all(link == "data:," or link.startswith("#") for link in links)
    ids = page.values("id")
    assert len(ids) == len(set(ids))  # of several figures on one page
    assert {link.removeprefix("#") for link in page.values("xlink:href")} <= set(ids)
    assert all(page.values("aria-label"))


def test_the_same_run_gives_the_same_page(freed: Path, tmp_path: Path):
    first = freed.read_bytes()
    assert write_report(freed.parent).read_bytes() == first


def test_a_run_of_plain_rl_that_stays_stuck_and_was_evaluated_once(tmp_path: Path):
    said = words(write_report(write_run(tmp_path / "plain", (1.0,) * 6, (), {"hard": ("wwww",)})))
    said = said.partition("config.yaml")[0]
    assert "The run is stuck." in said
    assert "Not one reward in 6 iterations" in said
    assert "stayed at 1.00" in said
    assert "patch" not in said and "ntervention" not in said
    assert "pass@2 hard 1 0.00 [0.00, 0.00]" in said
    assert "Evaluated by" not in said


@pytest.mark.parametrize(
    ("unsolved", "patched_after", "headline"),
    [
        ((), (), "No iteration is finished yet."),
        ((1.0, 1.0), (2,), "Just patched: too early to tell."),
        ((1.0, 1.0, 0.95, 0.95), (2,), "Patched, and still stuck."),
        ((1.0, 1.0, 0.5, 0.5), (2,), "Stuck, then freed by a patch."),
        ((0.9, 0.9, 0.7, 0.7), (2,), "The run made progress after the patch."),
        ((0.5, 0.5, 0.9, 0.9), (2,), "The run got worse after the patch."),
        ((0.5, 0.5, 0.45), (2,), "Little has changed after the patch."),
        ((0.9, 0.9), (0,), "Patched, and still stuck."),
        ((0.3, 0.3), (0,), "Patched at the start, and moving."),
        ((0.9,) * 9, (), "The run is stuck."),
        ((0.9,) * 5 + (0.2,) * 5, (), "The run made progress without an intervention."),
        ((0.2,) * 5 + (0.9,) * 5, (), "The run got worse without an intervention."),
        ((0.3, 0.3), (), "Little has changed without an intervention."),
    ],
)
def test_headlines(tmp_path: Path, unsolved: Sequence[float], patched_after: Sequence[int], headline: str):
    folder = write_run(tmp_path / "run", unsolved or (1.0,), [it for it in patched_after if it], {})
    if not unsolved:
        (folder / "metrics.jsonl").write_text("")
    if 0 in patched_after:  # interventions from a file
        with (folder / "journal.jsonl").open("a") as journal:
            event = {"event": "intervention_round", "iteration": 0, "intervention/kept": 2, "intervention/tested": 3}
            journal.write(json.dumps({"time": "2026-01-01T00:00:00+00:00", **event}) + "\n")
    assert judge(read_run(folder)).headline == headline


@pytest.mark.parametrize(
    ("ending", "sentence"),
    [
        ("interrupted", "It was interrupted after 6 of 6 iterations."),
        ("failed", "It failed after 6 of 6 iterations."),
        (None, "Its journal has no end after 6 of 6 iterations: it is still going, or was killed."),
    ],
)
def test_runs_without_an_end_or_an_evaluation(tmp_path: Path, ending: str | None, sentence: str):
    run = read_run(write_run(tmp_path / "run", evaluations={}, ending=ending))
    assert judge(run).sentences[0] == sentence
    assert not any("pass@" in said for said in judge(run).sentences)


def test_what_has_become_worse_is_said(tmp_path: Path):
    run = read_run(write_run(tmp_path / "run", evaluations={"hard": ("wwww", "cccc"), "easy": ("cccc", "cwww")}))
    # One of four right: pass@1 = 1/4, pass@2 = 1 - C(3,2) / C(4,2) = 1/2.
    worse = "Clearly worse: pass@1 on easy, from 1.00 to 0.25; pass@2 on easy, from 1.00 to 0.50."
    assert judge(run).sentences[-1] == worse


def test_what_a_resumed_run_did_twice_counts_once(tmp_path: Path):
    folder = write_run(tmp_path / "run", (1.0, 1.0, 1.0, 1.0), (3,), BEFORE_AND_AFTER, ending=None)
    write_run(folder, (1.0, 0.5), ())  # a second process that began at iteration 0 again
    run = read_run(folder)
    assert [row.unsolved for row in run.rows] == [1.0, 0.5]
    assert not run.patches and run.ending == "finished"
    assert [event.iteration for event in run.evaluations["hard"]] == [0, 2]


def test_text_of_a_run_stays_text(tmp_path: Path):
    folder = write_run(tmp_path / "<b>run</b>", evaluations={"<i>$set$": ("wwww", "cccc")}, text=HOSTILE)
    with (folder / "config.yaml").open("a") as config:
        config.write(f"# {HOSTILE}\n")
    page = Elements(write_report(folder).read_text())
    assert page.count("script") == page.count("img") == page.count("b") == page.count("i") == 0
    assert page.text.count("<script>alert(1)</script></title></svg>") >= 3 * 2
    assert "{{ 7*7 }} ⟨U+202E⟩abc⟨U+001B⟩[31m $x$" in page.text
    assert "<i>$set$" in page.text
    assert not [name for _, attributes in page.found for name in attributes if name.startswith("on")]


def test_half_written_files_are_reported_and_the_rest_is_shown(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    for name in ("metrics.jsonl", "journal.jsonl", "interventions/iteration_000003.jsonl"):
        text = (folder / name).read_text()
        (folder / name).write_text(text[:-20] + "\n[1, 2]\n")
    (folder / "config.yaml").unlink()
    said = words(write_report(folder))
    assert "Stuck, then freed by a patch." in said
    for name in ("metrics.jsonl", "journal.jsonl", "iteration_000003.jsonl"):
        assert f"2 lines of {name} cannot be read" in said
    assert "config.yaml is missing" in said


def test_long_attempts_are_folded_around_the_replaced_step(tmp_path: Path):
    folder = write_run(tmp_path / "run", (1.0, 1.0, 1.0), evaluations={})
    path = folder / "interventions/iteration_000003.jsonl"
    record = json.loads(path.read_text().splitlines()[0])
    record |= {"steps": [f"this is step {number}" for number in range(1, 31)], "location": 20}
    path.write_text(json.dumps(record) + "\n")
    said = words(write_report(folder))
    assert "steps 1 to 17" in said and "steps 23 to 30" in said
    assert [said.count(f"this is step {number} ") for number in (1, 17, 18, 20, 22, 23)] == [1] * 6


FILES = ("metrics.jsonl", "journal.jsonl", "config.yaml", "interventions/iteration_000003.jsonl")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), cut=st.floats(0, 1), tail=st.binary(max_size=20))
def test_no_torn_or_garbled_file_stops_the_reading(freed: Path, tmp_path: Path, name: str, cut: float, tail: bytes):
    shutil.copytree(freed.parent, tmp_path, dirs_exist_ok=True)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(cut * len(whole))] + tail)
    run = read_run(tmp_path)
    choose_examples(read_examples(tmp_path, run))
    assert judge(run).headline


@pytest.mark.parametrize(
    "line",
    [
        {"event": "evaluated", "set": "x", "figures": {"pass@many": {"mean": 1, "low": 1, "high": 1}}},
        {"event": "evaluated", "set": "x", "figures": {"pass@1": {"mean": 7, "low": 1, "high": 1}}},
        {"event": "intervention_round", "iteration": 10**400, "intervention/kept": 1},
        {"event": "finished", "seconds": "all"},
        {"event": ["started"]},
    ],
)
def test_lines_that_are_no_event_are_left_out(tmp_path: Path, line: dict):
    folder = write_run(tmp_path / "run", (1.0,), ())
    with (folder / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps({"time": "2026-01-01T00:00:00+00:00", **line}) + "\n")
    run = read_run(folder)
    assert run.notes == ["1 line of journal.jsonl cannot be read."] and run.ending == "finished"


def test_a_round_without_an_intervention(tmp_path: Path):
    folder = write_run(tmp_path / "run", (1.0, 1.0), ())
    with (folder / "journal.jsonl").open("a") as journal:
        journal.write('{"time": "2026-01-01T00:00:00+00:00", "event": "intervention_round", "iteration": 2}\n')
    verdict = judge(read_run(folder))
    assert verdict.headline == "The run is stuck."
    assert "The oracle was asked, but no intervention came of it." in verdict.sentences


def with_rounds(folder: Path, *rounds: dict[str, Any]) -> Path:
    """A run that has got nowhere in two iterations, with these intervention rounds."""
    write_run(folder, (1.0, 1.0), (), {})
    with (folder / "journal.jsonl").open("a") as journal:
        for details in rounds:
            event = {"time": "2026-01-01T00:00:00+00:00", "event": "intervention_round", **details}
            journal.write(json.dumps(event) + "\n")
    return folder


def test_rounds_in_which_the_oracle_was_down_are_none(tmp_path: Path):
    down = [{"iteration": 1, "outage": "circuit_open"}, {"iteration": 2, "outage": "over_budget"}]
    run = read_run(with_rounds(tmp_path / "down", *down))
    assert not run.rounds and run.num_answered == 0
    assert "The oracle could not be asked in 2 iterations (circuit open, over budget)." in judge(run).sentences
    assert not any("was asked" in said for said in judge(run).sentences)
    counts = {"intervention/kept": 2, "intervention/tested": 3}
    run = read_run(with_rounds(tmp_path / "once", down[0], {"iteration": 2, "outage": None, **counts}))
    assert (
        run.num_answered == 1 and "The oracle could not be asked in 1 iteration (circuit open)." in judge(run).sentences
    )
    assert "interventions from 1 round" in words(write_report(tmp_path / "once"))


def test_interventions_of_a_file_are_no_round(tmp_path: Path):
    counts = {"intervention/kept": 2, "intervention/tested": 3}
    run = read_run(with_rounds(tmp_path / "file", {"iteration": 0, **counts}))
    assert run.num_answered == 0
    assert any(said.startswith("2 of 3 interventions from a file helped") for said in judge(run).sentences)
    run = read_run(with_rounds(tmp_path / "both", {"iteration": 0, **counts}, {"iteration": 2, **counts}))
    assert any(said.startswith("4 of 6 interventions from a file and 1 round helped") for said in judge(run).sentences)
    run = read_run(with_rounds(tmp_path / "leaky", {"iteration": 0}))
    assert "No intervention of the file could be used." in judge(run).sentences


def test_a_folder_without_a_run_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="holds no run"):
        write_report(tmp_path)


def test_a_collection_is_sent_to_the_command_for_it(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.journal.write(COLLECTING)
    folder.journal.write("finished", seconds={})
    folder.close()
    with pytest.raises(ConfigError, match="holds a collection, not a training run; int-ray inspect"):
        write_report(tmp_path)


def test_a_page_replaces_the_one_before_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = tmp_path / "page.html"
    write_page(page, "first")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full_disk)
        with pytest.raises(ConfigError, match=r"cannot write .*page.html: No space left on device"):
            write_page(page, "second")
    assert page.read_text() == "first"
    write_page(page, "third")
    assert page.read_text() == "third"


@pytest.mark.parametrize("name", [".", "folder", "no/page.html", "/dev/null"])
def test_where_no_page_can_be_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="cannot write"):
        write_page(Path(name), "page")
    assert Path("/dev/null").is_char_device()
    folder = write_run(tmp_path / "run", (1.0,), (), {})
    (folder / "report.html").mkdir()
    with pytest.raises(ConfigError, match=r"cannot write .*report.html"):
        write_report(folder)


def full_disk(*_: object) -> None:
    raise OSError(ENOSPC, "No space left on device")


def test_examples_are_of_different_problems_with_the_rounds_in_turn():
    def example(iteration: int, problem: str, *, location: int = 2, correct: int = 4, size: int = 1) -> Example:
        line = Line(question="?", problem_id=problem, steps=["x" * size] * 3, num_correct=correct, num_graded=4)
        return Example(iteration, line, location, ("a", "b", "c"))

    candidates = [
        example(3, "long", size=9),
        example(3, "best"),
        example(3, "best", size=2),
        example(3, "at the first step", location=1),
        example(3, "rarely right", correct=1),
        example(7, "other round", correct=1, size=99),
    ]
    assert [item.line.problem_id for item in choose_examples(candidates, 2)] == ["best", "other round"]
    chosen = [item.line.problem_id for item in choose_examples(candidates, 5)]
    assert chosen == ["best", "long", "at the first step", "rarely right", "other round"]
    assert choose_examples(candidates) == choose_examples(candidates[::-1])


@pytest.mark.parametrize(
    ("figure", "base", "end", "change", "verdict"),
    [
        ("pass@8", (0.0, 0.0, 0.0), (0.5, 0.4, 0.6), "higher", "good"),
        ("pass@8", (0.5, 0.4, 0.6), (0.2, 0.1, 0.3), "lower", "bad"),
        ("pass@8", (0.5, 0.4, 0.6), (0.7, 0.6, 0.8), "no clear change", ""),
        ("pass@8", (1.0, 1.0, 1.0), (0.9997, 0.999, 0.9999), "no clear change", ""),
        ("unsolved", (1.0, 1.0, 1.0), (0.5, 0.4, 0.6), "lower", "good"),
        ("unsolved", (0.0, 0.0, 0.0), (0.5, 0.4, 0.6), "higher", "bad"),
    ],
)
def test_a_change_is_clear_where_the_intervals_do_not_touch(
    figure: str, base: tuple, end: tuple, change: str, verdict: str
):
    scores = [Score(mean=mean, low=low, high=high) for mean, low, high in (base, end)]
    item = Comparison("hard", 64, figure, *scores)
    assert (item.change, item.verdict) == (change, verdict)


def test_phases_are_shares_of_the_time():
    shares = phase_shares({"saving": 0.5, "evaluating a": 25.0, "evaluating b": 25.0, "sampling": 49.0, "syncing": 0.5})
    assert shares == {"evaluating": 0.5, "sampling": 0.49, "the rest": 0.01}
    assert phase_shares({}) == {}


def test_a_script_runs_by_its_hash_alone():
    page = render("base.html", title="t", script="alert('&')")
    # printf "alert('&')" | openssl dgst -sha256 -binary | base64
    assert "script-src 'sha256-YkFJvr8EWTdbn9QSTWNhW0SSVGcWw8ozUfwZVVLf/qY='" in page
    assert "<script>alert('&')</script>" in page


def test_hidden_characters_are_spelled_out():
    assert visible("a\nb\tc é 你好 👩\u200d💻") == "a\nb\tc é 你好 👩\u200d💻"
    assert visible("2\u202e1\u200b\x00\ud800\uffff") == "2⟨U+202E⟩1⟨U+200B⟩⟨U+0000⟩⟨U+D800⟩⟨U+FFFF⟩"


def test_a_run_needs_its_metrics_or_its_journal_only(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    (folder / "journal.jsonl").unlink()
    run: Run = read_run(folder)
    assert run.notes == ["journal.jsonl is missing."] and len(run.rows) == 6


def test_the_command_prints_the_path_or_one_clear_line(tmp_path: Path):
    folder = write_run(tmp_path / "run", (1.0,), (), {}, ending=None)
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 0 and result.stdout == f"{folder / 'report.html'}\n"
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path} holds no run: it has neither journal.jsonl nor metrics.jsonl\n"


def test_the_report_shows_when_engines_and_learner_worked(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    trace = Trace(folder / "trace.json")
    with trace.span("run", "training"):
        for track, name in (("rollout engine 0", "sample_group"), ("learner", "reinforce")):
            with trace.span(track, name):
                time.sleep(0.01)
    trace.close()
    labels = Elements(write_report(folder).read_text()).values("aria-label")
    assert any(label.startswith("When engines and learner worked; neither did for ") for label in labels)
    (folder / "trace.json").unlink()
    assert "Engines and learner" not in words(write_report(folder))
