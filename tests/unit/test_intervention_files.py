"""Interventions to files and back: our own rows, the public columns, TRL's, and rows that cannot be used."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from int_ray.chains.tokenizer import build_tokenizer
from int_ray.config import Config
from int_ray.config_file import ConfigError, parse_config
from int_ray.given_interventions import LoadedInterventions, load_interventions
from int_ray.intervention_files import file_row, provenance, tokenizer_hash, write_files
from int_ray.intervention_records import round_records
from int_ray.intervention_round import RoundResult
from int_ray.intervention_rows import paragraphs
from int_ray.interventions import Splicer
from int_ray.prompts import decode_ids, encode_prompt, encode_text
from int_ray.samples import patch_batches, patch_sample
from int_ray.segmentation import Segmenter
from int_ray.types import (
    Attempt,
    Completion,
    OracleReply,
    Outcome,
    Problem,
    Proposal,
    Rollout,
    RolloutGroup,
    Source,
    TestedIntervention,
)
from tests.factories import tiny_checkpoint

TOKENIZER = build_tokenizer()
PUBLIC = ("problem", "answer", "source", "solution", "incorrect_attempt", "intervention", "intervention_guided_attempt")
PROBLEM = Problem("p7", "12+5-3+4=?", "18", "12+5=17\n\n17-3=14\n\n14+4=18\n\n\\boxed{18}")
ATTEMPT = "12+5=17\n\n17-3=13. Wait, that is\nodd\n\n\n13+4=17\n\n\\boxed{17}"


def config(**sections: Any) -> Config:
    tree = {
        "model": {"path": "some/model", "max_length": 256},
        "problems": {"train": "data/hard.jsonl"},
        "rollout": {"max_tokens": 128},
        "run": {"folder": "unused"},
    }
    return parse_config({name: section | sections.pop(name, {}) for name, section in tree.items()} | sections)


def encoded(text: str, *, end: bool = False) -> np.ndarray:
    return np.array([*encode_text(TOKENIZER, text), *[TOKENIZER.eos_token_id] * end], np.int32)


def response(text: str, seed: int = 0) -> Completion:
    ids = encoded(text, end=True)
    return Completion(ids, np.full(len(ids), -0.5, np.float32), text, finished=True, seed=seed)


def example(location: int = 2, content: str = "17-3=14", outcomes: str = "wcwc") -> TestedIntervention:
    """The intervention on ATTEMPT, with one continuation per letter: c(orrect) or w(rong)."""
    segmenter = Segmenter(partial(decode_ids, TOKENIZER), ("wait",))
    rollout = Rollout(response(ATTEMPT, seed=11), Outcome.WRONG, 0)
    attempt = Attempt(
        PROBLEM, encode_prompt(TOKENIZER, PROBLEM, {}), rollout, segmenter.steps(rollout.completion.token_ids)
    )
    source = Source("gemini", "gemini-2.5-pro", "math-1", "ab" * 32, 1, 900, 80, 0.01)
    reply = OracleReply((Proposal(location, content, 2, source),), log="Step 2 is wrong.", category="execution")
    splicer = Splicer(partial(encode_text, TOKENIZER), "\n\n", max_step_tokens=64, max_tokens=128)
    (intervention,), _ = splicer.splice([attempt], [reply])
    continuations = tuple(
        Rollout(response(f"{letter} {index}", seed=index), Outcome.CORRECT if letter == "c" else Outcome.WRONG, 0)
        for index, letter in enumerate(outcomes)
    )
    group = RolloutGroup(PROBLEM, attempt.prompt_ids, intervention.resume_ids, continuations)
    return TestedIntervention(intervention, group if outcomes else None)


def rows(*items: TestedIntervention, **sections: Any) -> list[dict[str, Any]]:
    origin = provenance(config(**sections), TOKENIZER)
    records = round_records(RoundResult(1, len(items), tested=items, kept=items))
    return [file_row(record, origin, partial(decode_ids, TOKENIZER)) for record in records]


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def load(path: Path, **sections: Any) -> LoadedInterventions:
    return load_interventions(path, TOKENIZER, config(**sections))


def public_only(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in PUBLIC}


def test_a_row_has_the_public_columns_and_trls():
    (row,) = rows(example())
    assert (row["problem"], row["answer"], row["source"]) == ("12+5-3+4=?", "18", "data/hard.jsonl")
    assert row["solution"] == PROBLEM.solution
    assert row["incorrect_attempt"] == "12+5=17\n\n17-3=13.\n\nWait, that is\nodd\n\n13+4=17\n\n\\boxed{17}"
    assert row["intervention"] == {"location": 2, "content": "17-3=14"}
    assert row["intervention_guided_attempt"] == "12+5=17\n\n17-3=14"
    assert row["prompt"] == "<|user|>12+5-3+4=?<|end|><|assistant|>"
    assert row["completion"] == "12+5=17\n\n17-3=14\n\n"
    assert (row["num_correct"], row["num_graded"], row["success_rate"]) == (2, 4, 0.5)
    assert row["proposed_by"]["model"] == "gemini-2.5-pro" and row["provenance"]["model"] == "some/model"


def test_the_config_hash_is_that_of_the_config_file():
    before, after = provenance(config(), TOKENIZER), provenance(config(schedule="paper"), TOKENIZER)
    assert before.config_hash != after.config_hash and before.tokenizer_hash == after.tokenizer_hash


def test_the_location_counts_the_parts_between_blank_lines():
    for location in range(1, 6):
        (row,) = rows(example(location, "changed"))
        parts = row["incorrect_attempt"].split("\n\n")
        assert len(parts) == 5 and parts[location - 1].split() == row["replaced"].split()


@given(st.text(alphabet="a\n .", max_size=30))
def test_paragraphs_are_the_whole_text_and_count_like_split(text: str):
    assert "".join(paragraphs(text)) == text
    assert [part.removesuffix("\n\n") for part in paragraphs(text)] == text.split("\n\n")


def test_of_the_continuations_only_the_first_right_one_is_written_out():
    (row,) = rows(example(outcomes="wcwc"))
    assert [item["outcome"] for item in row["continuations"]] == ["wrong", "correct", "wrong", "correct"]
    assert [item["text"] for item in row["continuations"]] == ["", "c 1", "", ""]
    assert [item["seed"] for item in row["continuations"]] == [0, 1, 2, 3]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_own_files_come_back_as_they_were(tmp_path: Path, suffix: str):
    item = example()
    write_files(tmp_path, rows(item))
    loaded = load(tmp_path / f"interventions{suffix}")
    (back,) = loaded.items
    assert loaded.quarantined == () and back.helps
    assert back.continuations is not None and back.continuations.success_rate == 0.5
    was = item.intervention
    assert back.intervention.attempt.problem == PROBLEM
    assert [step.text for step in back.intervention.attempt.steps] == [step.text for step in was.attempt.steps]
    assert back.intervention.proposal == was.proposal and back.intervention.reply.log == was.reply.log
    for settings in (config().patch, config(patch={"clone_suffix": True}).patch):
        expected, sample = patch_sample(item, settings), patch_sample(back, settings)
        assert sample.token_ids.tolist() == expected.token_ids.tolist()
        assert sample.loss_mask.tolist() == expected.loss_mask.tolist()


def test_own_rows_about_every_step_come_back(tmp_path: Path):
    items = [example(location, f"changed {location}") for location in range(1, 6)]
    loaded = load(lines(tmp_path / "x.jsonl", *rows(*items)))
    assert [item.intervention.resume_ids.tolist() for item in loaded.items] == [
        item.intervention.resume_ids.tolist() for item in items
    ]


def test_parquet_and_jsonl_hold_the_same(tmp_path: Path):
    write_files(tmp_path, rows(example(), example(1, "12+5=17, so far")))
    (table,) = (pq.read_table(tmp_path / "interventions.parquet"),)
    read = [json.loads(line) for line in (tmp_path / "interventions.jsonl").read_text().splitlines()]
    assert table.to_pylist() == [{name: row[name] for name in table.column_names} for row in read]
    assert set(table.column_names) == set(read[0])
    assert not (tmp_path / "interventions.partial").exists()


def test_nothing_kept_is_an_empty_file_with_the_same_columns(tmp_path: Path):
    write_files(tmp_path / ".", rows(example()))
    names = pq.read_schema(tmp_path / "interventions.parquet")
    write_files(tmp_path, [])
    assert pq.read_schema(tmp_path / "interventions.parquet") == names
    with pytest.raises(ConfigError, match=r"patch.interventions: .*is empty"):
        load(tmp_path / "interventions.jsonl")


def test_a_test_of_another_model_does_not_count(tmp_path: Path):
    write_files(tmp_path, rows(example()))
    (item,) = load(tmp_path / "interventions.jsonl", model={"path": "other/model"}).items
    assert item.continuations is None
    assert item.intervention.resume_ids.tolist() == example().intervention.resume_ids.tolist()


@pytest.mark.parametrize("reduce", [lambda row: row | {"provenance": {"tokenizer_hash": "other"}}, public_only])
def test_other_rows_are_tokenised_at_the_step_boundary(tmp_path: Path, reduce: Any):
    (row,) = rows(example(4, "13+4=18"))
    (item,) = load(lines(tmp_path / "x.jsonl", reduce(row))).items
    assert item.continuations is None
    prefix = "12+5=17\n\n17-3=13. Wait, that is\nodd\n\n\n"
    if reduce is public_only:
        prefix = "12+5=17\n\n17-3=13.\n\nWait, that is\nodd\n\n"
    assert decode_ids(TOKENIZER, item.intervention.prefix_ids.tolist()) == prefix
    assert decode_ids(TOKENIZER, item.intervention.intervention_ids.tolist()) == "13+4=18\n\n"
    assert patch_batches([item], config().patch, seed=0)[0][0].token_ids[-1] == encoded("\n\n")[0]


def test_who_proposed_it_and_why_comes_along_whatever_the_tokenizer(tmp_path: Path):
    (row,) = rows(example())
    row["provenance"]["tokenizer_hash"] = "other"
    (item,) = load(lines(tmp_path / "x.jsonl", row)).items
    assert item.intervention.proposal == example().intervention.proposal
    assert (item.intervention.reply.log, item.intervention.reply.category) == ("Step 2 is wrong.", "execution")


def test_columns_of_other_origin_say_nothing(tmp_path: Path):
    (row,) = map(public_only, rows(example()))
    row |= {"log": 2.0, "category": "Algebra", "proposed_by": "Ada"}
    (item,) = load(lines(tmp_path / "x.jsonl", row)).items
    assert (item.intervention.reply.log, item.intervention.reply.category) == ("", None)
    assert item.intervention.proposal.source == Source("recorded")


SHORTER = {"content": "17-3", "intervention": {"location": 2, "content": "17-3"}}
CHANGED = {"content": "17-3=14, good", "intervention": {"location": 2, "content": "17-3=14, good"}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"content": CHANGED["content"]}, "'content' is not the one in 'intervention'; change both"),
        ({"intervention": CHANGED["intervention"]}, "'content' is not the one in 'intervention'; change both"),
        ({"location": 1}, "'location' is not the one in 'intervention'; change both"),
        (CHANGED, "'intervention_ids' are not the ids of 'content'; to train on a changed text, delete 'provenance'"),
        (SHORTER, "'intervention_ids' are not the ids of 'content'; to train on a changed text, delete 'provenance'"),
    ],
)
def test_a_text_that_is_not_what_would_be_trained_on(tmp_path: Path, change: dict[str, Any], reason: str):
    row, good = rows(example(), example(1, "so 12+5=17"))
    (bad,) = load(lines(tmp_path / "x.jsonl", row | change, good)).quarantined
    assert (bad.row, bad.reason) == (1, reason)


def test_a_collected_row_with_another_text_is_trained_on_as_the_reason_says(tmp_path: Path):
    (row,) = rows(example())
    (item,) = load(lines(tmp_path / "x.jsonl", row | CHANGED | {"provenance": None})).items
    assert item.intervention.proposal.content == "17-3=14, good" and item.continuations is None
    assert decode_ids(TOKENIZER, item.intervention.intervention_ids.tolist()) == "17-3=14, good\n\n"


def test_problems_without_an_id_are_told_apart_by_their_question(tmp_path: Path):
    (row,) = map(public_only, rows(example()))
    other = row | {"problem": "1+1=?"}
    items = load(
        lines(tmp_path / "x.jsonl", row, row | {"intervention": {"location": 1, "content": "new"}}, other)
    ).items
    ids = [item.intervention.attempt.problem.id for item in items]
    assert ids[0] == ids[1] != ids[2]


def test_blank_lines_inside_an_intervention_become_line_breaks(tmp_path: Path):
    (row,) = map(public_only, rows(example()))
    row |= {"intervention": {"location": 2.0, "content": "17-3=14\n\nand 14 is even"}}
    (item,) = load(lines(tmp_path / "x.jsonl", row)).items
    assert item.intervention.proposal == Proposal(2, "17-3=14\nand 14 is even", None, Source("recorded"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ({"problem": None}, "neither 'problem' nor 'problem_id'"),
        ({"answer": None}, "'answer' is missing"),
        ({"answer": ["18"]}, "'answer' is list, not text"),
        ({"incorrect_attempt": None}, "neither 'incorrect_attempt' nor 'replaced'"),
        ({"incorrect_attempt": None, "replaced": "17-3=13"}, "'incorrect_attempt' is missing"),
        ({"incorrect_attempt": 5.5}, "the attempt has the steps 1 to 1"),
        ({"intervention": "17-3=14"}, "'intervention' is not an object"),
        ({"intervention": {"location": 2}}, "'content' is missing"),
        ({"intervention": {"content": "17-3=14"}}, "'location' is missing"),
        ({"intervention": {"location": 0, "content": "x"}}, "'location' is 0, but the attempt has the steps 1 to 5"),
        ({"intervention": {"location": 6, "content": "x"}}, "'location' is 6"),
        ({"intervention": {"location": True, "content": "x"}}, "'location' is True"),
        ({"intervention": {"location": "2", "content": "x"}}, "'location' is '2'"),
        ({"intervention": {"location": 1.5, "content": "x"}}, "'location' is 1.5"),
        ({"intervention": {"location": 2, "content": " "}}, "'content' is empty"),
        ({"intervention": {"location": 2, "content": "\ud800"}}, "'content' holds half a character"),
        ({"intervention": {"location": 2, "content": "\\boxed{18}"}}, "boxed"),
        ({"intervention": {"location": 2, "content": "x" * 65}}, "too_long"),
        ({"intervention": {"location": 1, "content": "12+5=17"}}, "unchanged"),
        ({"problem": "9" * 150}, "the prompt is too long for the model"),
        ({"steps": "12+5=17"}, "'steps' is not a list of texts"),
        ({"steps": []}, "'steps' is empty"),
        ({"status": "refused"}, "its status is 'refused', not 'kept'"),
        ({}, "it repeats a row before it"),
    ],
)
def test_rows_that_cannot_be_used_are_quarantined_with_the_reason(tmp_path: Path, change: Any, reason: str):
    (row,) = map(public_only, rows(example()))
    bad = change if isinstance(change, str) else row | change
    loaded = load(lines(tmp_path / "x.jsonl", row, bad), oracle={"max_step_tokens": 64})
    assert len(loaded.items) == 1
    (quarantined,) = loaded.quarantined
    assert quarantined.row == 2 and reason in quarantined.reason


@pytest.mark.parametrize(
    "change",
    [
        {"prefix_ids": None},
        {"prefix_ids": [5, 6]},
        {"prefix_ids": ["a"]},
        {"attempt_ids": [10**12]},
        {"intervention_ids": [-1]},
        {"intervention_ids": [len(TOKENIZER)]},
        {"intervention_ids": [[1, 2], [3, 4]]},
        {"step_ends": [1]},
        {"step_ends": ["1", "2", "3", "4", "5"]},
        {"proposed_by": {"nonsense": 1}},
        {"attempt_outcome": "splendid"},
        {"continuations": [{"outcome": "correct"}]},
        {"continuations": 3},
        {"faults": 3},
    ],
)
def test_damaged_ids_are_quarantined(tmp_path: Path, change: dict[str, Any]):
    (row, good) = rows(example(), example(1, "so 12+5=17"))
    loaded = load(lines(tmp_path / "x.jsonl", row | change, good))
    assert [item.row for item in loaded.quarantined] == [1] and loaded.quarantined[0].reason.startswith("damaged")


def test_an_own_row_that_is_too_long_for_this_run(tmp_path: Path):
    write_files(tmp_path, rows(example()))
    with pytest.raises(ConfigError, match=r"none of the 1 rows of .* is usable; 1 of them: no_room"):
        load(tmp_path / "interventions.jsonl", rollout={"max_tokens": 10})


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("absent.jsonl", None, "absent.jsonl is no file"),
        ("x.txt", "a,b\n", "neither .jsonl nor .parquet"),
        ("x.parquet", "no parquet", "no readable Parquet file"),
        ("x.jsonl", "{}\n{}\n{\n", "none of the 3 rows .*; 2 of them: neither 'problem'"),
    ],
)
def test_a_file_without_a_usable_row_is_one_line(tmp_path: Path, name: str, content: str | None, line: str):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=f"patch.interventions: .*{line}") as raised:
        load(tmp_path / name)
    assert len(raised.value.problems) == 1 and "\n" not in raised.value.problems[0]


def test_the_tokenizer_hash_changes_with_the_vocabulary():
    other = build_tokenizer()
    assert tokenizer_hash(other) == tokenizer_hash(TOKENIZER)
    other.add_tokens(["another"])
    assert tokenizer_hash(other) != tokenizer_hash(TOKENIZER)


def test_datasets_loads_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    write_files(tmp_path, rows(example(), example(1, "12+5=17, so far", outcomes="")))
    for kind, name in (("json", "interventions.jsonl"), ("parquet", "interventions.parquet")):
        found = datasets.load_dataset(
            kind, data_files=str(tmp_path / name), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert found[0]["prompt"] + found[0]["completion"] == (
            "<|user|>12+5-3+4=?<|end|><|assistant|>12+5=17\n\n17-3=14\n\n"
        )
        assert found[0]["intervention"] == {"location": 2, "content": "17-3=14"}
        assert found[1]["success_rate"] is None


def trained_by_trl(folder: Path, found: Any) -> dict[str, list[int]]:
    """What TRL makes of the first row."""
    from trl import SFTConfig, SFTTrainer

    settings = SFTConfig(output_dir=str(folder / "out"), report_to="none", use_cpu=True, bf16=False)
    return SFTTrainer(str(tiny_checkpoint(folder / "model")), args=settings, train_dataset=found).train_dataset[0]


def test_trl_trains_on_the_files_and_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", partial(datasets.load_dataset, cache_dir=str(tmp_path / "cache")))
    (tmp_path / "runs/collected").mkdir(parents=True)
    write_files(tmp_path / "runs/collected", rows(example()))
    intervention = example().intervention
    ids = [*intervention.attempt.prompt_ids, *intervention.resume_ids]
    found = datasets.load_dataset("parquet", data_files="runs/collected/interventions.parquet", split="train")
    trained = trained_by_trl(tmp_path, found)
    assert trained["input_ids"] == [*ids, TOKENIZER.eos_token_id]
    assert decode_ids(TOKENIZER, [token for token in trained["labels"] if token != -100]) == (
        "12+5=17\n\n17-3=14\n\n<|end|>"
    )
    page = (Path(__file__).parents[2] / "docs/oracles.md").read_text()
    (recipe,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(recipe, scope)
    trained = trained_by_trl(tmp_path, scope["rows"])
    assert trained["input_ids"] == ids
    assert trained["labels"] == [-100] * len(intervention.attempt.prompt_ids) + [*intervention.resume_ids]
