"""Collecting alone: Algorithm 1, lines 1-10, for all training problems. No weights change.

Works through the problems in chunks, so that a collection that was ended anyhow goes on where it stood. A chunk's files
in the run folder bear its number, from 1, in the place of an iteration's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from actors.run_folder import RunFolder
from int_ray.config import Config
from int_ray.errors import Resumable
from int_ray.intervention_files import file_row, provenance, write_files
from int_ray.intervention_round import InterventionRound, RoundResult
from int_ray.journal import read_json_lines
from int_ray.oracles.chat import OUTAGES, RETRIED
from int_ray.ports import CollectingPorts
from int_ray.prompts import decode_ids
from int_ray.types import Problem, Purpose, RolloutGroup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROUND = 1  # in the seeds of every chunk, so that the samples are those of schedule = paper, whatever the chunks
COLLECTED = "collected"  # journal event of a chunk; the last one says how it stands


@dataclass(frozen=True)
class Collected:
    """What all chunks so far came to."""

    sampled: int = 0  # problems
    unsolved: int = 0
    attempts: int = 0
    tested: int = 0
    kept: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by reason


class Collector:
    """Collects interventions; one call of `run` per process."""

    def __init__(
        self,
        config: Config,
        problems: Sequence[Problem],
        ports: CollectingPorts,
        intervention_round: InterventionRound,
        folder: RunFolder,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.config = config
        size = config.rollout.batch_size
        self.chunks = [problems[start : start + size] for start in range(0, len(problems), size)]
        self.ports = ports
        self.round = intervention_round
        self.folder = folder
        self.tokenizer = tokenizer
        self.origin = provenance(config, tokenizer)

    async def run(self) -> Collected:
        """Collect what earlier processes have not, and write `interventions.jsonl` and `.parquet`.

        Raises Resumable if the oracle was not to be reached about some attempts; the files hold what there is by then.
        """
        unanswered = await self._collect()
        self._write_files()
        if unanswered is not None:
            raise Resumable(f"the oracle cannot be asked ({unanswered}); the files hold what was collected so far")
        return self.collected()

    def collected(self) -> Collected:
        """Sums over the chunks that the journal has, earlier processes included."""
        events = list(self._events().values())

        def total(name: str) -> int:
            return sum(event[name] for event in events)

        return Collected(
            sampled=total("sampled"),
            unsolved=total("intervention/problems"),
            attempts=total("intervention/attempts"),
            tested=total("intervention/tested"),
            kept=total("intervention/kept"),
            refused=sum((Counter(event["refused"]) for event in events), Counter()),
        )

    async def _collect(self) -> str | None:
        """All chunks in turn; why some attempts are still without an answer, None if none is.

        An outage ends this, unless there is a fallback, which may know about the other chunks.
        """
        finished = {chunk for chunk, event in self._events().items() if event["unanswered"] is None}
        if finished:
            self.ports.progress.say(f"{len(finished)} of {len(self.chunks)} chunks of problems are finished already")
        first: str | None = None
        for chunk, problems in enumerate(self.chunks, start=1):
            if chunk in finished:
                continue
            result = await self._chunk(chunk, problems)
            unanswered = self._unanswered(result)
            self._finish(chunk, problems, result, unanswered)
            first = first or unanswered
            if unanswered in OUTAGES and not self.config.oracle.fallback:
                return unanswered
        return first

    def _unanswered(self, result: RoundResult) -> str | None:
        """Why a chunk has to be asked about again, an outage first; None if it is finished.

        With a fallback an outage counts only if nothing at all got through: a spent budget lasts, and wherever the
        fallback has nothing to say the collection would never finish.
        """
        reasons = [refusal.reason for refusal in result.refused]
        outage = next((reason for reason in reasons if reason in OUTAGES), None)
        if self.config.oracle.fallback:
            outage = result.outage
        return outage or next((reason for reason in reasons if reason in RETRIED), None)

    async def _chunk(self, chunk: int, problems: Sequence[Problem]) -> RoundResult:
        """Sample, keep the unsolved problems, ask, test."""
        self.ports.progress.say(f"Chunk {chunk} of {len(self.chunks)}: {len(problems)} problems")
        groups = self._sampled_before(chunk, problems)
        if groups is None:
            self.ports.progress.phase("sampling", len(problems))
            groups = await self.ports.rollouts.sample(problems, self.config.rollout.n, Purpose.TRAIN, ROUND)
            self.folder.rollouts(chunk, groups)
        return await self.round.run([group for group in groups if group.is_unsolved], ROUND)

    def _sampled_before(self, chunk: int, problems: Sequence[Problem]) -> list[RolloutGroup] | None:
        """The groups of a chunk that an earlier process has sampled; None if there are none."""
        groups = self.folder.read_rollouts(chunk, problems)
        return groups if [group.problem.id for group in groups] == [problem.id for problem in problems] else None

    def _finish(self, chunk: int, problems: Sequence[Problem], result: RoundResult, unanswered: str | None) -> None:
        self.folder.interventions(chunk, result)
        self.folder.journal.write(
            COLLECTED,
            chunk=chunk,
            sampled=len(problems),
            config_hash=self.origin.config_hash,
            unanswered=unanswered,  # the chunk is asked about again when the collection goes on
            refused=Counter(refusal.reason for refusal in result.refused),
            **result.metrics(),
        )
        self.ports.progress.say(result.story())

    def _events(self) -> dict[int, dict[str, Any]]:
        """Chunk -> its last event."""
        events = read_json_lines(self.folder.path / "journal.jsonl")
        return {event["chunk"]: event for event in events if event["event"] == COLLECTED}

    def _write_files(self) -> None:
        """Every kept intervention of every chunk, with the hash of the config that it was collected with."""
        decode = partial(decode_ids, self.tokenizer)
        rows = [
            file_row(record, replace(self.origin, config_hash=event["config_hash"]), decode)
            for chunk, event in sorted(self._events().items())
            for record in self.folder.read_interventions(chunk)
            if record["kept"]
        ]
        write_files(self.folder.path, rows)
