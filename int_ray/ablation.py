"""The rows of the paper's Table 1: what interventions do for the base model, and which part of the patch matters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from int_ray.config_file import ConfigError
from int_ray.evaluation import Tally
from int_ray.interventions import best_per_attempt, keep_helpful
from int_ray.metrics import Estimate, estimate_mean
from int_ray.oracle_config import OracleConfig
from int_ray.training_config import PatchConfig
from int_ray.types import Intervention, TestedIntervention

PATCH = {"filter": True, "clone_prefix": True, "clone_suffix": False}  # the paper's, from which each row differs by one


@dataclass(frozen=True, slots=True)
class Row:
    """How the rollouts of one row come about. `name` is that of its file, `label` is for people."""

    name: str
    label: str
    patch: Mapping[str, bool] | None = None  # settings of PatchConfig; None: the base model


NAIVE = Row("naive", "naive")
FROM_INTERVENTION = Row("from_intervention", "from intervention")
WITH_INTERVENTION = Row("with_intervention", "with intervention")
PATCHES = (
    Row("patch", "prefix, no suffix, filter", PATCH),
    Row("no_filter", "+ no filter", {**PATCH, "filter": False}),
    Row("no_prefix", "+ no prefix", {**PATCH, "clone_prefix": False}),
    Row("suffix", "+ suffix", {**PATCH, "clone_suffix": True}),
)
ROWS = (NAIVE, FROM_INTERVENTION, WITH_INTERVENTION, *PATCHES)


@dataclass(frozen=True, slots=True)
class RowScore:
    """One row of the table. A rollout that could not be graded counts as not correct."""

    label: str
    nonzero: int  # problems with a right rollout
    nonzero_share: Estimate
    accuracy: Estimate  # mean over problems of the share of right rollouts
    ungraded: int  # rollouts
    cloned: int | None  # interventions that the patch was made of; None without one


@dataclass(frozen=True, slots=True)
class Table:
    """`results.json`: the rows that are finished."""

    n: int  # rollouts per problem in every row
    problems: int  # the denominator of every row
    without_intervention: int  # problems without a valid intervention, for whatever reason
    rows: Mapping[str, RowScore]  # by the names of ROWS


def score_row(row: Row, tallies: Mapping[str, Tally], problems: Sequence[str], cloned: int, seed: int) -> RowScore:
    """The score over all `problems` (ids). One without rollouts, for want of an intervention, counts as 0."""
    correct = [tallies[id_].correct / tallies[id_].n if id_ in tallies else 0.0 for id_ in problems]
    return RowScore(
        label=row.label,
        nonzero=sum(share > 0 for share in correct),
        nonzero_share=estimate_mean([float(share > 0) for share in correct], seed),
        accuracy=estimate_mean(correct, seed),
        ungraded=sum(tally.ungraded for tally in tallies.values()),
        cloned=None if row.patch is None else cloned,
    )


def first_per_problem(tested: Iterable[TestedIntervention]) -> list[Intervention]:
    """The first valid intervention of each problem, whatever its test said."""
    firsts: dict[str, Intervention] = {}
    for item in tested:
        firsts.setdefault(item.intervention.attempt.problem.id, item.intervention)
    return list(firsts.values())


def without_step(intervention: Intervention) -> Intervention:
    """The place of the error alone: the policy continues from just before the step that would be replaced."""
    return replace(intervention, intervention_ids=np.array([], np.int32))


def patch_config(row: Row, config: PatchConfig) -> PatchConfig:
    """The SFT settings of a row."""
    return config.model_copy(update=dict(row.patch or {}))


def to_clone(row: Row, tested: Sequence[TestedIntervention], oracle: OracleConfig) -> list[TestedIntervention]:
    """The interventions that the patch of a row is made of, as a run would choose them."""
    candidates = best_per_attempt(tested) if oracle.select == "best_of" else tested
    return keep_helpful(candidates, filter=row.patch is not None and row.patch["filter"])


def headings() -> list[str]:
    """Of the columns."""
    return ["configuration", "nonzero accuracy", "accuracy", "cloned", "not graded"]


def table_rows(table: Table) -> list[list[str]]:
    """As the paper prints them, each figure with its interval."""
    return [
        [
            score.label,
            f"{score.nonzero}/{table.problems} [{score.nonzero_share.low:.0%}, {score.nonzero_share.high:.0%}]",
            f"{score.accuracy.mean:.2%} [{score.accuracy.low:.2%}, {score.accuracy.high:.2%}]",
            "" if score.cloned is None else str(score.cloned),
            str(score.ungraded),
        ]
        for score in table.rows.values()
    ]


def footnotes(table: Table) -> list[str]:
    """What a reader has to know about the rows."""
    return [
        f"{table.n} rollouts per problem in every row; in brackets: 95% bootstrap intervals over problems.",
        "from / with intervention: the base model continues from just before the step that the oracle replaces, "
        "without and with the new step; the first valid intervention of each problem, whatever its test said. "
        f"{table.without_intervention} of {table.problems} problems have none and count as 0 in these two rows.",
        f"The rows with + differ from '{PATCHES[0].label}' in the one setting that they name. The paper does not say "
        "whether its rows add up.",
        "Every patch starts from the base model, and its rollouts from the question. cloned: interventions in the "
        "patch; with 0 the row shows the base model.",
    ]


def markdown(table: Table) -> str:
    """Text of `results.md`."""
    names = headings()
    cells = [names, ["---"] * len(names), *table_rows(table)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join(["# Ablation (Table 1)", "", *lines, "", *(f"- {note}" for note in footnotes(table))]) + "\n"


def write_table(table: Table) -> str:
    """Text of `results.json`."""
    return TypeAdapter(Table).dump_json(table, indent=1).decode() + "\n"


def finished_table(folder: Path) -> Table | None:
    """What an earlier process left in a folder; None if a row, its file or a whole `results.json` is missing."""
    if not all((folder / "rows" / f"{row.name}.jsonl").is_file() for row in ROWS):
        return None
    try:
        table = read_table(folder / "results.json")
    except ConfigError:
        return None
    return table if table.rows.keys() == {row.name for row in ROWS} else None


def read_table(path: Path) -> Table:
    """What `write_table` made. Raises ConfigError."""
    try:
        return TypeAdapter(Table).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            [f"{path} cannot be read ({reason}); int-ray ablate with --resume auto writes it again"]
        ) from None
