"""Problems from files, what happens to rows that are none, and batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_ray.data.batches import ProblemBatches
from int_ray.data.problems import LoadedProblems, load_problems, write_quarantine
from int_ray.data.rows import DataError
from int_ray.data_config import Columns, ProblemsConfig
from int_ray.types import Problem

GOOD = {"problem": "1+1=?", "answer": "2", "solution": "1+1=2"}


def jsonl(folder: Path, *lines: object) -> str:
    path = folder / "problems.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return str(path)


def load(source: str | Path, **columns: str | None) -> LoadedProblems:
    return load_problems(str(source), ProblemsConfig(train=str(source), columns=Columns(**columns)))


def test_a_row_is_a_problem_with_the_line_as_id(tmp_path: Path) -> None:
    loaded = load(jsonl(tmp_path, GOOD, "\n", {"problem": "q", "answer": 3.5, "extra": []}))
    assert loaded.problems == (Problem("1", "1+1=?", "2", "1+1=2"), Problem("3", "q", "3.5"))
    assert loaded.quarantined == ()


def test_columns_are_mapped(tmp_path: Path) -> None:
    source = jsonl(tmp_path, {"name": 7, "q": "1+1=?", "gold": 2, "solution": "no"})
    loaded = load(source, id="name", question="q", answer="gold", solution=None)
    assert loaded.problems == (Problem("7", "1+1=?", "2"),)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{broken\n", "not JSON"),
        ("[" * 100_000 + "\n", "not JSON"),
        ("[1]\n", "not a JSON object"),
        ({"problem": "q"}, "'answer' is missing"),
        ({"problem": "q", "answer": " "}, "'answer' is empty"),
        ({"problem": "q", "answer": None}, "'answer' is missing"),
        ({"problem": "q", "answer": True}, "'answer' is bool, not text"),
        ({"problem": "q", "answer": float("nan")}, "'answer' is float, not text"),
        ({"problem": 5, "answer": "2"}, "'problem' is int, not text"),
        ({"problem": ["q"], "answer": "2"}, "'problem' is list, not text"),
        ({"problem": "\ud800", "answer": "2"}, "'problem' holds half a character"),
        ({"problem": "q", "answer": "2", "solution": 1}, "'solution' is int, not text"),
    ],
)
def test_a_row_that_is_no_problem_is_quarantined(tmp_path: Path, row: object, reason: str) -> None:
    loaded = load(jsonl(tmp_path, GOOD, row, GOOD))
    assert [problem.id for problem in loaded.problems] == ["1", "3"]
    assert [bad.row for bad in loaded.quarantined] == [2]
    assert loaded.quarantined[0].reason.startswith(reason)


def test_invalid_utf8_spoils_one_line_only(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"problem": "\xff"}\n')
    loaded = load(path)
    assert (len(loaded.problems), len(loaded.quarantined)) == (1, 1)


def test_duplicate_ids_and_long_prompts_are_quarantined(tmp_path: Path) -> None:
    rows = [{"id": name, "problem": text, "answer": "2"} for name, text in [("a", "q"), ("a", "r"), ("b", "long")]]
    config = ProblemsConfig(train="", columns=Columns(id="id"))
    loaded = load_problems(jsonl(tmp_path, *rows), config, too_long=lambda problem: problem.question == "long")
    assert [problem.question for problem in loaded.problems] == ["q"]
    assert [bad.reason for bad in loaded.quarantined] == [
        "the id 'a' occurs before",
        "the prompt is too long for the model",
    ]


def test_the_quarantine_is_written_as_jsonl(tmp_path: Path) -> None:
    write_quarantine(tmp_path / "quarantine.jsonl", load(jsonl(tmp_path, GOOD, {"problem": "q"})).quarantined)
    lines = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"row": 2, "reason": "'answer' is missing"}]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has no rows"),
        (["\n"], "has no rows"),
        ([{"q": "1", "answer": "2"}], "no column 'problem' but answer, q; set problems.columns.question"),
        ([{"problem": "1"}], "no column 'answer' but problem; set problems.columns.answer"),
        (["x\n", "y\n"], "none of 2 rows is usable; 2 of them: not JSON"),
    ],
)
def test_a_source_without_problems_is_one_clear_line(tmp_path: Path, lines: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        load(jsonl(tmp_path, *lines))
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["no/such/file.jsonl", "./missing", "no_such.parquet", "data/missing.jsonl"])
def test_a_missing_file_is_named(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} does not exist"):
        load(name)


def test_an_unknown_format_and_a_broken_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.parquet").write_text("x")
    with pytest.raises(DataError, match=r"neither \.jsonl nor \.parquet"):
        load(tmp_path / "a.txt")
    with pytest.raises(DataError, match="no readable Parquet file"):
        load(tmp_path / "b.parquet")


def test_parquet_reads_like_jsonl(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"problem": "q", "answer": 2, "solution": None}, {"problem": None, "answer": 3, "solution": "s"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    loaded = load(tmp_path / "p.parquet")
    assert loaded.problems == (Problem("1", "q", "2"),)
    assert loaded.quarantined[0].row == 2


def test_a_saved_dataset_is_read_by_split(tmp_path: Path) -> None:
    import datasets

    one = datasets.Dataset.from_list([GOOD])
    datasets.DatasetDict({"train": one, "test": one.rename_column("answer", "other")}).save_to_disk(tmp_path / "d")
    assert load(tmp_path / "d").problems == (Problem("1", "1+1=?", "2", "1+1=2"),)
    with pytest.raises(DataError, match="no dataset with a split 'dev'"):
        load_problems(str(tmp_path / "d"), ProblemsConfig(train="", split="dev"))


def test_a_folder_saved_from_one_split_has_no_other(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "p.jsonl").write_text(json.dumps(GOOD) + "\n")
    one = datasets.load_dataset("json", data_files=str(tmp_path / "p.jsonl"), split="train", cache_dir=str(tmp_path))
    one.save_to_disk(tmp_path / "d")

    def read(split: str | None) -> LoadedProblems:
        source = {"path": str(tmp_path / "d"), "split": split}
        config = ProblemsConfig.model_validate({"train": source, "split": "dev"})
        return load_problems(config.train, config)

    assert read(None).problems == read("train").problems == (Problem("1", "1+1=?", "2", "1+1=2"),)
    with pytest.raises(DataError, match="is one dataset, without a split 'test' to choose; leave out its split"):
        read("test")


def problems(count: int) -> list[Problem]:
    return [Problem(str(i), "q", "a") for i in range(count)]


@given(st.integers(1, 7), st.integers(1, 20), st.integers(0, 3))
def test_every_problem_comes_once_per_epoch(count: int, batch_size: int, seed: int) -> None:
    batches = ProblemBatches(problems(count), batch_size, seed)
    drawn = [problem.id for iteration in range(2 * count) for problem in batches.batch(iteration)]
    epochs = [sorted(drawn[start : start + count]) for start in range(0, len(drawn), count)]
    assert epochs == [[str(i) for i in range(count)]] * (2 * batch_size)


def test_a_resumed_run_finds_the_same_batches_and_another_seed_others() -> None:
    batches = [ProblemBatches(problems(50), 8, seed=1).batch(iteration) for iteration in range(10)]
    assert ProblemBatches(problems(50), 8, seed=1).batch(9) == batches[9]
    assert ProblemBatches(problems(50), 8, seed=2).batch(9) != batches[9]


def test_epochs_differ_in_their_order() -> None:
    batches = ProblemBatches(problems(50), 50, seed=0)
    assert batches.batch(0) != batches.batch(1)


def test_batches_of_nothing_are_refused_unless_they_are_empty():
    assert ProblemBatches([], 0, seed=0).batch(3) == ()
    with pytest.raises(ValueError, match="there are none"):
        ProblemBatches([], 8, seed=0)
