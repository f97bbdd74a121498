"""Sources -> problems that can be used, and the rows that cannot, with the reason for each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from int_ray.data.reading import Reading
from int_ray.data.review import Review
from int_ray.data.rows import QuarantinedRow
from int_ray.data_config import ProblemsConfig, SourceConfig
from int_ray.types import Problem


@dataclass(frozen=True, slots=True)
class LoadedProblems:
    """The usable problems of some sources, in their order, and the rows that are none."""

    problems: Sequence[Problem]
    quarantined: Sequence[QuarantinedRow] = ()
    notes: tuple[str, ...] = ()  # what a person should know: which columns were chosen, what was left out

    def identity(self) -> str:
        """Such as `40 problems, 1a2b3c4d5e6f7081`: the same for the same ids and questions in the same order."""
        digest = hashlib.blake2b(digest_size=8)
        for problem in self.problems:
            digest.update(json.dumps([problem.id, problem.question]).encode())
        return f"{len(self.problems)} problems, {digest.hexdigest()}"


def load_problems(
    sources: str | Sequence[SourceConfig],
    config: ProblemsConfig,
    *,
    too_long: Callable[[Problem], bool] = lambda _: False,
    distinct: bool = False,
    held_out: Mapping[str, Sequence[Problem]] | None = None,
) -> LoadedProblems:
    """Read files, datasets and generated tasks. Raises DataError.

    Rows that are no problem are quarantined, and so are problems

    - that are `too_long` for the model,
    - that have the id of a problem before them or, with `distinct`, ask what a problem before them asks,
    - that a set of `held_out` (by its name) asks,
    - whose answer math-verify cannot read (reward: math).
    """
    several = (SourceConfig(path=sources),) if isinstance(sources, str) else sources
    reading = Reading(config, too_long, is_mixture=len(several) > 1)
    for source in several:
        reading.read(source)
    review = Review(reading)
    review.drop_repeated_ids()
    if distinct:
        review.drop_repeated_questions()
    for name, problems in (held_out or {}).items():
        review.drop_asked_by(name, problems)
    review.drop_unreadable_answers()
    return LoadedProblems(*review.finish(), tuple(reading.notes))


def write_quarantine(path: Path, rows: Iterable[QuarantinedRow]) -> None:
    """One JSON object per row that was left out."""
    with path.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps({name: value for name, value in asdict(row).items() if value != ""}) + "\n")
