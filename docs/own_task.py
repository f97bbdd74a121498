"""Train on your own problems, with your own reward and your own oracle, from Python.

    python docs/own_task.py runs/own_task

The pieces: problems are plain `Problem`s; the reward is a module-level function `(problem, response text) -> bool` that
runs in a killable process; the oracle is any object with `propose(attempt) -> OracleReply`, async if it calls an API.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
from pathlib import Path

from rich.console import Console

from actors import assemble
from actors.run_folder import RunFolder
from int_ray.config_file import load_config
from int_ray.preflight import load_tokenizer
from int_ray.types import Attempt, OracleReply, Problem, ProblemSets, Proposal, RunState
from launch.console import ConsoleProgress

STEP = re.compile(r"(\d+)([+-]\d)=(\d+)")


def my_problems(count: int) -> list[Problem]:
    """Calculations of three steps modulo 100."""
    draw = random.Random(7)
    problems = []
    for index in range(count):
        start, terms = draw.randrange(100), [draw.choice("+-") + str(draw.randrange(2, 10)) for _ in range(3)]
        answer = (start + sum(map(int, terms))) % 100
        problems.append(Problem(f"own-{index}", f"{start}{''.join(terms)}=?", str(answer)))
    return problems


def my_reward(problem: Problem, response: str) -> bool:
    """Right if the last number of the response is the answer, boxed or not."""
    numbers = re.findall(r"\d+", response)
    return bool(numbers) and numbers[-1] == problem.answer


class Recalculate:
    """An oracle that needs no reference solution: it redoes every step of the attempt."""

    def propose(self, attempt: Attempt) -> OracleReply:
        """Correct the first step whose result is wrong."""
        for location, step in enumerate(attempt.steps, start=1):
            match = STEP.fullmatch(step.text.strip())
            if match is None:
                continue
            value, term, result = match.groups()
            right = (int(value) + int(term)) % 100
            if int(result) != right:
                return OracleReply((Proposal(location, f"{value}{term}={right}"),))
        return OracleReply(failure="no_error")


async def main(folder: Path) -> None:
    """A short run: eight problems, three iterations, an intervention as soon as one iteration stalls."""
    config = load_config(
        "configs/quickstart.yaml",
        [
            f"run.folder={folder}",
            "run.iterations=3",
            "problems.mixed=null",
            "rollout.mixed=0",
            "rollout.batch_size=8",
            "rollout.n=8",
            "reinforce.mini_batch_size=8",
            "trigger.patience=1",
            "trigger.threshold=0.1",
            "trigger.hysteresis=0.0",
            "evaluate.sets={}",
        ],
    )
    run_folder = RunFolder(folder)
    with ConsoleProgress(Console()) as progress:
        async with assemble(
            config,
            load_tokenizer(config.model),
            ProblemSets(my_problems(16)),
            run_folder,
            progress,
            oracle=Recalculate(),
            reward=my_reward,
        ) as coordinator:
            state = await coordinator.run(RunState())
    run_folder.close()
    print(f"{state.iteration} iterations, {state.intervention_rounds} intervention rounds; see {folder}")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
