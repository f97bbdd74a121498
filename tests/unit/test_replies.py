"""Replies of language models: the corpus in tests/data/replies, and that nothing at all gets through the parser."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from int_ray.oracles.replies import MAX_ENTRIES, MAX_REPLY, EntryFault, ReplyFailure, read_reply
from int_ray.types import OracleReply, Proposal

NUM_STEPS = 20
CORPUS = Path(__file__).parents[1] / "data" / "replies"
CASES: list[dict[str, Any]] = [
    case | {"file": path.stem}
    for path in sorted(CORPUS.glob("*.yaml"))
    for case in yaml.safe_load(path.read_text(encoding="utf-8"))
]
GOOD = [case["reply"] for case in CASES if "proposals" in case]
FAILURES = {name for part in get_args(ReplyFailure) for name in get_args(part)}
FAULTS = set(get_args(EntryFault))
PIECES = [
    *("<replacement>", "</replacement>", "<intervention>", "</intervention>", "<first_error>2</first_error>"),
    *("```json\n", "[", "]", "{", "}", ",", ":", '"', "'", "\\", "\\frac", "\n", " ", "\ud800", "\x00"),
    *("a", "3", "-1", "1e999", "null", "NaN", '"Step 3"', "'location'"),
    *('"location": 3', '"content": "a"', '"replacements": [', '"verification_log": ["'),
]
# Text that JSON can carry and that may stand in a step.
CONTENT = st.text(st.characters(exclude_categories=("Cc", "Cs"))).filter(
    lambda text: any(character.isprintable() and not character.isspace() for character in text)
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['file']}-{case['name']}".replace(" ", "_"))
def test_the_corpus_is_read_as_expected(case: dict[str, Any]) -> None:
    assert not case.keys() - {"file", "name", "reply", "proposals", "first_error", "failure", "faults", "log"}
    assert ("proposals" in case) != ("failure" in case)
    reply = read_reply(case["reply"], NUM_STEPS)
    first_error = case.get("first_error")
    assert reply.proposals == tuple(Proposal(at, text, first_error) for at, text in case.get("proposals", ()))
    assert reply.failure == case.get("failure")
    assert reply.faults == tuple(case.get("faults", ()))
    assert reply.log == case.get("log", reply.log)


def test_the_corpus_is_large_and_shows_every_name() -> None:
    assert len(CASES) >= 60
    assert len({case["reply"] for case in CASES}) == len(CASES)
    assert {case.get("failure") for case in CASES} == FAILURES - {"too_long"} | {None}
    assert {fault for case in CASES for fault in case.get("faults", ())} == FAULTS - {"too_many_entries"}


def check(text: str) -> None:
    """What holds for every text: no exception, known names only, and proposals that can be used."""
    reply = read_reply(text, NUM_STEPS)
    assert (reply.failure is None) == bool(reply.proposals)
    assert reply.failure is None or reply.failure in FAILURES
    assert FAULTS.issuperset(reply.faults)
    reply.log.encode()
    for proposal in reply.proposals:
        assert type(proposal.location) is int
        assert 1 <= proposal.location <= NUM_STEPS
        assert proposal.first_error is None or 1 <= proposal.first_error <= NUM_STEPS
        assert proposal.content.strip() == proposal.content != ""
        proposal.content.encode()


FUZZ = settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])


@FUZZ
@given(st.text(st.characters()))
def test_no_text_gets_through(text: str) -> None:
    check(text)


@FUZZ
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
def test_no_heap_of_pieces_gets_through(text: str) -> None:
    check(text)


@FUZZ
@given(st.data())
def test_no_mutation_of_a_good_reply_gets_through(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(GOOD))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 5))
        text = text[:start] + data.draw(st.sampled_from(["", *PIECES])) + text[end:]
    check(text)


@FUZZ
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just({"location": 3}),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["location", "content", "replacements", "first_error", "verification_log", "x"]), inner
            )
        ),
        max_leaves=30,
    ),
    st.sampled_from(["{}", "<replacement>{}</replacement>", "<intervention>{}", "so:\n```json\n{}\n```"]),
)
def test_no_json_gets_through(value: Any, form: str) -> None:
    check(form.replace("{}", json.dumps(value)))


@FUZZ
@given(st.lists(st.tuples(st.integers(1, NUM_STEPS), CONTENT), min_size=1, max_size=5), st.booleans())
def test_strict_json_is_read_exactly(pairs: list[tuple[int, str]], ascii_only: bool) -> None:
    entries = [{"location": location, "content": content} for location, content in pairs]
    for value in (entries, {"verification_log": ["x"], "first_error": 2, "replacements": entries}):
        reply = read_reply(json.dumps(value, ensure_ascii=ascii_only), NUM_STEPS)
        assert [(item.location, item.content) for item in reply.proposals] == [(i, text.strip()) for i, text in pairs]
        assert not reply.faults


def test_entries_beyond_the_limit_are_ignored() -> None:
    reply = read_reply(json.dumps([{"location": 3, "content": "a"}] * (MAX_ENTRIES + 5)), NUM_STEPS)
    assert (len(reply.proposals), reply.faults) == (MAX_ENTRIES, ("too_many_entries",))


def test_a_megabyte_is_too_long() -> None:
    assert read_reply('[{"location": 3, "content": "a"}]' + " " * 1_000_000, NUM_STEPS).failure == "too_long"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("start", "repeated", "failure"),
    [
        ("", "[", "no_json"),
        ("", '{"location":', "too_deep"),
        ('{"content":"', "\\", "unfinished_json"),
        ('{"content":"', '\\"', "unfinished_json"),
        ('{"content":"', '" ', "unfinished_json"),
        ('{"replacements":[', "1,", "unfinished_json"),
        ("", "<replacement>[", "no_json"),
        ("x", "\n[]", "no_error"),
        ("x", " \n", "no_json"),
        ("<", " ", "no_json"),
        ('[{"content":"a","location":', "9", "unfinished_json"),
    ],
)
def test_long_hostile_replies_take_bounded_time(start: str, repeated: str, failure: str) -> None:
    began = time.process_time()
    text = start + repeated * ((MAX_REPLY - len(start)) // len(repeated))
    assert read_reply(text, NUM_STEPS).failure == failure
    assert time.process_time() - began < 10


def test_the_location_must_be_in_the_attempt_at_hand() -> None:
    text = '[{"location": 3, "content": "a"}]'
    assert read_reply(text, 3).proposals == (Proposal(3, "a"),)
    assert read_reply(text, 2) == OracleReply(failure="no_usable_entry", faults=("location_out_of_range",))
    assert read_reply(text, 0).failure == "no_usable_entry"
