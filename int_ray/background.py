"""Work that may hang on a disk or a network: nothing waits for it when the process ends."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from threading import Thread
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


class Background(Executor):
    """A daemon thread for each call: a pool's threads are joined by asyncio.run, and by the interpreter's end."""

    def submit(
        self, fn: Callable[Arguments, Answer], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Answer]:
        """See Executor; cannot be cancelled."""
        answer: Future[Answer] = Future()

        def run() -> None:
            try:
                answer.set_result(fn(*args, **kwargs))
            except BaseException as error:  # the caller's, whatever it is
                answer.set_exception(error)

        answer.set_running_or_notify_cancel()
        Thread(target=run, name=getattr(fn, "__name__", "work"), daemon=True).start()
        return answer


BACKGROUND = Background()
