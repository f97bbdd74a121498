"""Paid answers are found again, whatever happened to the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from int_ray.oracles.answer_cache import AnswerCache, PaidAnswer, question_key
from int_ray.oracles.chat import Fault
from tests import factories
from tests.fake_chat import answer, fault

ANSWERS = [
    PaidAnswer("a", "1: 12+5=17", 100, 20, 0.25),
    PaidAnswer("b", "Zeile\nzwei \u2028 \x85 \\frac{1}{2} é 漢", 1, 2, 0.0),
    PaidAnswer("c", "", 300, 4000, 1.5, "cut_off"),
]


def filled(path: Path) -> AnswerCache:
    cache = AnswerCache(path)
    for item in ANSWERS:
        cache.put(item)
    return cache


def test_answers_are_found_at_once_and_after_a_restart(tmp_path: Path):
    path = tmp_path / "shared" / "answers.jsonl"
    cache = filled(path)
    for again in (cache, AnswerCache(path)):
        assert [again.get(item.key) for item in ANSWERS] == ANSWERS
        assert again.get("d") is None
        assert again.unreadable == 0


def test_cut_anywhere_no_whole_line_is_lost_and_writing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.fsync", lambda _: None)  # for speed
    filled(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    ends = [index for index, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole) + 1):
        path = tmp_path / "cut"
        path.write_bytes(whole[:size])
        cache = AnswerCache(path)
        kept = sum(end <= size for end in ends)  # a line is whole even if only its line break is missing
        assert [cache.get(item.key) for item in ANSWERS] == [*ANSWERS[:kept], *[None] * (3 - kept)]
        assert cache.unreadable == (size not in (0, *ends, *(end + 1 for end in ends)))
        cache.put(replace(ANSWERS[0], key="new"))
        assert AnswerCache(path).get("new") is not None


@pytest.mark.parametrize(
    "damage", [b"{", b"12", b"null", b"\xff\xfe", b'{"key": "x"}', b'{"key": 1, "text": 2}', b"[" * 9999]
)
def test_damaged_lines_are_left_out_and_counted(tmp_path: Path, damage: bytes):
    filled(tmp_path / "answers")
    lines = (tmp_path / "answers").read_bytes().splitlines()
    (tmp_path / "answers").write_bytes(b"\n".join([lines[0], damage, b"", *lines[1:]]))
    cache = AnswerCache(tmp_path / "answers")
    assert [cache.get(item.key) for item in ANSWERS] == ANSWERS
    assert cache.unreadable == 1


@settings(max_examples=30)
@given(st.text(st.characters(codec=None)), st.integers(0, 10**9), st.floats(0, 1e6))
def test_any_text_comes_back_as_it_was_used(
    tmp_path_factory: pytest.TempPathFactory, text: str, tokens: int, cost: float
):
    path = tmp_path_factory.mktemp("cache") / "answers"
    paid = PaidAnswer.of("k", answer(text, tokens, tokens), cost)
    assert isinstance(paid, PaidAnswer)
    cache = AnswerCache(path)
    cache.put(paid)
    cache.close()
    assert AnswerCache(path).get("k") == paid


def test_final_faults_are_kept_and_passing_ones_are_not():
    cut_off = PaidAnswer.of("k", fault("cut_off", input_tokens=5, output_tokens=9), 0.5)
    assert cut_off == PaidAnswer("k", "", 5, 9, 0.5, "cut_off")
    assert isinstance(cut_off, PaidAnswer) and cut_off.result == Fault("cut_off", input_tokens=5, output_tokens=9)
    silent = PaidAnswer.of("k", fault("empty", input_tokens=5, output_tokens=9), 0.5)
    assert silent == PaidAnswer("k", "", 5, 9, 0.5, "empty")  # thought, and wrote nothing
    assert PaidAnswer.of("k", fault("empty", input_tokens=5), 0.0) == fault("empty", input_tokens=5)
    for name in ("timeout", "empty", "unauthorized", "bad_request", "over_budget"):
        assert PaidAnswer.of("k", fault(name), 0.0) == fault(name)


def test_two_runs_may_append_to_one_file(tmp_path: Path):
    first, second = AnswerCache(tmp_path / "answers"), AnswerCache(tmp_path / "answers")
    for index in range(20):
        long = answer("x" * 20_000)
        for name, cache in (("first", first), ("second", second)):
            paid = PaidAnswer.of(f"{name} {index}", long, 0.0)
            assert isinstance(paid, PaidAnswer)
            cache.put(paid)
    assert len((tmp_path / "answers").read_text().splitlines()) == 40
    assert all(json.loads(line) for line in (tmp_path / "answers").read_text().splitlines())


def test_the_key_depends_on_everything_that_the_answer_depends_on():
    attempt = factories.attempt("12+5=18\n\n", "18-3=15\n\n")
    other_ids = replace(
        attempt.rollout.completion, token_ids=np.append(attempt.rollout.completion.token_ids, 7).astype(np.int32)
    )
    usual: dict[str, Any] = {
        "attempt": attempt,
        "prompt_hash": "1f",
        "model": "gemini-2.5-pro",
        "settings": {"temperature": 1.0, "thinking_budget": None},
        "sample": 0,
        "answers": (),
    }
    changes: list[dict[str, Any]] = [
        {},
        {"attempt": replace(attempt, problem=factories.problem(1))},
        {"attempt": replace(attempt, rollout=replace(attempt.rollout, completion=other_ids))},
        {"prompt_hash": "20"},
        {"model": "gemini-2.5-flash"},
        {"settings": {"temperature": 0.5, "thinking_budget": None}},
        {"sample": 1},
        {"answers": ("12+5=17",)},
        {"answers": ("12+5=17", "")},
    ]
    keys = {question_key(**(usual | change)) for change in changes}
    assert len(keys) == len(changes)
    same = {"settings": {"thinking_budget": None, "temperature": 1.0}, "answers": []}
    assert question_key(**(usual | same)) in keys
