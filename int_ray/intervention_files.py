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
    problems: str  # file or dataset


def provenance(config: Config, tokenizer: PreTrainedTokenizerBase) -> Provenance:
    """Of everything that a run with this config collects."""
    return Provenance(
        model=config.model.path,
        revision=config.model.revision,
        tokenizer_hash=tokenizer_hash(tokenizer),
        config_hash=_sha256(dump_config(config)),
        run_seed=config.run.seed,
        problems=config.problems.train,
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


def write_files(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write both files, each replaced in one step; returns the path of the JSONL file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines, table = folder / "interventions.jsonl", folder / "interventions.parquet"
    unfinished = folder / "interventions.partial"
    unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    unfinished.replace(lines)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=_schema()), unfinished)
    unfinished.replace(table)
    return lines


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

    text, number, real, flag, ids = pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.list_(pa.int32())
    source = {"oracle": text, "model": text, "prompt": text, "prompt_hash": text, "sample": number}
    source |= {"input_tokens": number, "output_tokens": number, "cost": real, "cached": flag}
    continuation = {"outcome": text, "policy_version": number, "seed": number, "finished": flag}
    continuation |= {"text": text, "token_ids": ids}
    columns = {
        **dict.fromkeys(("problem", "answer", "source", "solution", "incorrect_attempt"), text),
        "intervention": pa.struct({"location": number, "content": text}),
        **dict.fromkeys(("intervention_guided_attempt", "prompt", "completion", "problem_id", "question"), text),
        **{"status": text, "kept": flag, "reason": text},
        **{"policy_version": number, "attempt_seed": number, "attempt_outcome": text, "attempt_finished": flag},
        **{"prompt_ids": ids, "attempt_ids": ids, "steps": pa.list_(text), "step_ends": ids},
        **{"log": text, "category": text, "faults": pa.list_(text)},
        **{"first_error": number, "location": number, "replaced": text, "content": text},
        **{"prefix_ids": ids, "intervention_ids": ids},
        **{"num_correct": number, "num_graded": number, "success_rate": real},
        "continuations": pa.list_(pa.struct(continuation)),
        "proposed_by": pa.struct(source),
        "provenance": pa.struct(dict.fromkeys(Provenance.__annotations__, text) | {"run_seed": number}),
    }
    return pa.schema(columns)
