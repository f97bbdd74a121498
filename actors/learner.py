"""All learner ranks behind the Learner port. They live and die as one: a dead rank is a restart from a checkpoint."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar, cast

import ray
from ray.actor import ActorHandle, ActorProxy
from ray.exceptions import RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.failures import ACTOR_GONE
from actors.learner_rank import LearnerRank, LearnerSettings
from actors.learner_state import read_receipt, receipt
from actors.local_ray import is_on_loopback
from actors.placement import on_this_machine
from actors.weight_senders import WeightSender
from int_ray.errors import LearnerError
from int_ray.training_config import LearnerConfig
from int_ray.types import Logprobs, TokenIds, Update, UpdateBatches

Answer = TypeVar("Answer")


class Learner:
    """Implements the Learner port. Build it with `await Learner.start(settings)`."""

    def __init__(self, ranks: Sequence[ActorProxy[LearnerRank]], deadline_s: float, undo: ExitStack) -> None:
        self.ranks = ranks
        self.deadline_s = deadline_s
        self.undo = undo  # ends the ranks, and forgets where they met
        self.starts = 1  # of ranks
        self.nodes: frozenset[str] = frozenset()  # hex ids of those that hold a rank
        self.origin: tuple[LearnerSettings, PlacementGroup | None] | None = None  # what `start` was given

    @classmethod
    async def start(cls, settings: LearnerSettings, placement: PlacementGroup | None = None) -> Learner:
        """Spawn one actor per rank and wait until all hold the model; leaves no process behind when that fails.

        `placement` is what `reserve_learner_gpus` gave, and stays the caller's.
        """
        config = settings.learner
        num_gpus = 0.5 if config.weight_sync == "ipc" else 1  # ipc: the engine has the other half
        options = [_options(placement, rank, num_gpus) for rank in range(config.num_ranks)]
        with ExitStack() as undo:
            meeting = None
            if placement is None or is_on_loopback():  # all are on this machine: in a file, so that nothing listens
                meeting = undo.enter_context(tempfile.TemporaryDirectory(prefix="int_ray-"))
            place = f"file://{meeting}/ranks" if meeting else await _free_address(options[0], config)
            spawn = ray.remote(LearnerRank)
            ranks = [spawn.options(**option).remote(settings, rank, place) for rank, option in enumerate(options)]
            for rank in ranks:
                undo.callback(ray.kill, cast(ActorHandle, rank))  # whatever they are doing: they have nothing to save
            learner = cls(ranks, config.deadline_s, undo.pop_all())
        with learner.undo as undo:
            await learner._call("start", lambda rank: rank.__ray_ready__.remote(), config.startup_deadline_s)
            where = asyncio.gather(*(cast(ActorHandle, rank).__ray_call__.remote(_node_of) for rank in ranks))
            learner.nodes = frozenset(await _within(config.startup_deadline_s, where, "no word where the ranks are"))
            learner.undo = undo.pop_all()
        learner.origin = settings, placement
        return learner

    async def restart(self, folder: Path | None) -> None:
        """End whatever is left of the ranks and start new ones, from what `save` wrote; None: from the base model."""
        if self.origin is None:
            raise RuntimeError("only a learner of Learner.start can be started anew")
        self.close()
        new = await Learner.start(*self.origin)
        self.ranks, self.undo, self.nodes = new.ranks, new.undo, new.nodes
        self.starts += 1
        if folder is not None:
            await self.load(folder)

    async def patch(self, batches: UpdateBatches) -> Update:
        """Supervised fine-tuning, one optimizer update per batch (paper, section 4.2)."""
        shared = ray.put(batches)
        return await self._call("patch", lambda rank: rank.patch.remote(shared))

    async def reinforce(self, batches: UpdateBatches) -> Update:
        """GRPO, one optimizer update per batch (paper, section 4.3)."""
        shared = ray.put(batches)
        return await self._call("reinforce", lambda rank: rank.reinforce.remote(shared))

    async def save(self, folder: Path) -> None:
        """Begin to write model (Hugging Face format), reference and optimizer into an existing empty folder.

        Returns when all ranks have copied their share, so that the weights may change again.
        """
        await self._call("save", lambda rank: rank.save.remote(folder))

    async def saved(self, folder: Path) -> None:
        """Wait until all that `save` began is on disk. Raises OSError as the disk did.

        The ranks may be busy training: they leave their word in the folder.
        """
        receipts = [receipt(folder, rank) for rank in range(len(self.ranks))]
        try:
            async with asyncio.timeout(self.deadline_s):
                while not all(path.exists() for path in receipts):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            missing = ", ".join(str(rank) for rank, path in enumerate(receipts) if not path.exists())
            waited = f"{self.deadline_s:g} s (learner.deadline_s)"
            raise TimeoutError(f"waited {waited} for learner rank {missing} to write its part") from None
        for path in receipts:
            read_receipt(path)
        for path in receipts:
            path.unlink()

    async def load(self, folder: Path) -> None:
        """Continue exactly from what `save` wrote; the number of ranks may differ."""
        await self._call("load", lambda rank: rank.load.remote(folder))

    async def reset(self, settings: LearnerSettings) -> None:
        """Begin anew from the base model, with other settings of patch and reinforce, temperature and seed."""
        self.origin = settings, self.origin[1] if self.origin else None
        await self._call("reset", lambda rank: rank.reset.remote(settings))

    async def logprobs(self, token_ids: TokenIds, temperature: float) -> Logprobs:
        """Log-prob of every token given those before it; 0 for the first. [T]"""
        return await self._call("logprobs", lambda rank: rank.logprobs.remote(token_ids, temperature))

    async def logprobs_of(self, sequences: Sequence[TokenIds], temperature: float) -> list[Logprobs]:
        """The same of several sequences."""
        shared = ray.put(sequences)
        return await self._call("logprobs_of", lambda rank: rank.logprobs_of.remote(shared, temperature))

    async def open_weight_sender(self, sender: WeightSender) -> None:
        """Set how `send_weights` brings the weights to the engines."""
        await self._call("open_weight_sender", lambda rank: rank.open_weight_sender.remote(sender))

    async def send_weights(self) -> object:
        """Send the current weights; returns what rank 0's sender returns."""
        return await self._call("send_weights", lambda rank: rank.send_weights.remote())

    def close(self) -> None:
        """End the ranks."""
        self.undo.close()

    async def _call(
        self, what: str, call: Callable[[Any], ray.ObjectRef[Answer]], deadline_s: float | None = None
    ) -> Answer:
        """Call every rank and wait for all; returns rank 0's answer.

        Raises LearnerError when a rank died, failed inside of torch or is late, and anything else that a rank raised.
        """
        deadline_s = deadline_s or self.deadline_s
        answers = [asyncio.wrap_future(call(rank).future()) for rank in self.ranks]
        try:
            done, late = await asyncio.wait(answers, timeout=deadline_s, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for answer in answers:
                answer.cancel()  # nobody will ask for what comes late
        errors = [error for answer in done if (error := answer.exception())]
        for error in errors:
            # What a rank raised is a RayTaskError too, be it that it talked to an actor that died.
            if isinstance(error, ACTOR_GONE) and not isinstance(error, RayTaskError):
                reason = str(error).strip().splitlines()[-1]
                raise LearnerError(f"a learner rank died during {what}: {reason}") from error
            # Half an update cannot be taken back, and ranks that waited for this one have given up as well.
            if isinstance(error, RayTaskError) and _is_of_torch(error.cause):
                reason = str(error.cause).strip().splitlines()[0]
                raise LearnerError(f"a learner rank failed in {what}: {reason}") from error
        if errors:
            raise errors[0]
        if late:
            ranks = ", ".join(str(rank) for rank, answer in enumerate(answers) if answer in late)
            raise LearnerError(f"learner rank {ranks} did not finish {what} within {deadline_s:.0f} s")
        return answers[0].result()


def _node_of(rank: object) -> str:
    return ray.get_runtime_context().get_node_id()


def _is_of_torch(cause: BaseException) -> bool:
    """An error of torch itself, such as a lost connection between ranks or no memory left; not of what it was given.

    Torch raises RuntimeError as it is; the project's own errors are subclasses.
    """
    return type(cause) is RuntimeError or type(cause).__module__.partition(".")[0] == "torch"


async def _free_address(options: dict[str, Any], config: LearnerConfig) -> str:
    """Where the ranks meet over the network: a port of rank 0's node that is free now."""
    find = ray.remote(_free_port_here).options(**options | {"num_gpus": 0})
    return await _within(config.startup_deadline_s, find.remote(), "no process for learner rank 0")


def _free_port_here() -> str:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"tcp://{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


async def _within(deadline_s: float, awaited: Awaitable[Answer], missing: str) -> Answer:
    """Await; raises LearnerError with what is missing after the deadline."""
    try:
        return await asyncio.wait_for(awaited, deadline_s)
    except TimeoutError as error:
        raise LearnerError(f"{missing} (waited {deadline_s:.0f} s)") from error


def _options(placement: PlacementGroup | None, rank: int, num_gpus: float) -> dict[str, Any]:
    """Where a rank runs: on its reserved GPU; without one, on the driver's machine."""
    if placement is None:
        return {"num_cpus": 0, "num_gpus": 0, "scheduling_strategy": on_this_machine()}
    there = PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=rank)
    return {"num_cpus": 0, "num_gpus": num_gpus, "scheduling_strategy": there}
