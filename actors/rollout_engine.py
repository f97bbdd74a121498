"""One vLLM AsyncLLM in an actor of its own: samples groups, resumes from prefixes, takes new weights."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from actors.engine_client import EngineDiedError, EngineGroup, Part, Sampling
from actors.vllm_settings import engine_arguments, engine_environment, vllm_parameters
from int_ray.config import ModelConfig, RolloutConfig
from int_ray.processes import end_as_a_family
from int_ray.training_config import LearnerConfig
from int_ray.types import TokenIds

if TYPE_CHECKING:
    from vllm.logprobs import FlatLogprobs
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.v1.engine.output_processor import RequestOutputCollector

CANARY_PRIORITY = -1  # before every rollout
BEAT_S = 0.1  # between two looks for a sign of life
DRAIN_DEADLINE_S = 60.0  # for the tokens of one decoding step to be counted


@dataclass
class Running:
    """A request that vLLM decodes."""

    n: int
    version: int  # of the policy, when it came in
    switches: list[NDArray[np.int64]] = field(default_factory=list)  # see EngineGroup


class RolloutEngine:
    """A vLLM engine that speaks token ids. Spawned as an actor; `start` first, `close` last."""

    def __init__(self, model: ModelConfig, rollout: RolloutConfig, learner: LearnerConfig) -> None:
        self.model = model
        self.rollout = rollout
        self.learner = learner
        self._policy_version = 0
        self._running: dict[str, Running] = {}
        self._admission = asyncio.Lock()  # held while a request enters, and from pause to resume
        self._is_paused = False
        self._stands_still = False  # paused or asleep: no token is due
        self._ended = 0  # requests so far
        self._request_ids = map(str, itertools.count())

    async def start(self) -> None:
        """Load the model and be ready to sample; 20-40 s."""
        end_as_a_family()
        configs = self.model, self.rollout, self.learner
        os.environ |= engine_environment(*configs)
        from transformers import AutoTokenizer
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._tokenizer = AutoTokenizer.from_pretrained(self.model.path, revision=self.model.revision)
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(*configs)))

    async def sample_group(self, prompt_ids: TokenIds, prefix_ids: TokenIds, sampling: Sampling) -> EngineGroup:
        """Continuations of prompt + prefix; empty ones where the context has no room left. Raises EngineDiedError."""
        room = min(sampling.max_tokens, self.model.max_length - len(prompt_ids) - len(prefix_ids))
        if room < 1:
            n, nothing = sampling.n, (np.array([], np.int32), np.array([], np.float32))
            offsets = np.zeros(n + 1, np.int64)
            return EngineGroup(*nothing, offsets, ("",) * n, (False,) * n, sampling.seed, self._policy_version)
        return await self._sample([*prompt_ids.tolist(), *prefix_ids.tolist()], replace(sampling, max_tokens=room))

    async def canary(self, prompt_ids: TokenIds, seed: int) -> EngineGroup:
        """One sample of 16 tokens at the sampling temperature with nothing masked, as the learner can recompute it."""
        sampling = Sampling(n=1, max_tokens=16, temperature=self.rollout.temperature, seed=seed)
        return await self._sample(prompt_ids.tolist(), sampling, CANARY_PRIORITY)

    async def _sample(self, token_ids: list[int], sampling: Sampling, priority: int = 0) -> EngineGroup:
        request_id = next(self._request_ids)
        try:
            with death_as_error():
                async with self._admission:
                    running = self._running[request_id] = Running(sampling.n, self._policy_version)
                    collector = await self._add(request_id, token_ids, sampling, priority)
                outputs = cast("RequestOutput", await collector.get()).outputs
        except asyncio.CancelledError:
            await self._llm.abort(request_id)  # its tokens would be decoded for nobody
            raise
        finally:
            self._running.pop(request_id, None)
        self._ended += 1
        if unexpected := {output.finish_reason for output in outputs} - {"stop", "length"}:
            raise RuntimeError(f"vLLM ended a sample for another reason than its end or its limit: {unexpected}")
        return self._pack(outputs, sampling.seed, running)

    async def _add(
        self, request_id: str, token_ids: list[int], sampling: Sampling, priority: int
    ) -> RequestOutputCollector:
        from vllm.inputs import tokens_input

        priority = priority if self.rollout.staleness else 0  # without staleness nothing else is decoded
        return await self._llm.add_request(
            request_id, tokens_input(token_ids), vllm_parameters(sampling), priority=priority
        )

    def _pack(self, outputs: Sequence[CompletionOutput], seed: int, running: Running) -> EngineGroup:
        ids = [np.asarray(output.token_ids, np.int32) for output in outputs]
        logprobs = [np.asarray(cast("FlatLogprobs", output.logprobs).logprobs, np.float32) for output in outputs]
        return EngineGroup(
            np.concatenate(ids),
            np.concatenate(logprobs),
            np.cumsum([0, *map(len, ids)]),
            tuple(self._tokenizer.batch_decode(ids, skip_special_tokens=True)),
            tuple(output.finish_reason == "stop" for output in outputs),
            seed,
            running.version,
            tuple(running.switches),
        )

    async def probe(self) -> None:
        """Return once a token is decoded, a request of its own if there is no other, or if none is due.

        Raises EngineDiedError.
        """
        request = None
        before = self._signs_of_life()
        try:
            while not self._stands_still and (now := self._signs_of_life()) <= before:
                before = now  # less, if a request was given up
                if request is not None and request.done():
                    request.result()  # raises what went wrong
                    return
                if request is None and not self._running:
                    one_token = Sampling(n=1, max_tokens=1, temperature=self.rollout.temperature)
                    request = asyncio.create_task(self._sample([0], one_token, CANARY_PRIORITY))
                await asyncio.sleep(BEAT_S)
        finally:
            if request is not None:
                request.cancel()

    def _signs_of_life(self) -> tuple[int, int]:
        """What grows with every decoded token: requests that ended, and tokens of those that have not."""
        llm: Any = self._llm
        states = llm.output_processor.request_states.values()
        return self._ended, sum(state.detokenizer.num_output_tokens() for state in states)

    async def pause(self) -> None:
        """Stop decoding and forget what is cached: new weights are coming. Requests wait for `resume`."""
        if not self._is_paused:  # it still is when the last change of weights failed halfway
            await self._admission.acquire()
            self._is_paused = True
        with death_as_error():
            await self._llm.pause_generation(mode="keep")
        self._stands_still = True

    async def sleep(self) -> None:
        """Give the GPU memory back: weights wait in CPU memory, the cache is dropped. Nothing on CPU."""
        if self.learner.device == "cuda":
            with death_as_error():
                await self._llm.sleep(level=1, mode="keep")
            self._stands_still = True

    async def wake(self, part: Part) -> None:
        """Take a part of the memory again; decoding goes on with the last one. Nothing on CPU."""
        if self.learner.device == "cuda":
            with death_as_error():
                await self._llm.wake_up([part])
            self._stands_still = self._is_paused or part != "kv_cache"

    async def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Open the channel that new weights come through."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        with death_as_error():
            await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info))

    async def start_weight_update(self) -> None:
        """Make the model ready for new weights."""
        with death_as_error():
            await self._llm.start_weight_update()

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        """Read weights from the channel."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        with death_as_error():
            await self._llm.update_weights(WeightTransferUpdateRequest(update_info))

    async def finish_weight_update(self) -> None:
        """Put the new weights in use."""
        with death_as_error():
            await self._llm.finish_weight_update()

    async def resume(self, policy_version: int) -> None:
        """Stamp the new version and decode on, what was running too."""
        with death_as_error():
            if not await self._llm.reset_prefix_cache():
                raise RuntimeError("a request still holds the key-value cache of the old weights")
            tokens = await self._tokens_so_far()
            for request_id, running in self._running.items():
                running.switches += [tokens[request_id]] * (policy_version - self._policy_version)
            self._policy_version = policy_version
            await self._llm.resume_generation()
        self._stands_still = False
        if self._is_paused:
            self._is_paused = False
            self._admission.release()

    async def _tokens_so_far(self) -> dict[str, NDArray[np.int64]]:
        """How many tokens the samples of each running request have while vLLM is paused; [n] each.

        vLLM's answer to the pause came after all earlier tokens, so they are in its output queue at least, and what is
        taken from there is counted at once (see VLLM_V1_OUTPUT_PROC_CHUNK_SIZE in actors/vllm_settings.py).
        """
        llm: Any = self._llm
        until = time.monotonic() + DRAIN_DEADLINE_S
        while not llm.engine_core.outputs_queue.empty():
            if time.monotonic() > until:
                raise TimeoutError(f"waited {DRAIN_DEADLINE_S:g} s for vLLM to take in the tokens of its last step")
            await asyncio.sleep(0.001)
        states, ids = llm.output_processor.request_states, llm.output_processor.external_req_ids
        tokens = {}
        for request_id, running in self._running.items():
            tokens[request_id] = np.full(running.n, self.model.max_length, np.int64)  # vLLM has forgotten ended samples
            for state in (states[one] for one in ids.get(request_id, ())):
                tokens[request_id][state.request_index] = state.detokenizer.num_output_tokens()
        return tokens

    async def close(self) -> None:
        """End vLLM's processes."""
        self._llm.shutdown()


@contextmanager
def death_as_error() -> Iterator[None]:
    """Raise EngineDiedError where vLLM's process is gone."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise EngineDiedError("vLLM's engine process died; its log says why") from error
