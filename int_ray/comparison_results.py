"""What `int-ray compare` found, for machines and for people: `results.json` and `results.md`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from int_ray.claims import Judgement, judge_claims
from int_ray.evaluation_results import interval
from int_ray.metrics import Estimate
from int_ray.report.arms import read_arms
from int_ray.report.several import Row, score_columns, score_rows

Column = tuple[str, int]  # problem set, k


@dataclass(frozen=True)
class ComparisonResults:
    """The table of all policies (Table 2), and a verdict on each claim of the paper."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    claims: Sequence[Judgement]
    seeds: Mapping[str, Sequence[int]]  # by arm


def compare_runs(folder: Path) -> ComparisonResults:
    """Of `FOLDER/seed-*/ARM/`. Raises ConfigError if there is no run."""
    arms = read_arms([folder])
    columns = score_columns(arms)
    seeds = {arm.name: list(arm.runs) for arm in arms}
    return ComparisonResults(columns, score_rows(arms, columns), judge_claims(arms), seeds)


def as_json(results: ComparisonResults) -> str:
    """All of it."""
    rows = [
        {"policy": row.name, "set": set_, "k": k, **asdict(score)}
        for row in results.rows
        for (set_, k), score in row.scores.items()
        if score is not None
    ]
    claims = [asdict(claim) for claim in results.claims]
    content: dict[str, Any] = {"seeds": results.seeds, "pass_at": rows, "claims": claims}
    return json.dumps(content, indent=1) + "\n"


def as_markdown(results: ComparisonResults) -> str:
    """Two tables."""
    seeds = "; ".join(f"{arm}: {', '.join(map(str, numbers))}" for arm, numbers in results.seeds.items())
    scores = [["policy", *headings(results)], *score_cells(results)]
    claims = [["claim", "verdict", "difference", "why"], *claim_cells(results)]
    return (
        f"# Arms side by side\n\npass@k with 95% intervals over seeds and problems. Seeds: {seeds}.\n\n"
        f"{_table(scores)}\n## The paper's claims\n\n{_table(claims)}"
    )


def headings(results: ComparisonResults) -> list[str]:
    """Of the columns with scores, such as `easy pass@1`."""
    return [f"{set_} pass@{k}" for set_, k in results.columns]


def score_cells(results: ComparisonResults) -> list[list[str]]:
    """One row per policy."""
    return [[row.name, *(_cell(row.scores.get(column)) for column in results.columns)] for row in results.rows]


def claim_cells(results: ComparisonResults) -> list[list[str]]:
    """One row per claim: what it says, verdict, difference with its interval, why."""
    return [
        [
            f"{claim.says} ({claim.source})",
            claim.verdict,
            f"{claim.what}: {interval(claim.difference)}" if claim.difference else "",
            claim.why,
        ]
        for claim in results.claims
    ]


def _cell(score: Estimate | None) -> str:
    return "" if score is None else interval(score)


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"
