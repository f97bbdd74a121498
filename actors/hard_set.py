"""`int-ray hard-set`: samples every problem until it is solved or hard, asks the oracle, and splits what is hard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from actors.evaluator import workers
from int_ray.config import Config
from int_ray.errors import Resumable
from int_ray.evaluation import Tally
from int_ray.hard_set import HardSet, Verdict, describe, split, verdict_of, wave_sizes
from int_ray.oracles.chat import LASTING, OUTAGES, Fault
from int_ray.oracles.solver import Solver, as_response
from int_ray.ports import Grader, Progress, Rollouts
from int_ray.result_folder import ResultFolder
from int_ray.side_by_side import all_or_none
from int_ray.types import Outcome, Problem, Purpose

TOLD = 100  # problems after which a line says how far it is, for those who see no progress bar
Serve = Callable[[], AbstractAsyncContextManager[Rollouts]]


class HardSetSelector:
    """Selects hard problems; what earlier processes have sampled is not sampled again."""

    def __init__(
        self,
        config: Config,
        problems: Sequence[Problem],
        folder: ResultFolder,
        progress: Progress,
        serve: Serve,
        grader: Grader,
        solver: Solver | None,
    ) -> None:
        """`solver`: only the hard problems that it solves are kept."""
        self.config = config
        self.problems = problems
        self.folder = folder
        self.progress = progress
        self.serve = serve
        self.grader = grader
        self.solver = solver
        self.waves = wave_sizes(config.hard_set.n)
        self.file = folder.groups("rollouts.jsonl")

    async def run(self) -> tuple[HardSet, list[Problem], list[Problem]]:
        """Statistics, and the hard problems for training and for testing, in the order of the source.

        Raises Resumable if the oracle gave no final answer about some problems.
        """
        sampled = self._sampled_before()
        missing = [problem for problem in self.problems if not self._is_finished(sampled[problem.id])]
        if len(missing) < len(self.problems):
            done = len(self.problems) - len(missing)
            self.progress.say(f"{done} of {len(self.problems)} problems are finished already")
        if missing:
            async with self.serve() as rollouts:
                self.progress.phase("sampling, wave by wave", len(missing) * len(self.waves))
                await self._sample(missing, sampled, rollouts)
        hard = [problem for problem in self.problems if verdict_of(sampled[problem.id]) is Verdict.HARD]
        asked = None
        if self.solver is not None:
            hard, asked = await self._solvable(hard, self.solver)
        train, test = split(hard, self.config.hard_set.test, self.config.run.seed)
        statistics = describe(sampled.values(), self.config.hard_set.n, len(train), len(test), asked)
        return statistics, train, test

    def _is_finished(self, waves: Sequence[Tally]) -> bool:
        return len(waves) == len(self.waves) or any(wave.correct for wave in waves)

    def _sampled_before(self) -> dict[str, list[Tally]]:
        """Problem id -> the waves that earlier processes have sampled; none of problems that were changed since."""
        asked = {problem.id: (problem.question, problem.answer) for problem in self.problems}
        sampled: dict[str, list[Tally]] = {problem_id: [] for problem_id in asked}
        for record in self.file.read(self.progress):
            waves = sampled.get(record["problem_id"])
            same = asked.get(record["problem_id"]) == (record["question"], record["answer"])
            if waves is not None and same and record["wave"] == len(waves):
                waves.append(Tally.of(record))
        return sampled

    async def _sample(self, missing: Sequence[Problem], sampled: dict[str, list[Tally]], rollouts: Rollouts) -> None:
        """Every problem for itself, wave by wave; the seeds of a wave are the problem's own."""

        async def worker() -> None:
            for problem in queue:
                waves = sampled[problem.id]
                self.progress.advance(len(waves))
                while not self._is_finished(waves):
                    (group,) = await rollouts.sample([problem], self.waves[len(waves)], Purpose.SELECT, len(waves))
                    waves.append(Tally.of(self.file.append(group, wave=len(waves))))
                self.progress.advance(len(self.waves) - len(waves))
                found[verdict_of(waves)] += 1
                if found.total() % TOLD == 0:
                    self.progress.say(f"{found.total()} of {len(missing)} problems: {found[Verdict.HARD]} hard")

        found: Counter[Verdict] = Counter()
        queue = iter(missing)
        await all_or_none(worker() for _ in range(workers(self.config)))

    async def _solvable(self, hard: Sequence[Problem], solver: Solver) -> tuple[list[Problem], Counter[str]]:
        """Those that the oracle solves, and what came of asking it."""
        self.progress.phase("asking the oracle for solutions", len(hard))
        found = await all_or_none(self._solution(problem, solver) for problem in hard)
        faults = (item for item in found if isinstance(item, Fault))
        unanswered = next((fault for fault in faults if fault.is_retried or fault.name in OUTAGES | LASTING), None)
        if unanswered is not None:
            raise Resumable(f"the oracle cannot be asked ({unanswered.name}); what was sampled and answered is kept")
        solved = [problem for problem, item in zip(hard, found, strict=True) if item is Outcome.CORRECT]
        return solved, Counter(item.name if isinstance(item, Fault) else f"answer {item}" for item in found)

    async def _solution(self, problem: Problem, solver: Solver) -> Outcome | Fault:
        """What the grader says of the oracle's solution; or why there is none."""
        answer = await solver.solve(problem)
        self.progress.advance()
        if isinstance(answer, Fault):
            return answer
        (outcome,) = await self.grader.grade(problem, [as_response(answer.text)])
        return outcome
