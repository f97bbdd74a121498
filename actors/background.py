"""Work that may hang on a disk or a network: nothing waits for it when the process ends."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


def in_background(
    work: Callable[Arguments, Answer], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Future[Answer]:
    """Call in a daemon thread: asyncio.to_thread's threads are joined by asyncio.run, and by the interpreter's end."""
    answer: Future[Answer] = Future()

    def run() -> None:
        try:
            answer.set_result(work(*arguments, **named))
        except BaseException as error:  # the caller's, whatever it is
            answer.set_exception(error)

    answer.set_running_or_notify_cancel()  # from here on nobody can cancel it
    Thread(target=run, name=getattr(work, "__name__", "work"), daemon=True).start()
    return answer
