"""`int-ray evaluate`: rollouts of every checkpoint on every problem set, and what they come to. No weights change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from actors.run_folder import replace_file
from int_ray.config import Config
from int_ray.decoding import checkpoints, decoding
from int_ray.evaluation import CheckpointScores, Tally, curve_sizes, score_checkpoint
from int_ray.evaluation_results import Results, interval, markdown, write_results
from int_ray.ports import Progress, Rollouts
from int_ray.result_folder import GroupFile, ResultFolder
from int_ray.side_by_side import all_or_none
from int_ray.types import Problem, Purpose

# The path of a checkpoint -> rollouts with its weights, for as long as the context lasts.
Serve = Callable[[str], AbstractAsyncContextManager[Rollouts]]


class Evaluator:
    """Evaluates one checkpoint after the other; what earlier processes have sampled is not sampled again."""

    def __init__(
        self,
        config: Config,
        sets: Mapping[str, Sequence[Problem]],
        folder: ResultFolder,
        progress: Progress,
        serve: Serve,
    ) -> None:
        self.config = config
        self.sets = sets
        self.folder = folder
        self.progress = progress
        self.serve = serve
        self.ks = curve_sizes(config.evaluate.n, config.evaluate.k)

    async def run(self) -> Results:
        """Evaluate all checkpoints, and write `results.json` and `results.md` after each."""
        results = self._results({})
        for name, path in checkpoints(self.config).items():
            scores = await self._evaluate(name, path)
            results = self._results({**results.checkpoints, name: scores})
            replace_file(self.folder.path / "results.json", write_results(results))
            replace_file(self.folder.path / "results.md", markdown(results))
            self.folder.journal.write("evaluated", checkpoint=name, path=path)
        return results

    def _results(self, scores: Mapping[str, CheckpointScores]) -> Results:
        evaluate = self.config.evaluate
        return Results(evaluate.n, evaluate.k, decoding(self.config), evaluate.decoding, scores)

    async def _evaluate(self, name: str, path: str) -> CheckpointScores:
        files = {set_: self.folder.groups(f"evaluations/{name}/{set_}.jsonl") for set_ in self.sets}
        tallies = {set_: self._sampled_before(files[set_], problems) for set_, problems in self.sets.items()}
        missing = [
            (set_, problem)
            for set_, problems in self.sets.items()
            for problem in problems
            if problem.id not in tallies[set_]
        ]
        done, total = sum(map(len, tallies.values())), sum(map(len, self.sets.values()))
        if done:
            self.progress.say(f"{name}: {done} of {total} problems are finished already")
        if missing:
            async with self.serve(path) as rollouts:
                self.progress.phase(f"evaluating {name}", len(missing))
                await self._sample(missing, rollouts, files, tallies)
        in_order = {set_: [tallies[set_][problem.id] for problem in problems] for set_, problems in self.sets.items()}
        scores = score_checkpoint(path, in_order, self.ks, self.config.run.seed)
        for set_, score in scores.sets.items():
            figures = (f"pass@{k} {interval(score.pass_at[k])}" for k in self.config.evaluate.k)
            self.progress.say(f"{name}, {set_}: {', '.join(figures)}")
        return scores

    def _sampled_before(self, file: GroupFile, problems: Sequence[Problem]) -> dict[str, Tally]:
        """Problem id -> what an earlier process has sampled; nothing of problems that were changed since."""
        asked = {problem.id: (problem.question, problem.answer) for problem in problems}
        return {
            record["problem_id"]: Tally.of(record)
            for record in file.read(self.progress)
            if asked.get(record["problem_id"]) == (record["question"], record["answer"])
        }

    async def _sample(
        self,
        missing: Sequence[tuple[str, Problem]],
        rollouts: Rollouts,
        files: Mapping[str, GroupFile],
        tallies: Mapping[str, dict[str, Tally]],
    ) -> None:
        """All sets side by side, so that the engines are busy to the end. Seeds are the problems' own."""

        async def worker() -> None:
            for set_, problem in queue:
                (group,) = await rollouts.sample([problem], self.config.evaluate.n, Purpose.EVALUATE, 0)
                tallies[set_][problem.id] = Tally.of(files[set_].append(group))

        queue = iter(missing)
        await all_or_none(worker() for _ in range(workers(self.config)))


def workers(config: Config) -> int:
    """Problems that are worked on at a time: as many as the engines take, were each sampled once."""
    return 2 * config.rollout.num_engines * config.rollout.max_num_seqs
