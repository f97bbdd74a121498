"""Interventions as data for others: `interventions.jsonl` and `interventions.parquet` of `int-ray collect`.

One row per kept intervention. Beside the fields of `intervention_records.InterventionRecord`, a row has the columns of

- the public InT datasets: `problem`, `answer`, `source` (of the problem), `solution`, `incorrect_attempt`,
  `intervention` (`location`, `content`), `intervention_guided_attempt`. Their steps are what blank lines separate, so
  the attempts are written with one blank line between any two steps and none inside of one;
- TRL: `prompt`, `completion`, the exact text of prompt and of prefix + intervention. TRL appends an end token, which
  the paper's target does not have; `prompt_ids`, `prefix_ids` and `intervention_ids` are what int_ray trains on;
- provenance: `proposed_by` (the record's `source`) and `provenance`.

Of the continuations only the first right one has text and ids; the others are in the run folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from int_ray.config import Config
from int_ray.config_file import dump_config
from int_ray.data_config import source_names
from int_ray.segmentation import BLANK_LINES, Decode
from int_ray.types import Outcome

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an intervention comes from, apart from what its record says."""

    model: str  # that wrote the attempt and the continuations
    revision: str | None
    tokenizer_hash: str  # what the token ids mean
    config_hash: str  # SHA-256 (hex) of config.yaml
    run_seed: int
    problems: str  # files or datasets


def provenance(config: Config, tokenizer: PreTrainedTokenizerBase) -> Provenance:
    """Of everything that a run with this config collects."""
    return Provenance(
        model=config.model.path,
        revision=config.model.revision,
        tokenizer_hash=tokenizer_hash(tokenizer),
        config_hash=_sha256(dump_config(config)),
        run_seed=config.run.seed,
        problems=source_names(config.problems.train),
    )


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 (hex) of the vocabulary: the same wherever token ids have the same meaning."""
    return _sha256(json.dumps(sorted(tokenizer.get_vocab().items())))


def file_row(record: Mapping[str, Any], origin: Provenance, decode: Decode) -> dict[str, Any]:
    """The row of an `InterventionRecord` that was kept."""
    location, content = record["location"], record["content"]
    steps = [BLANK_LINES.sub("\n", step.strip()) for step in record["steps"]]
    own = {name: value for name, value in record.items() if name != "source"}
    return own | {
        "continuations": _first_right_in_full(record["continuations"]),
        "problem": record["question"],
        "source": origin.problems,
        "incorrect_attempt": "\n\n".join(steps),
        "intervention": {"location": location, "content": content},
        "intervention_guided_attempt": "\n\n".join([*steps[: location - 1], content.strip()]),
        "prompt": decode(record["prompt_ids"]),
        "completion": decode([*record["prefix_ids"], *record["intervention_ids"]]),
        "proposed_by": record["source"],
        "provenance": asdict(origin),
    }


def record_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the record that it was made from, less what it does not hold of the continuations."""
    return {**row, "source": row["proposed_by"]}


def write_files(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write both files, each replaced in one step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    unfinished = folder / "interventions.partial"
    unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    unfinished.replace(folder / "interventions.jsonl")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=_schema()), unfinished)
    unfinished.replace(folder / "interventions.parquet")


def _first_right_in_full(continuations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Outcome and seed of all, but text and ids of the first right one alone: the suffix that may be cloned."""
    outcomes = [item["outcome"] for item in continuations]
    shown = outcomes.index(Outcome.CORRECT) if Outcome.CORRECT in outcomes else None
    blank = {"text": "", "token_ids": []}
    return [dict(item) if index == shown else {**item, **blank} for index, item in enumerate(continuations)]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _schema() -> pa.Schema:
    """Types of all columns, so that files are alike whatever they hold."""
    import pyarrow as pa

    text, number, flag, ids = pa.string(), pa.int64(), pa.bool_(), pa.list_(pa.int32())

    def struct(*, texts: str = "", numbers: str = "", **others: pa.DataType) -> pa.StructType:
        """Names of text and number fields, separated by blanks, and other fields with their types."""
        return pa.struct(dict.fromkeys(texts.split(), text) | dict.fromkeys(numbers.split(), number) | others)

    return pa.schema(
        struct(
            texts="problem answer source solution incorrect_attempt intervention_guided_attempt prompt completion "
            "status reason problem_id question attempt_outcome log category replaced content",
            numbers="policy_version attempt_seed first_error location num_correct num_graded",
            success_rate=pa.float64(),
            kept=flag,
            attempt_finished=flag,
            steps=pa.list_(text),
            faults=pa.list_(text),
            **dict.fromkeys(("prompt_ids", "attempt_ids", "prefix_ids", "intervention_ids", "step_ends"), ids),
            intervention=struct(texts="content", numbers="location"),
            continuations=pa.list_(
                struct(
                    texts="outcome text",
                    numbers="policy_version seed",
                    finished=flag,
                    switches=pa.list_(number),
                    token_ids=ids,
                )
            ),
            proposed_by=struct(
                texts="oracle model prompt prompt_hash",
                numbers="sample input_tokens output_tokens",
                cost=pa.float64(),
                cached=flag,
            ),
            provenance=struct(texts="model revision tokenizer_hash config_hash problems", numbers="run_seed"),
        )
    )
