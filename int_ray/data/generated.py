"""Problems that reasoning-gym generates, and its own scorers as reward.

The id of such a problem says all that it takes to make it again, `reasoning_gym:chain_sum?seed=0&size=64#17`, so that
it can be judged wherever it has gone: into a file, a run folder or a grading process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from int_ray.data.rows import DataError, Row
from int_ray.data_config import GENERATED, Columns

if TYPE_CHECKING:
    from reasoning_gym.dataset import ProceduralDataset

COLUMNS = Columns(id="id", question=("question",), answer=("answer",), solution=None)
DEFAULTS = {"seed": 0, "size": 500}


def generated_rows(path: str, options: Mapping[str, Any]) -> Iterator[tuple[int, Row]]:
    """Rows with their numbers from 1: id, question, answer, and what the task says about itself. Raises DataError."""
    settings = urlencode({name: json.dumps(value) for name, value in sorted({**DEFAULTS, **options}.items())})
    task = f"{path}?{settings}"
    try:
        dataset = _dataset(task)
        for index in range(len(dataset)):
            entry = dataset[index]
            named = {"id": f"{task}#{index}", "question": entry["question"], "answer": entry["answer"]}
            yield index + 1, {**entry["metadata"], **named}
    except (TypeError, ValueError, AssertionError) as error:
        raise DataError(f"{path} cannot be generated ({error}); check the name of the task and its options") from None


def is_generated_id(problem_id: str) -> bool:
    """Whether reasoning-gym can judge answers to the problem."""
    return problem_id.startswith(GENERATED) and "?" in problem_id and problem_id.rpartition("#")[2].isdecimal()


def gym_match(problem_id: str, answer: str) -> bool:
    """Whether the task gives an answer its full score, 1.

    May take long for hostile answers: call it in a process that can be killed.
    """
    task, _, index = problem_id.rpartition("#")
    dataset = _dataset(task)
    return dataset.score_answer(answer, dataset[int(index)]) == 1


@lru_cache(maxsize=16)
def _dataset(task: str) -> ProceduralDataset:
    import reasoning_gym

    name, _, settings = task.removeprefix(GENERATED).partition("?")
    return reasoning_gym.create_dataset(name, **{key: json.loads(value) for key, value in parse_qsl(settings)})
