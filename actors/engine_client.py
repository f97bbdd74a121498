"""A rollout engine as its callers see it: what goes in and comes out, and the same for one that is a Ray actor."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from actors.failures import EngineCallError, EngineDiedError, Kind, kind_of
from int_ray.types import Completion, Logprobs, TokenIds

Part = Literal["weights", "kv_cache"]  # of an engine's GPU memory


def cause_of(error: RayError) -> str:
    """What happened on the other side of a failed call, in one line."""
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {str(error.cause).partition(chr(10))[0]}"
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request is decoded."""

    n: int
    max_tokens: int
    temperature: float
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    seed: int = 0  # of sample 0; sample i has seed + i


@dataclass(frozen=True, slots=True, eq=False)
class EngineGroup:
    """The `n` samples of one request, flat, so that a group is one message with few buffers; N tokens in all."""

    token_ids: TokenIds  # [N]
    rollout_logprobs: Logprobs  # [N]
    offsets: NDArray[np.int64]  # [n + 1], sample i is offsets[i]:offsets[i + 1]
    texts: tuple[str, ...]  # without special tokens
    finished: tuple[bool, ...]
    seed: int  # of sample 0; sample i has seed + i
    policy_version: int  # when the request came in
    # Per later version, how many tokens each sample had when it came in: [n], at least the length for one that had
    # ended. 0: the sample had not begun, and is of that version or a later one altogether.
    switches: tuple[NDArray[np.int64], ...] = ()

    def policy_versions(self) -> list[int]:
        """Of each sample's first token."""
        late = sum((count == 0 for count in self.switches), start=np.zeros(len(self.texts), np.int64))
        return (self.policy_version + late).tolist()

    def completions(self) -> list[Completion]:
        """The samples, one by one."""
        return [
            Completion(
                self.token_ids[start:end],
                self.rollout_logprobs[start:end],
                text,
                finished,
                self.seed + index,
                tuple(int(count[index]) for count in self.switches if 0 < count[index] < end - start),
            )
            for index, ((start, end), text, finished) in enumerate(
                zip(itertools.pairwise(self.offsets), self.texts, self.finished, strict=True)
            )
        ]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an actor runs."""

    node_id: str  # hex, as Ray has it
    host: str
    pid: int

    @classmethod
    def here(cls) -> Place:
        """Of the calling process."""
        return cls(ray.get_runtime_context().get_node_id(), socket.gethostname(), os.getpid())

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


class Engine(Protocol):
    """One rollout engine. Every call may raise EngineDiedError or EngineCallError; none has a deadline of its own.

    Cancelling an awaited call also ends the work that it asked for.
    """

    @property
    def place(self) -> Place | None:
        """Where it runs, if that is known."""
        ...

    async def sample_group(self, prompt_ids: TokenIds, prefix_ids: TokenIds, sampling: Sampling) -> EngineGroup:
        """Continuations of prompt + prefix; empty ones where the context has no room left."""
        ...

    async def canary(self, prompt_ids: TokenIds, seed: int) -> EngineGroup:
        """One short sample at the sampling temperature with nothing masked, as the learner can recompute it."""
        ...

    async def pause(self) -> None:
        """Stop decoding and forget what the weights have cached: new ones are coming. Requests wait."""
        ...

    async def resume(self, policy_version: int) -> None:
        """Stamp the new version and decode on."""
        ...

    async def sleep(self) -> None:
        """Give the GPU memory back; nothing is decoded until all parts are awake."""
        ...

    async def wake(self, part: Part) -> None:
        """Take a part of the memory again; weights are what they were, the cache is empty."""
        ...

    async def probe(self) -> None:
        """Return at the first sign of life: a token, or the end of a request. At once where it is to stand still."""
        ...

    async def close(self) -> None:
        """End in good order; `kill` comes next."""
        ...

    def kill(self) -> None:
        """End it, whatever it is doing; nothing where it has ended."""
        ...


class RemoteEngine:
    """An Engine that is a Ray actor. `placement` holds its GPUs and goes with it."""

    def __init__(self, handle: ActorHandle, placement: PlacementGroup | None = None) -> None:
        self.handle = handle
        self.placement = placement
        self.place: Place | None = None

    async def start(self) -> None:
        """Load the model."""
        await self._call("start")
        self.place = await self._call("__ray_call__", lambda _: Place.here())

    async def sample_group(self, prompt_ids: TokenIds, prefix_ids: TokenIds, sampling: Sampling) -> EngineGroup:
        """See Engine."""
        return await self._call("sample_group", prompt_ids, prefix_ids, sampling)

    async def canary(self, prompt_ids: TokenIds, seed: int) -> EngineGroup:
        """See Engine."""
        return await self._call("canary", prompt_ids, seed)

    async def pause(self) -> None:
        """See Engine."""
        return await self._call("pause")

    async def resume(self, policy_version: int) -> None:
        """See Engine."""
        return await self._call("resume", policy_version)

    async def sleep(self) -> None:
        """See Engine."""
        return await self._call("sleep")

    async def wake(self, part: Part) -> None:
        """See Engine."""
        return await self._call("wake", part)

    async def probe(self) -> None:
        """See Engine."""
        return await self._call("probe")

    async def close(self) -> None:
        """End vLLM's processes; `kill` comes next."""
        return await self._call("close")

    def kill(self) -> None:
        """End the actor, whatever it is doing, and whatever is left of vLLM with it; give its GPUs back."""
        ray.kill(self.handle)
        if self.placement is not None:
            remove_placement_group(self.placement)
            self.placement = None

    async def _call(self, method: str, *arguments: object) -> Any:
        request = getattr(self.handle, method).remote(*arguments)
        try:
            return await request
        except asyncio.CancelledError:
            ray.cancel(request)  # its tokens would be decoded for nobody
            raise
        except RayError as error:
            failure = EngineDiedError if kind_of(error) is Kind.INFRA else EngineCallError
            raise failure(cause_of(error)) from error
