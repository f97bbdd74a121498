"""The recorded oracle: which lines of a file fit which attempts, and files that cannot be used."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from int_ray.config_file import ConfigError
from int_ray.oracles.recorded import RecordedOracle, load_recorded
from int_ray.types import Attempt, Proposal
from tests.factories import attempt

QUESTION = "12+5-3=?"  # of every attempt of the factory
NOTHING = "no_recorded_intervention"


def oracle(folder: Path, *lines: dict[str, Any]) -> RecordedOracle:
    path = folder / "recorded.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load_recorded(path)


def said(oracle: RecordedOracle, attempt: Attempt) -> list[tuple[int, str]]:
    reply = oracle.propose(attempt)
    return [(proposal.location, proposal.content) for proposal in reply.proposals]


def test_a_hand_written_line_names_the_wrong_step(tmp_path: Path):
    recorded = oracle(tmp_path, {"problem": QUESTION, "replaced": "12+5=18", "content": "12+5=17"})
    assert said(recorded, attempt("First\n\n", "12 + 5 = 18\n\n", "\\boxed{15}")) == [(2, "12+5=17")]
    assert said(recorded, attempt("12+5=18\n\n", "12+5=18\n\n")) == [(1, "12+5=17")]  # the first such step
    assert recorded.propose(attempt("12+5=181\n\n", "\\boxed{15}")).failure == NOTHING


def test_a_line_may_name_the_problem_by_its_id(tmp_path: Path):
    recorded = oracle(tmp_path, {"problem_id": "p1", "replaced": "12+5=18", "content": "12+5=17"})
    assert said(recorded, attempt("12+5=18\n\n", index=1)) == [(1, "12+5=17")]
    assert recorded.propose(attempt("12+5=18\n\n", index=2)).failure == NOTHING


def test_where_there_is_a_question_the_id_does_not_count(tmp_path: Path):
    line = {"problem_id": "p0", "problem": "another question", "replaced": "12+5=18", "content": "12+5=17"}
    assert oracle(tmp_path, line).propose(attempt("12+5=18\n\n", index=0)).failure == NOTHING
    line = {"problem_id": "elsewhere", "problem": " 12+5-3 =?", "replaced": "12+5=18", "content": "12+5=17"}
    assert said(oracle(tmp_path, line), attempt("12+5=18\n\n", index=0)) == [(1, "12+5=17")]


RECORDED = {
    "problem": QUESTION,
    "incorrect_attempt": "Let me see.\n\n12+5=18. Wait, no\n\n18-3=15",
    "intervention": {"location": 2, "content": "12+5=17"},
}


@pytest.mark.parametrize(
    ("steps", "location"),
    [
        (("Let me see.\n\n", "12+5=18. Wait, no\n\n", "18-3=15"), 2),
        (("Let me see.\n\n", "12+5=18. Wait, no\n\n", "something else"), 2),  # what follows does not matter
        (("Let me  see.\n\n", "12+5=18.  Wait,\nno"), 2),
        (("Let me ", "see.\n\n", "12+5=18.", " Wait, no\n\n", "18-3=15"), 3),  # cut into other steps
        (("Let me see.\n\n", "12+5=18\n\n"), None),
        (("Let me look.\n\n", "12+5=18. Wait, no\n\n"), None),
        (("12+5=18. Wait, no\n\n",), None),
        (("Let me see.\n\n",), None),
        (("Let me see.\n\n12+5=18. Wait, no\n\n",), None),  # no step begins there
    ],
)
def test_a_line_with_an_attempt_fits_attempts_that_begin_with_it(tmp_path: Path, steps: tuple[str, ...], location: int):
    expected = [] if location is None else [(location, "12+5=17")]
    assert said(oracle(tmp_path, RECORDED), attempt(*steps)) == expected


@pytest.mark.parametrize(
    ("steps", "first_error"),
    [
        (("Let me see.\n\n", "12+5=18. Wait, no\n\n", "18-3=15"), 2),
        (("Let me ", "see.\n\n", "12+5=18.", " Wait, no\n\n", "18-3=15"), 3),
    ],
)
def test_the_first_error_is_that_of_the_line(tmp_path: Path, steps: tuple[str, ...], first_error: int):
    (proposal,) = oracle(tmp_path, RECORDED | {"first_error": 2}).propose(attempt(*steps)).proposals
    assert proposal.first_error == first_error


@pytest.mark.parametrize(
    "steps", [("Let me see.\n\n", "5=5\n\n", "\\boxed{15}"), ("Let me see.\n\n", "12+5=18. Wait, no")]
)
def test_a_first_error_that_the_attempt_does_not_have_is_left_out(tmp_path: Path, steps: tuple[str, ...]):
    recorded = oracle(tmp_path, RECORDED | {"intervention": {"location": 1, "content": "12+5"}, "first_error": 3})
    (proposal,) = recorded.propose(attempt(*steps)).proposals
    assert (proposal.location, proposal.first_error) == (1, None)


def test_the_exact_steps_of_a_collected_row_come_first(tmp_path: Path):
    line = RECORDED | {"steps": ["12+5=18\n\n", "18-3=15"], "intervention": {"location": 1, "content": "12+5=17"}}
    recorded = oracle(tmp_path, line | {"status": "kept", "replaced": "12+5=18\n\n"})
    assert said(recorded, attempt("12+5=18\n\n", "18-3=15")) == [(1, "12+5=17")]
    assert recorded.propose(attempt("Let me see.\n\n", "12+5=18")).failure == NOTHING


def test_all_lines_that_fit_are_proposed_in_the_order_of_the_file(tmp_path: Path):
    lines = [{"problem": QUESTION, "replaced": step, "content": step + "!"} for step in ("b", "a", "c")]
    recorded = oracle(tmp_path, *lines)
    reply = recorded.propose(attempt("a\n\n", "b"))
    assert [proposal.content for proposal in reply.proposals] == ["b!", "a!"] and reply.failure is None
    assert {reply.source, *(proposal.source for proposal in reply.proposals)} == {recorded.source}
    assert (recorded.source.oracle, recorded.source.model) == ("recorded", str(tmp_path / "recorded.jsonl"))


def test_the_documented_lines(tmp_path: Path):
    page = (Path(__file__).parents[2] / "docs/oracles.md").read_text()
    (text,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    recorded = oracle(tmp_path, *map(json.loads, text.splitlines()))
    failed = attempt("5-9=99\n\n", "99-9=90\n\n", "90+8=98\n\n")
    by_question = replace(failed, problem=replace(failed.problem, question="5-9-9+8=?"))
    assert said(recorded, by_question) == [(1, "5-9=96"), (2, "Wait, 5-9=96.")]
    assert said(recorded, replace(failed, problem=replace(failed.problem, id="17"))) == [(1, "5-9=96")]


def test_parquet_is_read_too(tmp_path: Path):
    rows = [RECORDED, {"problem": "another", "replaced": "x", "content": "y"}]
    pq.write_table(
        pa.Table.from_pylist(
            rows,
            schema=pa.schema(
                {
                    "problem": pa.string(),
                    "incorrect_attempt": pa.string(),
                    "replaced": pa.string(),
                    "content": pa.string(),
                    "intervention": pa.struct({"location": pa.float64(), "content": pa.string()}),
                }
            ),
        ),
        tmp_path / "recorded.parquet",
    )
    recorded = load_recorded(tmp_path / "recorded.parquet")
    assert said(recorded, attempt("Let me see.\n\n", "12+5=18. Wait, no\n\n")) == [(2, "12+5=17")]
    other = attempt("x\n\n")
    assert said(recorded, replace(other, problem=replace(other.problem, question="another"))) == [(1, "y")]


def test_bad_lines_are_named_in_one_line(tmp_path: Path):
    good = {"problem": QUESTION, "replaced": "12+5=18", "content": "12+5=17"}
    with pytest.raises(ConfigError) as raised:
        oracle(tmp_path, good, {"problem": QUESTION, "content": "x"}, {"replaced": "a", "content": "b"}, good)
    (line,) = raised.value.problems
    assert line == (
        f"oracle.recorded: {tmp_path}/recorded.jsonl has 2 unusable rows; correct or delete them "
        "(row 2: neither 'incorrect_attempt' nor 'replaced' says what is replaced; "
        "row 3: neither 'problem' nor 'problem_id' says which problem it is about)"
    )


def test_of_many_bad_lines_five_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"has 8 unusable rows; .*row 5: .*; and 3 more"):
        oracle(tmp_path, *[{"content": "x"}] * 8)


def test_a_missing_or_empty_file(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"oracle.recorded: .*absent.jsonl is no file"):
        load_recorded(tmp_path / "absent.jsonl")
    with pytest.raises(ConfigError, match=r"oracle.recorded: .* is empty"):
        oracle(tmp_path)


def test_proposals_carry_what_was_written(tmp_path: Path):
    recorded = oracle(tmp_path, {"problem": QUESTION, "replaced": "12+5=18", "content": " a\n\n b \n"})
    assert recorded.propose(attempt("12+5=18")).proposals == (Proposal(1, "a\n b", source=recorded.source),)
