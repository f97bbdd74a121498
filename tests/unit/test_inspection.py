"""The page of `int-ray inspect`: what it reads, what it counts, and that nothing in a file can take it over."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from int_ray.config_file import ConfigError
from int_ray.guards import GuardName
from int_ray.report import inspection
from int_ray.report.inspection import write_inspection
from int_ray.report.inspection_figures import Histograms
from int_ray.report.items import OBJECTIONS, Item, around_the_error, shorten
from int_ray.report.lines import Interventions, Line
from int_ray.report.tally import Summary, read_bill
from launch.cli import app
from tests.run_folders import write_run

HOSTILE = "<script>alert(1)</script></title></style><img src=x onerror=alert(1)> {{ 7*7 }} \u202eabc\x1b[31m $x$ \"'"
SOURCE = {
    "oracle": "gemini",
    "model": "gemini-2.5-pro",
    "prompt": "math-1",
    "prompt_hash": "ab" * 32,
    "input_tokens": 1000,
    "output_tokens": 100,
    "cost": 0.5,
}
ROW: dict[str, Any] = {
    "status": "kept",
    "problem_id": "p1",
    "question": "12+5-3=?",
    "answer": "14",
    "solution": "12+5=17\n\n17-3=14\n\n\\boxed{14}",
    "policy_version": 2,
    "attempt_seed": 7,
    "attempt_outcome": "wrong",
    "attempt_ids": list(range(14)),
    "steps": ["12+5=17\n\n", "17-3=15\n\n", "\\boxed{15}"],  # 28 characters: 2 a token
    "log": "Step 2 is wrong.",
    "category": "execution",
    "first_error": 2,
    "location": 2,
    "content": "17-3=14",
    "source": SOURCE,
    "intervention_ids": [1, 2, 3, 4],
    "num_correct": 3,
    "num_graded": 4,
    "continuations": [
        {"outcome": "wrong", "text": "15"},
        {"outcome": "correct", "text": "so it is 14, and \\boxed{14}"},
        {"outcome": "correct", "text": "\\boxed{14}"},
    ],
}
PUBLIC = {
    "problem": "Which number is it?",
    "answer": 7,
    "source": "some/dataset",
    "reference_solution": "It is seven.",
    "incorrect_attempt": "Let us see.\n\nIt is six.\n\nDone.",
    "intervention": {"location": 2, "content": "It is six plus one."},
}


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of style and script."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("style", "script"):
            self.text += f" {data} "

    def items(self) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.tags if attributes.get("class") == "item"]


def write_lines(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def page_of(tmp_path: Path, *rows: object) -> Page:
    return Page(write_inspection(write_lines(tmp_path / "some.jsonl", rows))[0])


def summary_of(*rows: dict[str, Any]) -> Summary:
    summary = Summary()
    for row in rows:
        summary.add("", Line.model_validate(row))
    return summary


def test_an_intervention_is_shown_with_everything_that_is_known(tmp_path: Path):
    page = page_of(tmp_path, ROW)
    assert "1 of 1 tested intervention helped" in page.text
    assert "3 of 4 continuations reached the right answer." in page.text
    assert re.search(r"<del>17-3=15</del>", page.source) and re.search(r"<ins>17-3=14</ins>", page.source)
    assert "2 first error 17-3=15 2 17-3=14 3" in page.text
    assert '<pre class="text">\\boxed{14}</pre>' in page.source  # the shortest right continuation
    assert "so it is 14" not in page.source
    for fact in ("Step 2 is wrong.", "gemini · gemini-2.5-pro · math-1", "abababababab", "1,000 read, 100 written"):
        assert fact in page.text
    assert "wrong, policy version 2, seed 7" in page.text and "4 tokens" in page.text


def test_what_became_of_it_is_said_in_words():
    def verdict(**changes: object) -> str:
        return Item.of("", Line.model_validate(ROW | changes), 10_000).verdict

    assert verdict(status="unhelpful", num_correct=0) == "None of 4 continuations reached the right answer."
    assert verdict(status="not_selected").endswith("but another proposal about the attempt was preferred.")
    assert verdict(status="not_selected", num_graded=None).startswith("Not tested: another proposal")
    assert verdict(num_graded=None, num_correct=None) == "Not tested."  # kept without a filter
    leak = verdict(status="refused", reason="leak", num_graded=None)
    assert leak == "Refused: leak. The replacement gives the final answer away."
    silent = verdict(status="refused", reason="rate_limited", content=None, location=None)
    assert silent == "The oracle proposed nothing: rate limited."


def test_every_guard_is_explained():
    assert set(OBJECTIONS) == set(get_args(GuardName))


def test_counts_are_of_proposals_attempts_and_replies():
    second = ROW | {"location": 1, "status": "unhelpful", "num_correct": 0}  # the same reply
    cached = ROW | {"attempt_seed": 8, "source": SOURCE | {"cached": True}}
    leak = ROW | {"problem_id": "p2", "status": "refused", "reason": "leak", "num_correct": None, "num_graded": None}
    silent = {"status": "refused", "reason": "no_error", "problem_id": "p3", "steps": ["one"]}
    summary = summary_of(ROW, second, cached, leak, silent)
    assert summary.all.statuses == {"kept": 2, "unhelpful": 1, "refused": 2}
    assert summary.headline == "2 of 3 tested interventions helped"
    assert summary.course == "4 failed attempts at 3 problems; the oracle proposed nothing about 1 of them."
    assert summary.objections == {"leak": 1} and summary.failures == {"no_error": 1}
    ((name, tally),) = summary.sources.items()
    assert name == "gemini · gemini-2.5-pro · math-1" and tally.success_rate == 6 / 12
    (replies,) = summary.replies.values()
    assert (replies.paid, replies.cached, replies.input_tokens, replies.cost) == (2, 1, 2000, 1.0)


def test_replies_without_proposals_count_for_their_source_and_cost():
    def silent(problem: str, reason: str, **billed: object) -> dict[str, Any]:
        nothing = SOURCE | {"input_tokens": 0, "output_tokens": 0, "cost": 0.0}
        return {"status": "refused", "reason": reason, "problem_id": problem, "source": nothing | billed}

    summary = summary_of(
        ROW,
        silent("p2", "cut_off", input_tokens=10, output_tokens=900, cost=2.0),
        silent("p3", "no_error", input_tokens=10, output_tokens=5, cost=0.25, cached=True),
        silent("p4", "over_budget"),
    )
    ((_, tally),), ((_, replies),) = summary.sources.items(), summary.replies.items()
    assert tally.statuses == {"kept": 1, "refused": 3}
    assert (replies.paid, replies.cached, replies.output_tokens, replies.cost) == (2, 1, 1000, 2.5)


def test_without_tests_or_usable_ones_the_headline_says_so():
    assert summary_of(PUBLIC, PUBLIC).headline == "2 interventions, none tested"
    refused = {"status": "refused", "reason": "timeout", "problem_id": "p1"}
    assert summary_of(refused).headline == "Not one intervention was usable"


def test_a_run_shows_its_rounds_and_what_all_calls_cost(tmp_path: Path):
    run = write_run(tmp_path / "run", patched_after=(1, 3))
    call = {"oracle": "openai", "model": "m", "problem": "p0", "key": "k", "input_tokens": 10, "output_tokens": 4}
    calls = [
        call | {"event": "started", "cost": 9.0},
        call | {"event": "ended", "cost": 1.0},
        call | {"event": "ended", "cost": 0.25, "fault": "cut_off"},
        call | {"event": "ended", "cost": 5.0, "fault": "timeout"},
        call | {"event": "cached", "cost": 7.0},
    ]
    write_lines(run / "oracle_calls.jsonl", calls)
    path, notes = write_inspection(run)
    page = Page(path)
    assert path == run / "inspect.html" and notes == []
    assert "iteration 1" in page.text and "iteration 3" in page.text
    said = "all 3 calls of the run, 2 of them failed and 1 with an unknown bill, not counted here 20 8 1.25"
    assert said in page.text
    assert [item["data-status"] for item in page.items()].count("refused") == 2
    bill = read_bill(run, [])
    assert bill is not None and (bill.calls, bill.failed, bill.unknown, bill.cost) == (3, 2, 1, 1.25)


def test_public_columns_and_parquet_are_read(tmp_path: Path):
    (_, line), *_ = Interventions(write_lines(tmp_path / "public.jsonl", [PUBLIC]))
    assert (line.status, line.question, line.answer, line.solution) == (
        "untested", "Which number is it?", "7", "It is seven.",
    )  # fmt: skip
    assert line.steps == ["Let us see.", "It is six.", "Done."]
    assert (line.location, line.content, line.source) == (2, "It is six plus one.", None)
    # as `int-ray collect` writes it: both kinds of columns, and a text only for the first right continuation
    row = ROW | {name: PUBLIC[name] for name in ("problem", "intervention")} | {"source": "a/b", "proposed_by": SOURCE}
    row["continuations"] = [{"outcome": "correct", "text": "\\boxed{14}"}, {"outcome": "correct", "text": ""}]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    (_, line), *_ = Interventions(tmp_path / "rows.parquet")
    assert (line.question, line.content, line.continuation) == ("12+5-3=?", "17-3=14", "\\boxed{14}")
    assert line.source is not None and line.source.model == "gemini-2.5-pro"
    assert (line.intervention_tokens, line.attempt_tokens) == (4, 14)


def test_lines_that_cannot_be_read_are_counted_and_the_rest_is_shown(tmp_path: Path):
    path = write_lines(tmp_path / "torn.jsonl", [ROW, {"location": 1}, [1, 2], ROW | {"steps": 1}])
    path.write_bytes(path.read_bytes() + b'\n{"question": "torn\n\xff\xfe\n')
    page, notes = write_inspection(path)
    assert notes == ["5 lines of torn.jsonl cannot be read"]
    assert notes[0] in Page(page).text and len(Page(page).items()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"attempt_ids": 5},
        {"intervention_ids": "1, 2"},
        {"continuations": 7},
        {"continuations": [1]},
        {"continuations": [None]},
        {"continuations": [{"outcome": ["correct"], "text": "14"}]},
        {"num_correct": 10**400},
        {"num_graded": -1},
    ],
)
def test_a_field_of_a_wrong_type_makes_a_line_unreadable(changes: dict[str, Any]):
    with pytest.raises(ValidationError):
        Line.model_validate(ROW | changes)


@pytest.mark.parametrize(
    ("continuation", "shown"),
    [({"outcome": "correct", "text": 5}, "5"), ({"outcome": "correct"}, None), ({"text": "14"}, None), ({}, None)],
)
def test_a_continuation_that_lacks_something_is_not_shown(continuation: dict[str, Any], shown: str | None):
    assert Line.model_validate(ROW | {"continuations": [continuation]}).continuation == shown


def test_labels_of_others_are_left_out():
    line = Line.model_validate(ROW | {"category": "Algebra", "status": "ok"})
    assert (line.category, line.status, line.content) == (None, "untested", "17-3=14")
    line = Line.model_validate(ROW | {"category": ["high"], "status": {"kept": True}})
    assert (line.category, line.status) == (None, "untested")


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from([10**400, -(10**30)]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["outcome", "text"]), inner),
    max_leaves=6,
)


@given(changes=st.dictionaries(st.sampled_from(sorted({*ROW, *PUBLIC})), ANYTHING, max_size=4), source=ANYTHING)
def test_no_value_of_any_type_stops_the_reading(changes: dict[str, Any], source: object):
    odd = ROW | {"source": SOURCE | {"cost": source}} | changes
    for row in (odd, PUBLIC | changes):
        try:
            line = Line.model_validate_json(json.dumps(row))
        except ValidationError:
            continue
        Summary().add("", line)
        Histograms().add(line)
        item = Item.of("", line, 1000)
        assert item.verdict and isinstance(item.facts, dict)


def test_a_text_cannot_take_over_the_page(tmp_path: Path):
    names = ("problem_id", "question", "answer", "solution", "log", "content", "reason", "attempt_outcome")
    evil: dict[str, Any] = {
        **dict.fromkeys(names, HOSTILE),
        "steps": [HOSTILE] * 3,
        "faults": [HOSTILE],
        "source": SOURCE | dict.fromkeys(("oracle", "model", "prompt", "prompt_hash"), HOSTILE),
        "continuations": [{"outcome": "correct", "text": HOSTILE}],
    }
    page = page_of(tmp_path, ROW | evil, ROW | evil | {"status": "refused"}, ROW)
    harmless = page_of(tmp_path, ROW, ROW | {"status": "refused", "reason": "leak"}, ROW | {"problem_id": "p2"})
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in harmless.tags}
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "\u202e" not in page.source and "\x1b" not in page.source
    assert "⟨U+202E⟩abc" in page.text and "{{ 7*7 }}" in page.text and "<script>alert(1)</script>" in page.text


def test_the_page_loads_nothing_and_runs_its_own_script_alone(tmp_path: Path):
    page = page_of(tmp_path, ROW)
    (policy,) = [attributes["content"] for _, attributes in page.tags if attributes.get("http-equiv")]
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert policy is not None and policy.startswith("default-src 'none';") and f"script-src 'sha256-{digest}'" in policy
    outside = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(value is not None and value.startswith(("#", "data:")) for value in outside)


def test_long_files_are_shortened_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inspection, "MOST_LISTED", 20)
    monkeypatch.setattr(inspection, "PAGE_CHARACTERS", 20_000)
    steps = [f"step {number} " + "x" * 500 for number in range(1, 101)]
    long = ROW | {"steps": steps, "location": 40, "content": "y" * 5000, "log": "z" * 5000, "question": "q" * 5000}
    rows = [long | {"problem_id": f"p{index}"} for index in range(30)]
    path, _ = write_inspection(write_lines(tmp_path / "long.jsonl", rows))
    page = Page(path)
    assert "30 of 30 tested interventions helped" in page.text
    assert "The first 20 of 30 are listed." in page.text and len(page.items()) == 20
    assert "steps 1 to 39 are left out" in page.text and "steps 41 to 100 are left out" in page.text
    assert "more characters)" in page.text and "step 40 x" in page.text
    assert sum(map(page.source.count, "xyzq")) < 30_000


@given(
    lengths=st.lists(st.integers(0, 400), min_size=1, max_size=60),
    location=st.none() | st.integers(-3, 70),
    share=st.integers(50, 5000),
)
def test_the_shown_steps_are_contiguous_and_hold_the_replaced_one(lengths: list[int], location: int | None, share: int):
    line = Line.model_validate({"problem_id": "p", "steps": ["x" * length for length in lengths], "location": location})
    shown = around_the_error(line, longest=share // 2, share=share)
    numbers = [step.number for step in shown]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)) and numbers[0] >= 1 and numbers[-1] <= len(lengths)
    if line.replaces_a_step:
        assert location in numbers
    assert len(shown) == 1 or sum(len(step.text) for step in shown) <= share
    if sum(lengths) + 80 * len(lengths) <= share and max(lengths) <= share // 2:
        assert len(shown) == len(lengths)


def test_shortening_says_how_much_is_missing():
    assert shorten("  abc\n", 3) == "abc"
    assert shorten("x" * 2010, 10) == "x" * 10 + " … (2,000 more characters)"


def test_figures_are_about_usable_proposals_alone():
    histograms = Histograms()
    for row in (ROW, ROW | {"category": "high", "location": 1}, ROW | {"status": "refused", "location": 3}):
        histograms.add(Line.model_validate(row))
    assert histograms.locations == [("execution", 2, 3), ("high", 1, 3)]
    assert histograms.characters_per_token == 2.0
    relative, absolute, lengths = histograms.figures()
    assert "Histogram of the relative location of 2 interventions; median 0.33." in relative[0]  # of 1/6 and 1/2
    assert "high-level" in absolute[0] and "execution" in absolute[0] and "not labelled" not in absolute[0]
    assert "interventions: median 4 tokens; reference solutions: median 14 tokens" in lengths[0]
    assert "2.0 characters a token" in lengths[1]


def test_lengths_are_in_characters_where_tokens_are_unknown():
    histograms = Histograms()
    histograms.add(Line.model_validate(PUBLIC))
    *_, (figure, caption) = histograms.figures()
    assert "interventions: median 19 characters; reference solutions: median 12 characters" in figure
    assert "estimated" not in caption


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nothing", "does not exist"),
        (lambda path: path, "looked for interventions/*.jsonl"),
        (lambda path: write_lines(path / "empty.jsonl", []), "holds no interventions"),
        (lambda path: write_lines(path / "other.jsonl", [{"a": 1}]), "1 line of other.jsonl cannot be read"),
        (lambda path: write_lines(path / "text.parquet", [ROW]), "is no Parquet file"),
    ],
)
def test_where_there_is_nothing_to_show_one_line_says_so(tmp_path: Path, make: Any, message: str):
    source = make(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)):
        write_inspection(source)
    result = CliRunner().invoke(app, ["inspect", str(source)])
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.html"))


def test_the_command_prints_where_the_page_is(tmp_path: Path):
    source = write_lines(tmp_path / "some.jsonl", [ROW, {"a": 1}])
    result = CliRunner().invoke(app, ["inspect", str(source)])
    assert result.exit_code == 0 and result.stdout.strip() == str(tmp_path / "some.html")
    assert result.stderr == "note: 1 line of some.jsonl cannot be read\n"
    result = CliRunner().invoke(app, ["inspect", str(source), "--out", str(tmp_path / "page.html")])
    assert result.exit_code == 0 and (tmp_path / "page.html").read_text() == (tmp_path / "some.html").read_text()
    result = CliRunner().invoke(app, ["inspect", str(source), "--out", str(tmp_path / "no" / "page.html")])
    assert result.exit_code == 2 and "cannot write" in result.stderr
