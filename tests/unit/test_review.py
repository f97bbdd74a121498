"""Repeats, leaks, unreadable answers, mixtures, and rows on disk."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_ray.data.answers import distinct_to_check, read_answers
from int_ray.data.batches import Mixture, ProblemBatches
from int_ray.data.overlap import normalised, repeats
from int_ray.data.problems import LoadedProblems, load_problems, write_quarantine
from int_ray.data.rows import DataError, QuarantinedRow
from int_ray.data.stored import BATCH, Part, RowWriter, StoredProblems
from int_ray.data_config import ProblemsConfig
from int_ray.types import Problem


def load(*sources: object, reward: str = "exact", **options: Any) -> LoadedProblems:
    config = ProblemsConfig.model_validate({"train": sources, "reward": reward})
    return load_problems(config.train, config, **options)


def questions(path: Path, *asked: str) -> str:
    """A file with these questions, whose answers are their numbers from 1."""
    rows = [{"problem": question, "answer": str(number)} for number, question in enumerate(asked, start=1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Find  $x\\, +1$.", "find x+1"),
        ("What is \\( 2 \\cdot 3 \\)?", "what is $2\\cdot3$"),
        ("Let \\left(a, b\\right) be", "let (a,b) be"),
        ("A\u00a0“word”: yes", "a word yes"),
        ("the  end\n", "The end."),
    ],
)
def test_questions_are_the_same_but_for_spacing_case_and_punctuation(one: str, other: str):
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("5!", "5"), ("f'(x)", "f(x)"), ("1+2-3", "1-2+3"), ("1.5", "15"), ("f(1,2)", "f(12)"), ("a b", "ab"), ("?", "")],
)
def test_questions_that_mean_something_else_stay_apart(one: str, other: str):
    assert normalised(one) != normalised(other)


def test_a_repeated_question_is_left_out_and_names_the_first(tmp_path: Path):
    source = questions(tmp_path / "p.jsonl", "Find $x$.", "other", "find  x", "Other?")
    loaded = load(source, distinct=True)
    assert [problem.id for problem in loaded.problems] == ["1", "2"]
    assert [(bad.row, bad.reason) for bad in loaded.quarantined] == [
        (3, "the same question as '1' before it, with another answer"),
        (4, "the same question as '2' before it, with another answer"),
    ]
    assert loaded.notes == (f"2 problems of {source} ask what a problem before them asks: left out",)
    assert len(load(source).problems) == 4


def test_what_an_evaluation_set_asks_is_left_out(tmp_path: Path):
    source = questions(tmp_path / "p.jsonl", "one", "two", "three")
    held_out = {"evaluate.sets.a": [Problem("a7", "TWO?", "2")], "evaluate.sets.b": [Problem("b1", "nine", "9")]}
    loaded = load(source, held_out=held_out)
    assert [problem.question for problem in loaded.problems] == ["one", "three"]
    assert [(bad.row, bad.reason) for bad in loaded.quarantined] == [
        (2, "the same question as 'a7' of evaluate.sets.a")
    ]
    assert "1 problems" in loaded.notes[0] and "evaluate.sets.a" in loaded.notes[0]


def test_a_source_that_leaks_whole_is_one_clear_line(tmp_path: Path):
    source = questions(tmp_path / "p.jsonl", "one")
    with pytest.raises(DataError, match=r"none of 1 problems is left; .* the same question as 'x' of evaluate.sets.a"):
        load(source, held_out={"evaluate.sets.a": [Problem("x", "one", "1")]})


def test_several_sources_name_their_rows(tmp_path: Path):
    first, second = questions(tmp_path / "a.jsonl", "one", "two"), questions(tmp_path / "b.jsonl", "three", "one")
    loaded = load(first, second, distinct=True)
    assert [problem.id for problem in loaded.problems] == [f"{first}:1", f"{first}:2", f"{second}:1"]
    write_quarantine(tmp_path / "q.jsonl", loaded.quarantined)
    (line,) = (tmp_path / "q.jsonl").read_text().splitlines()
    assert json.loads(line) | {"reason": ""} == {"row": 2, "reason": "", "source": second}
    assert loaded.notes[-2:] == (f"{first}: 2 problems, weight 2", f"{second}: 1 problems, weight 1")


def test_answers_without_mathematics_are_quarantined_where_math_verify_judges(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    answers = ["14", "\\frac{1}{", "???", "x^2+1", "9^{9^{9}}", "14"]
    rows = [{"problem": f"q{number}", "answer": answer} for number, answer in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ProblemsConfig.model_validate({"train": str(path), "reward": "math", "grader_timeout_s": 2})
    loaded = load_problems(config.train, config)
    reasons = {bad.row: bad.reason for bad in loaded.quarantined}
    assert reasons[2] == "math-verify reads no mathematics in the answer '\\\\frac{1}{'"
    assert reasons[3].startswith("math-verify reads no mathematics")
    assert {1, 4, 6}.isdisjoint(reasons)
    assert len(load(str(path)).problems) == 6  # reward: exact


def test_only_answers_that_are_not_plain_are_read_and_only_once():
    answers = ["14", "-3.5", "1/2", "\\frac{1}{2}", "B", "x+1", "x+1", "yes"]
    assert distinct_to_check(answers) == (["x+1", "yes"], True)
    assert read_answers([], workers=1, timeout_s=1.0).reasons == {}


@pytest.mark.parametrize("count", [0, 1, BATCH - 1, BATCH, 2 * BATCH + 3])
def test_rows_on_disk_are_those_that_were_written(count: int):
    writer = RowWriter(QuarantinedRow)
    written = [QuarantinedRow(number, f"reason {number}\n€", "s") for number in range(count)]
    for row in written:
        writer.add(row)
    rows = writer.finish()
    assert list(rows) == written and rows == tuple(written) and len(rows) == count
    order = np.random.default_rng(0).permutation(count)
    assert list(rows.pick(order)) == [written[index] for index in order]
    assert list(rows[1:-1:2]) == written[1:-1:2]
    if count:
        assert rows[-1] == written[-1] and rows[count // 2] == written[count // 2]
        assert rows != written[:-1]
    with pytest.raises(IndexError):
        rows[count]


def mixture(*parts: tuple[int, float | None]) -> StoredProblems[Problem]:
    """Problems `PART-NUMBER`."""
    writer = RowWriter(Problem)
    for part, (size, _) in enumerate(parts):
        for number in range(size):
            writer.add(Problem(f"{part}-{number}", "q", "a"))
    return StoredProblems(writer.finish(), [Part(size, weight) for size, weight in parts])


def test_weights_are_the_shares_of_every_batch():
    batches = ProblemBatches(mixture((90, 3.0), (10, 1.0)), batch_size=20, seed=5)
    drawn = Counter()
    for iteration in range(10):  # two epochs of 100 draws
        parts = Counter(problem.id[0] for problem in batches.batch(iteration))
        assert abs(parts["1"] - 5) <= 2
        drawn += parts
    assert drawn == {"0": 150, "1": 50}


def test_without_weights_a_mixture_is_one_list():
    problems = mixture((5, None), (3, None))
    assert ProblemBatches(problems, 4, 1).batch(3) == ProblemBatches(list(problems), 4, 1).batch(3)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(0.1, 10)), min_size=1, max_size=3),
    st.integers(1, 7),
    st.integers(0, 3),
)
def test_a_part_repeats_no_problem_before_all_have_come(parts: list[tuple[int, float]], size: int, seed: int):
    sequence = Mixture([Part(*part) for part in parts], seed)
    starts = np.cumsum([0, *(size for size, _ in parts)])
    orders = [sequence.order(epoch) for epoch in range(4)]
    for part, (start, end) in enumerate(pairwise(starts)):
        drawn = np.concatenate([order[(start <= order) & (order < end)] for order in orders])
        assert len(drawn) == 4 * sequence.draws[part]
        length = int(end - start)
        for pass_start in range(0, len(drawn) - length + 1, length):
            assert len(set(drawn[pass_start : pass_start + length].tolist())) == length


def test_a_resumed_run_finds_the_same_mixture():
    problems = mixture((7, 1.0), (4, 2.0))
    batches = [ProblemBatches(problems, 3, seed=2).batch(iteration) for iteration in range(20)]
    in_turn = ProblemBatches(problems, 3, seed=2)
    assert [in_turn.batch(iteration) for iteration in range(20)] == batches
    assert ProblemBatches(problems, 3, seed=3).batch(19) != batches[19]


@given(st.lists(st.integers(0, 6), max_size=30))
def test_repeats_are_found_with_their_first_occurrence(values: list[int]):
    expected = [(place, values.index(value)) for place, value in enumerate(values) if value in values[:place]]
    assert repeats(np.array(values, np.uint64)) == expected
