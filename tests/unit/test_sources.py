"""Sources of problems: formats, columns, filters, generated tasks, and how the config names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from int_ray.config_file import ConfigError, dump_config, load_config, parse_config
from int_ray.data.generated import gym_match
from int_ray.data.problems import LoadedProblems, load_problems
from int_ray.data.rows import DataError
from int_ray.data_config import Columns, ProblemsConfig
from int_ray.types import Problem

CHAIN_SUM = {"path": "reasoning_gym:chain_sum", "options": {"size": 20, "seed": 3, "max_terms": 3}}
QUICKSTART = "configs/quickstart.yaml"


def load(*sources: object, **settings: Any) -> LoadedProblems:
    config = ProblemsConfig.model_validate({"train": sources, **settings})
    return load_problems(config.train, config)


def jsonl(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_csv_fields_are_text_and_quoted_ones_may_span_lines(tmp_path: Path):
    path = tmp_path / "p.csv"
    path.write_bytes(b'\xef\xbb\xbfproblem,answer\n"a, b\nand c?",007\nq,1,2\n\nr,\xff\ns,3.50\n')
    loaded = load(str(path))
    assert loaded.problems == (Problem("1", "a, b\nand c?", "007"), Problem("5", "s", "3.50"))
    assert [(bad.row, bad.reason) for bad in loaded.quarantined] == [
        (2, "3 fields, but the header has 2"),
        (4, "'answer' holds half a character"),
    ]


def test_a_first_line_that_names_no_columns_is_one_clear_line(tmp_path: Path):
    path = tmp_path / "p.csv"
    path.write_text('"problem,answer\n' + "q,1\n" * 50_000)  # the quote is never closed
    with pytest.raises(DataError, match=r"p\.csv: the first line does not name columns \(field larger than"):
        load(str(path))


def test_columns_of_the_public_data_are_found_and_the_choice_is_told(tmp_path: Path):
    row = {"problem": "q", "answer": "1", "reference_solution": "so 1", "incorrect_attempt": "no"}
    loaded = load(jsonl(tmp_path / "p.jsonl", row))
    assert loaded.problems == (Problem("1", "q", "1", "so 1"),)
    assert loaded.notes == (
        f"{tmp_path}/p.jsonl: solution is 'reference_solution'; problems.columns can say otherwise",
    )
    both = load(jsonl(tmp_path / "q.jsonl", {"prompt": "q", "final_answer": 1, "solution": "a", **row}))
    assert both.problems == (Problem("1", "q", "1", "a"),)
    assert "question is 'problem' (there is 'prompt' too)" in both.notes[0]
    assert "solution is 'solution' (there is 'reference_solution' too)" in both.notes[0]


def test_columns_that_are_set_are_the_only_ones(tmp_path: Path):
    source = jsonl(tmp_path / "p.jsonl", {"problem": "q", "question": "r", "answer": "1", "solution": "s"})
    loaded = load({"path": source, "columns": {"question": "question", "solution": None}})
    assert (loaded.problems, loaded.notes) == ((Problem("1", "r", "1"),), ())
    with pytest.raises(DataError, match=r"no column 'gold' but .*; set problems\.columns\.answer"):
        load(source, columns={"answer": "gold"})


ROWS = [
    {"problem": "a", "answer": "1", "level": 1, "kind": "sum"},
    {"problem": "b", "answer": "2", "level": 2, "kind": "sum"},
    {"problem": "c", "answer": "3", "level": 3, "kind": None},
    {"problem": "d", "answer": "4", "level": "4", "kind": "root"},
]


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ([["level", ">=", 2]], "bcd"),
        ([["level", "<", 4], ["kind", "==", "sum"]], "ab"),
        ([["kind", "!=", "sum"]], "cd"),
        ([["kind", "not in", ["sum", "root"]]], "c"),
        ([["level", "in", [1, 4]]], "ad"),
    ],
)
def test_a_filter_keeps_the_rows_that_fulfil_all_conditions(tmp_path: Path, conditions: list[list[Any]], kept: str):
    loaded = load({"path": jsonl(tmp_path / "p.jsonl", *ROWS), "filter": conditions})
    assert "".join(problem.question for problem in loaded.problems) == kept
    assert loaded.notes[0].endswith(f"p.jsonl: {len(kept)} of 4 rows pass the filter")


def test_what_a_filter_cannot_compare_is_quarantined(tmp_path: Path):
    source = {"path": jsonl(tmp_path / "p.jsonl", *ROWS), "filter": [["kind", ">", 2]]}
    with pytest.raises(DataError, match="2 of them: 'kind' is 'sum', no number as the filter wants"):
        load(source)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ([["size", ">", 2]], "no column 'size' but answer, kind, level, problem; set the filter"),
        ([["level", ">", 9]], "none of 4 rows passes the filter"),
    ],
)
def test_a_filter_that_fits_nothing_is_one_clear_line(tmp_path: Path, conditions: list[list[Any]], message: str):
    with pytest.raises(DataError, match=message):
        load({"path": jsonl(tmp_path / "p.jsonl", *ROWS), "filter": conditions})


def test_a_limit_counts_usable_problems(tmp_path: Path):
    source = jsonl(tmp_path / "p.jsonl", {"problem": "a"}, *ROWS)
    loaded = load({"path": source, "limit": 2})
    assert [problem.question for problem in loaded.problems] == ["a", "b"]
    assert len(loaded.quarantined) == 1


def test_a_subset_and_a_split_of_a_folder_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    asked: list[object] = []

    def found(path: str, subset: str | None, *, split: str) -> list[dict[str, str]]:
        asked.extend([path, subset, split])
        return [{"problem": "q", "answer": "1"}]

    monkeypatch.setattr(datasets, "load_dataset", found)
    assert load({"path": "some/set", "subset": "en-easy", "split": "test"}).problems == (Problem("1", "q", "1"),)
    assert asked == ["some/set", "en-easy", "test"]


def test_a_hub_that_cannot_be_reached_says_how_to_do_without(monkeypatch: pytest.MonkeyPatch):
    import datasets

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'some/set' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError) as caught:
        load("some/set")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("some/set: the hub cannot be reached")
    assert "hf download some/set --repo-type dataset --local-dir FOLDER" in str(caught.value)


def test_generated_problems_say_in_their_id_how_to_make_them_again():
    loaded = load(CHAIN_SUM, reward="reasoning_gym")
    assert len(loaded.problems) == 20 and loaded.problems == load(CHAIN_SUM).problems
    for problem in loaded.problems:
        expression = problem.question.partition(": ")[2].rstrip(" =")
        assert int(problem.answer) == eval(expression)  # the question is a sum of numbers
        assert gym_match(problem.id, problem.answer) and not gym_match(problem.id, problem.answer + "1")
    assert loaded.problems[17].id == "reasoning_gym:chain_sum?max_terms=3&seed=3&size=20#17"
    other = load({**CHAIN_SUM, "options": {"size": 20, "seed": 4, "max_terms": 3}})
    assert [problem.question for problem in other.problems] != [problem.question for problem in loaded.problems]


def test_what_a_task_says_about_a_problem_can_be_filtered():
    loaded = load({**CHAIN_SUM, "filter": [["num_terms", "==", 2]]})
    assert 0 < len(loaded.problems) < 20
    assert all(problem.question.count(" + ") + problem.question.count(" - ") == 1 for problem in loaded.problems)


def test_a_generated_problem_keeps_its_scorer_when_it_is_written_to_a_file(tmp_path: Path):
    problem = load(CHAIN_SUM).problems[5]
    row = {"id": problem.id, "problem": problem.question, "answer": problem.answer}
    source = jsonl(tmp_path / "hard.jsonl", row, {**row, "id": "mine"})
    loaded = load(source, columns={"id": "id"}, reward="reasoning_gym")
    assert loaded.problems == (problem,)
    assert "judges generated problems alone" in loaded.quarantined[0].reason


@pytest.mark.parametrize(
    ("path", "options", "reason"),
    [
        ("chain_sm", {}, "not registered"),
        ("chain_sum", {"terms": 3}, "'terms'"),
        ("chain_sum", {"min_terms": 0}, "min"),
    ],
)
def test_a_task_that_cannot_be_generated_is_one_clear_line(path: str, options: dict[str, Any], reason: str):
    with pytest.raises(DataError, match=f"reasoning_gym:{path} cannot be generated .*{reason}"):
        load({"path": f"reasoning_gym:{path}", "options": options})


def test_a_source_is_a_path_a_mapping_or_a_list_and_is_written_as_it_was_read():
    mapping = {"path": "b.jsonl", "filter": [["level", ">=", 3]], "weight": 2.0}
    weighted = [{"path": "a.jsonl", "weight": 1.0}, mapping]
    for written in ("a.jsonl", mapping, weighted):
        config = ProblemsConfig.model_validate({"train": written})
        dumped = config.model_dump(mode="json")
        assert dumped["train"] == written
        assert ProblemsConfig.model_validate(dumped) == config
    config = load_config(QUICKSTART)
    assert "train: int_ray/chains/data/hard_train.jsonl\n" in dump_config(config)
    assert ProblemsConfig(train=config.problems.train, columns=Columns(question=("q",))).columns.question == ("q",)


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        (
            {"train": [{"path": "a.jsonl", "weight": 1}, "b.jsonl"]},
            "problems.train: give every source a weight, or none",
        ),
        ({"train": {"path": "a.jsonl", "weigth": 1}}, "problems.train.0.weigth: unknown key, did you mean"),
        ({"train": {"path": "a.jsonl", "filter": [["level", "~", 1]]}}, "problems.train.0.filter.0.1: input should be"),
        ({"train": {"path": "a.jsonl", "filter": [["level", "in", 1]]}}, "give a list of values after 'in'"),
        ({"train": {"path": "a.jsonl", "filter": [["level", ">", [1]]]}}, "give one value, or use 'in' with a list"),
        ({"train": {"path": "a.jsonl", "options": {"size": 3}}}, "options are for reasoning_gym:TASK alone"),
        ({"train": {"path": "reasoning_gym:chain_sum", "split": "test"}}, "has neither subset nor split nor columns"),
        ({"train": []}, "problems.train: value should have at least 1 item"),
    ],
)
def test_mistakes_in_sources_are_one_clear_line_each(problems: dict[str, Any], message: str):
    tree = load_config(QUICKSTART).model_dump(mode="json")
    tree["problems"] = {**tree["problems"], **problems}
    with pytest.raises(ConfigError) as caught:
        parse_config(tree)
    assert any(message in line for line in caught.value.problems), caught.value.problems


def test_an_evaluation_set_has_no_weight():
    with pytest.raises(ConfigError, match="an evaluation set is evaluated whole"):
        load_config(QUICKSTART, ["evaluate.sets.a={path: a.jsonl, weight: 2}"])
    sets = load_config(QUICKSTART, ["evaluate.sets.a={path: some/set, split: test}"]).evaluate.sets
    assert (sets["a"][0].split, sets["easy"][0].split) == ("test", None)


def test_an_unknown_key_of_a_condition_list_is_no_mapping():
    with pytest.raises(ValidationError):
        ProblemsConfig.model_validate({"train": {"path": "a", "filter": [{"column": "level"}]}})
