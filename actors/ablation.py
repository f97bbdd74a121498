"""`int-ray ablate`: collects interventions once, then samples the rows of Table 1, patching the base model for some.

A row's rollouts are written when it is finished; a process that goes on samples the rows that are missing. What a row
needs of the base model's engines comes before the first patch.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from actors.collector import Collector
from actors.run_folder import RunFolder, replace_file
from int_ray.ablation import (
    FROM_INTERVENTION,
    PATCHES,
    ROWS,
    WITH_INTERVENTION,
    Row,
    RowScore,
    Table,
    first_per_problem,
    markdown,
    patch_config,
    score_row,
    to_clone,
    without_step,
    write_table,
)
from int_ray.config import Config
from int_ray.errors import RunError
from int_ray.evaluation import Tally
from int_ray.evaluation_results import interval
from int_ray.intervention_records import read_intervention
from int_ray.journal import read_json_lines
from int_ray.ports import Ports
from int_ray.rollout_records import group_record
from int_ray.samples import patch_batches
from int_ray.training_config import PatchConfig
from int_ray.types import Problem, Purpose, TestedIntervention

SAMPLED_ANEW = 2  # round in the seeds: the collection's own tests, of round 1, have chosen what is kept

# Base weights, optimizer and reference as at the start, with these settings for the next patch.
Reset = Callable[[PatchConfig], Awaitable[None]]


class Ablation:
    """Fills the table row by row; one call of `run` per process."""

    def __init__(
        self,
        config: Config,
        problems: Sequence[Problem],
        ports: Ports,
        collector: Collector,
        folder: RunFolder,
        reset: Reset,
    ) -> None:
        self.config = config
        self.problems = problems
        self.ports = ports
        self.collector = collector
        self.folder = folder
        self.reset = reset
        (folder.path / "rows").mkdir(exist_ok=True)

    async def run(self) -> Table:
        """All rows; `results.json` and `results.md` are written after each.

        Raises Resumable if the oracle was not to be reached about some attempts.
        """
        await self.ports.weights.publish(0)  # engines and learner agree on the base model
        await self.collector.run()
        tested = self._tested()
        table = self._table(tested, {})
        for row in ROWS:
            tallies = self._tallies(row, tested)
            if tallies is None:
                tallies = await self._sample(row, tested)
            table = self._table(tested, {**table.rows, row.name: self._score(row, tested, tallies)})
            replace_file(self.folder.path / "results.json", write_table(table))
            replace_file(self.folder.path / "results.md", markdown(table))
            self._tell(row, table)
        return table

    def _tested(self) -> list[TestedIntervention]:
        """What the collection has tested, in the order of the problems; kept or not."""
        records = [
            record
            for chunk in range(1, len(self.collector.chunks) + 1)
            for record in self.folder.read_interventions(chunk)
            if record["num_graded"] is not None
        ]
        return [read_intervention(record) for record in records]

    async def _sample(self, row: Row, tested: Sequence[TestedIntervention]) -> dict[str, Tally]:
        """The rollouts of a row, into its file."""
        if row.patch is not None:
            await self._patch(row, tested)
        rollouts, n = self.ports.rollouts, self.config.ablate.n
        asked, interventions = self._asked(row, tested), first_per_problem(tested)
        self.ports.progress.phase(f"sampling: {row.label}", len(asked))
        if row == FROM_INTERVENTION:
            groups = await rollouts.resume_from([without_step(item) for item in interventions], n, SAMPLED_ANEW)
        elif row == WITH_INTERVENTION:
            groups = await rollouts.resume_from(interventions, n, SAMPLED_ANEW)
        else:
            groups = await rollouts.sample(asked, n, Purpose.EVALUATE, 0)
        records = [group_record(group) for group in groups]
        replace_file(self._file(row), "".join(json.dumps(record) + "\n" for record in records))
        self.folder.journal.write("row", name=row.name)
        return {record["problem_id"]: Tally.of(record) for record in records}

    async def _patch(self, row: Row, tested: Sequence[TestedIntervention]) -> None:
        """The base model, patched as the row says, on the engines."""
        settings = patch_config(row, self.config.patch)
        cloned = to_clone(row, tested, self.config.oracle)
        self.ports.progress.phase(f"patching: {row.label}")
        await self.reset(settings)
        if cloned:
            update = await self.ports.learner.patch(patch_batches(cloned, settings, self.config.run.seed))
            if update.not_finite:
                raise RunError(
                    f"patching: {row.label}: loss or gradient of {len(update.not_finite)} updates is not finite, and "
                    "the row would show another patch; lower patch.optimizer.learning_rate, choose another run.folder"
                )
            self.folder.journal.write("patched", row=row.name, num_updates=update.num_updates, **update.metrics)
        await self.ports.weights.publish(PATCHES.index(row) + 1)

    def _tallies(self, row: Row, tested: Sequence[TestedIntervention]) -> dict[str, Tally] | None:
        """Problem id -> what the row's file says; None if it is not whole."""
        path = self._file(row)
        if not path.exists():
            return None
        tallies = {record["problem_id"]: Tally.of(record) for record in read_json_lines(path)}
        return tallies if tallies.keys() == {problem.id for problem in self._asked(row, tested)} else None

    def _asked(self, row: Row, tested: Sequence[TestedIntervention]) -> list[Problem]:
        """The problems that a row has rollouts of."""
        if row not in (FROM_INTERVENTION, WITH_INTERVENTION):
            return list(self.problems)
        return [item.attempt.problem for item in first_per_problem(tested)]

    def _file(self, row: Row) -> Path:
        return self.folder.path / "rows" / f"{row.name}.jsonl"

    def _score(self, row: Row, tested: Sequence[TestedIntervention], tallies: dict[str, Tally]) -> RowScore:
        cloned = len(to_clone(row, tested, self.config.oracle))
        return score_row(row, tallies, [problem.id for problem in self.problems], cloned, self.config.run.seed)

    def _table(self, tested: Sequence[TestedIntervention], rows: dict[str, RowScore]) -> Table:
        count = len(self.problems)
        return Table(self.config.ablate.n, count, count - len(first_per_problem(tested)), rows)

    def _tell(self, row: Row, table: Table) -> None:
        score = table.rows[row.name]
        solved = f"{score.nonzero}/{table.problems} problems with nonzero accuracy"
        self.ports.progress.say(f"{row.label}: {solved}, accuracy {interval(score.accuracy)}")
