"""Results of `int-ray evaluate` as a file for programs, and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from int_ray.config_file import ConfigError
from int_ray.decoding import Decoding
from int_ray.evaluation import CheckpointScores
from int_ray.metrics import Estimate

AVERAGE = "(average)"  # no set can be called so


@dataclass(frozen=True, slots=True)
class Results:
    """`results.json`: everything that an evaluation has found out so far."""

    n: int  # rollouts per problem
    ks: tuple[int, ...]  # what was asked for; `pass_at` and `average` also have what a curve needs
    decoding: Decoding
    preset: str | None
    checkpoints: Mapping[str, CheckpointScores]

    def __str__(self) -> str:
        """How it was sampled, in one line."""
        preset = f" (preset {self.preset})" if self.preset else ""
        return f"{self.n} rollouts per problem, {self.decoding}{preset}"


def write_results(results: Results) -> str:
    """Text of `results.json`."""
    return TypeAdapter(Results).dump_json(results, indent=1).decode() + "\n"


def read_results(path: Path) -> Results:
    """What `write_results` made. Raises ConfigError."""
    try:
        return TypeAdapter(Results).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = str(error).partition("\n")[0]
        again = "int-ray evaluate with --resume auto writes it again"
        raise ConfigError([f"{path} cannot be read ({reason}); {again}"]) from None


def headings(results: Results) -> list[str]:
    """Of the table's columns."""
    sizes = [f"pass@{k}" for k in results.ks]
    return ["set", "checkpoint", "problems", *sizes, "unsolved", "tokens", "cut off", "not graded"]


def rows_by_set(results: Results, digits: int = 3) -> dict[str, list[list[str]]]:
    """Set -> one row for each checkpoint that was evaluated on it; last the average, where there are several sets."""

    def shown(estimate: Estimate) -> str:
        return interval(estimate, digits)

    rows: dict[str, list[list[str]]] = {}
    for checkpoint, scores in results.checkpoints.items():
        for name, score in scores.sets.items():
            shares = [shown(score.pass_at[k]) for k in results.ks]
            lengths = [f"{score.response_tokens.mean:.0f}", f"{score.truncated.mean:.1%}", f"{score.ungraded:.1%}"]
            row = [name, checkpoint, str(score.num_problems), *shares, shown(score.unsolved), *lengths]
            rows.setdefault(name, []).append(row)
    averages = [
        [AVERAGE, name, "", *(shown(scores.average[k]) for k in results.ks), "", "", "", ""]
        for name, scores in results.checkpoints.items()
        if len(scores.sets) > 1
    ]
    return {**rows, AVERAGE: averages} if averages else rows


def interval(estimate: Estimate, digits: int = 3) -> str:
    """Such as `0.250 [0.125, 0.375]`."""
    mean, low, high = (f"{value:.{digits}f}" for value in (estimate.mean, estimate.low, estimate.high))
    return f"{mean} [{low}, {high}]"


def markdown(results: Results) -> str:
    """Text of `results.md`."""
    names = headings(results)
    lines = ["# Evaluation", "", f"{results}. In brackets: 95% bootstrap intervals over problems.", ""]
    lines += [_markdown_row(names), _markdown_row(["---"] * len(names))]
    lines += [_markdown_row(row) for rows in rows_by_set(results).values() for row in rows]
    lines += ["", *(f"- {name}: `{scores.path}`" for name, scores in results.checkpoints.items())]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
