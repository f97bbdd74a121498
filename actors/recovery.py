"""What a run can be continued from: checkpoints written beside the training, the learner's end, a request to stop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from actors.checkpoint import CheckpointError, Checkpoints, read_state, verify
from actors.placement import patience
from actors.run_folder import RunFolder
from actors.storage import Storage, open_storage
from int_ray.background import BACKGROUND
from int_ray.config import Config
from int_ray.errors import LearnerError, RunError, Stopped
from int_ray.ports import Learner, Progress
from int_ray.types import RunState

Answer = TypeVar("Answer")


class LearnerLost(RunError):
    """The learner failed more often than learner.restarts allows."""


class Recovery:
    """Saves, and goes back to what was saved."""

    def __init__(self, config: Config, learner: Learner, folder: RunFolder, progress: Progress) -> None:
        self.config = config
        self.learner = learner
        self.folder = folder
        self.progress = progress
        score = None if config.run.keep_best is None else self._score
        self.checkpoints = Checkpoints(folder.path / "checkpoints", config.run.keep_checkpoints, score)
        self.storage = None if config.run.storage is None else open_storage(config.run.storage)
        self.last: Path | None = None  # newest checkpoint of this run; None: the base model
        self.saved: RunState | None = None  # what the newest checkpoint in the run folder holds, as far as it is known
        self.restarts = 0
        self.lost: LearnerError | None = None  # why the learner has no weights of any iteration; None: it has
        self._writing: asyncio.Task[None] | None = None  # the learner's part of what follows
        self._saving: asyncio.Task[None] | None = None
        self._upload: asyncio.Task[None] | None = None
        self._sending: str | None = None  # name of the checkpoint that is on its way to the storage

    def begin(self, checkpoint: Path | None) -> None:
        """State and weights come from this checkpoint; None: from the base model."""
        self.last = checkpoint
        # One that `--resume auto` would not find is no reason not to save that state here.
        newest = [path.resolve() for path in self.checkpoints.complete_folders()[-1:]]
        if checkpoint is not None and newest == [checkpoint.resolve()]:
            self.saved = read_state(checkpoint)

    async def save(self, state: RunState) -> None:
        """Take a snapshot of the learner; it is written while the training goes on, after what is being written yet.

        A disk that fails costs the checkpoint, not the run. Raises LearnerError.
        """
        await self.settle()
        if self.saved == state:
            return
        self.progress.phase("saving")
        try:
            partial = self.checkpoints.begin(state)
            self.folder.groups.keep(state.policy_version)
            await self.learner.save(partial)
        except OSError as error:
            self._failed(state, error)
        else:
            self._writing = asyncio.create_task(self.learner.saved(partial))
            self._saving = asyncio.create_task(self._finish(state, partial, self._writing))

    async def settle(self) -> None:
        """Wait for the checkpoint that is being written and sent. Raises what is no fault of the disk."""
        await self._settle_on_disk()
        if self._upload is not None:
            await self._ended(self._upload)
            self._upload = None

    async def finish(self, state: RunState) -> None:
        """Settle; where the last checkpoint could not be written, try once more.

        Raises LearnerError if ranks died over it, RunError if it is not there in the end: what came last is lost.
        """
        await self.settle()
        await self.save(state)
        await self.settle()
        if self.saved != state:
            raise RunError(f"the last checkpoint could not be written: make room for it and resume; {self._newest()}")

    async def _settle_on_disk(self) -> None:
        if self._saving is not None:
            await self._ended(self._saving)
            self._saving = None

    async def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.done():
            self.progress.phase("saving")
        await asyncio.wait({task})  # whoever is cancelled in here leaves it alone
        task.result()

    async def _finish(self, state: RunState, partial: Path, writing: asyncio.Task[None]) -> None:
        await asyncio.wait({writing})
        if writing.cancelled():
            self._failed(state, OSError("the learner was lost while it wrote"))
            return
        try:
            writing.result()
            path = await self._beside(self.checkpoints.complete, partial, state)
        except OSError as error:  # TimeoutError is one
            self._failed(state, error)
            return
        self.last, self.saved = path, state
        self.folder.groups.keep_only(state.policy_version)
        self.folder.journal.write("checkpoint", iteration=state.iteration, path=path.name)
        if self.storage is not None:
            self._upload = asyncio.create_task(self._send(self.storage, path, state))

    @staticmethod
    def _beside(work: Callable[..., Answer], *arguments: object) -> asyncio.Future[Answer]:
        """In a thread that nothing waits for at the end."""
        return asyncio.get_running_loop().run_in_executor(BACKGROUND, work, *arguments)

    async def _send(self, storage: Storage, path: Path, state: RunState) -> None:
        self._sending, deadline = path.name, self.config.run.storage_deadline_s
        sending = self._beside(storage.send, self.folder.path, path, self.checkpoints.pruned)
        # Every store has errors of its own; the run has its checkpoint, whatever they are.
        (error,) = await asyncio.gather(asyncio.wait_for(sending, deadline), return_exceptions=True)
        if error is not None:
            reason = str(error) or f"it took longer than {deadline:g} s (run.storage_deadline_s)"
            self.progress.say(f"{path.name} could not be sent to {self.config.run.storage}: {reason}")
            self.folder.journal.write("checkpoint_not_sent", iteration=state.iteration, reason=reason)
        self._sending = None

    def _score(self, iteration: int) -> float:
        """The figure run.keep_best at the end of an iteration; minus infinity without an evaluation."""
        name, figure = str(self.config.run.keep_best).rsplit("/", 1)
        figures = self.folder.scores().get(iteration, {}).get(name, {"figures": {}})["figures"]
        return figures[figure]["mean"] if figure in figures else -math.inf

    def _failed(self, state: RunState, error: OSError) -> None:
        self.checkpoints.clear_partial()
        before = "there is none before it" if self.last is None else f"{self.last.name} stays the newest"
        self.progress.say(f"The checkpoint of iteration {state.iteration} could not be written ({error}); {before}")
        self.folder.journal.write("checkpoint_failed", iteration=state.iteration, reason=str(error))

    async def rebuild(self, error: LearnerError) -> RunState:
        """New ranks with the weights of the newest good checkpoint; returns its state.

        Raises LearnerLost, and CheckpointError where there are checkpoints and none is good.
        """
        self.lost = error
        self._give_up_writing()
        await self._settle_on_disk()  # sending goes on beside
        while True:
            self.restarts += 1
            if self.restarts > self.config.learner.restarts:
                await self.settle()  # nothing follows that the sending would hold up
                raise LearnerLost(f"{error} (learner.restarts = {self.config.learner.restarts} are spent)") from error
            state = await self._go_back()
            origin = self.config.model.path if self.last is None else self.last.name
            self.progress.say(f"The learner is lost ({error}); going back to iteration {state.iteration}, {origin}")
            self.folder.journal.write("learner_rebuilt", iteration=state.iteration, origin=origin, reason=str(error))
            self.progress.phase("rebuilding the learner")
            try:
                async with patience(self.progress, "the learner to start anew", self.config.learner.startup_deadline_s):
                    await self.learner.restart(self.last)
            except LearnerError as another:
                error = another
            else:
                self.lost = None
                return state

    async def _go_back(self) -> RunState:
        """State of the last checkpoint, or where that one is damaged of the newest good one, now the last."""
        if self.last is None:
            return RunState()
        try:
            return await self._beside(verify, self.last)
        except CheckpointError as error:
            if self.last.parent.resolve() != self.checkpoints.folder.resolve():  # of --resume PATH, another run's
                raise
            good, state, mistakes = await self._beside(self.checkpoints.latest)
            if good is None:
                raise
            for mistake in mistakes or [error]:
                self.progress.say(f"Passed over, and renamed to .corrupt: {mistake}")
            self.checkpoints.set_aside(good)
            self.last, self.saved = good, state
            return state

    def _give_up_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()  # unless all is written: nobody goes on with it

    async def stop(self, training: asyncio.Task[Any], boundary: RunState, *, weights_changed: bool) -> None:
        """Save what can be saved within run.stop_deadline_s. Raises Stopped, or leaves it to `training`."""
        deadline = self.config.run.stop_deadline_s
        self.progress.say(f"Asked to stop: saving, for {deadline:g} s at most")
        try:
            async with asyncio.timeout(deadline):
                if weights_changed and self.lost is None:  # no checkpoint could hold half an iteration: it goes on
                    await asyncio.wait({training})
                    return
                training.cancel()
                await asyncio.wait({training})
                if self.lost is not None:
                    await self.leave_without(self.lost)
                await self.save(boundary)
                await self.leave(boundary)
        except (TimeoutError, LearnerError) as error:
            what = f"send {self._sending} to {self.config.run.storage}" if self._sending else "save"
            late = f"could not {what} within {deadline:g} s (run.stop_deadline_s)"
            reason = str(error) if isinstance(error, LearnerError) else late
            raise Stopped(f"asked to stop, but {reason}; {self._newest()}") from None

    async def leave(self, state: RunState) -> NoReturn:
        """Everything was saved, or cannot be."""
        await self.settle()
        raise Stopped(f"asked to stop after iteration {state.iteration}")

    async def leave_without(self, error: LearnerError) -> NoReturn:
        """The learner is lost: what was saved is all that can be."""
        self._give_up_writing()
        await self.settle()
        raise Stopped(f"asked to stop, but {error}; {self._newest()}")

    def _newest(self) -> str:
        return "there is no checkpoint" if self.last is None else f"the last checkpoint is {self.last}"
