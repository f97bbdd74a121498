"""What the end of a learner's rank is called, however Ray calls it."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError

from actors.learner import Learner
from int_ray.errors import LearnerError


@pytest.mark.parametrize("end", [ActorDiedError(), OutOfMemoryError("Task was killed: the node ran low on memory")])
def test_a_rank_that_is_gone_is_a_lost_learner(end: Exception):
    def call(rank: object) -> Any:
        answer: Future[None] = Future()
        answer.set_exception(end)
        return SimpleNamespace(future=lambda: answer)

    learner = Learner([cast(Any, "rank 0")], 5.0, ExitStack())
    with pytest.raises(LearnerError, match="a learner rank died during reinforce"):
        asyncio.run(learner._call("reinforce", call))
