"""One vLLM AsyncLLM in an actor of its own: samples groups, resumes from prefixes, takes new weights."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError

from actors.vllm_settings import engine_arguments, engine_environment
from int_ray.config import ModelConfig, RolloutConfig
from int_ray.errors import RunError
from int_ray.training_config import LearnerConfig
from int_ray.types import Completion, Logprobs, TokenIds

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.logprobs import FlatLogprobs
    from vllm.outputs import CompletionOutput


class EngineDiedError(RunError):
    """A rollout engine is gone and must be spawned again; nothing it was sampling can be recovered."""


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
    """The `n` samples of one request, flat, so that a group is one message with two buffers; N tokens in all."""

    token_ids: TokenIds  # [N]
    rollout_logprobs: Logprobs  # [N]
    offsets: NDArray[np.int64]  # [n + 1], sample i is offsets[i]:offsets[i + 1]
    texts: tuple[str, ...]  # without special tokens
    finished: tuple[bool, ...]
    seed: int  # of sample 0; sample i has seed + i
    policy_version: int

    def completions(self) -> list[Completion]:
        """The samples, one by one."""
        spans = itertools.pairwise(self.offsets)
        return [
            Completion(self.token_ids[start:end], self.rollout_logprobs[start:end], text, finished, self.seed + index)
            for index, ((start, end), text, finished) in enumerate(zip(spans, self.texts, self.finished, strict=True))
        ]


def vllm_parameters(sampling: Sampling) -> SamplingParams:
    """The same for vLLM: whole answers as token ids, with the log-prob of each sampled token."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=sampling.n,
        seed=sampling.seed,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        logprobs=0,  # of the sampled token alone
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


class RolloutEngine:
    """A vLLM engine that speaks token ids. Spawned as an actor; `start` first, `close` last."""

    def __init__(self, model: ModelConfig, rollout: RolloutConfig, learner: LearnerConfig) -> None:
        self.model = model
        self.rollout = rollout
        self.learner = learner
        self._policy_version = 0
        self._request_ids = map(str, itertools.count())

    async def start(self) -> None:
        """Load the model and be ready to sample; 20-40 s."""
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
        return await self._sample(prompt_ids.tolist(), sampling)

    async def _sample(self, token_ids: list[int], sampling: Sampling) -> EngineGroup:
        from vllm.v1.engine.exceptions import EngineDeadError

        version = self._policy_version
        parameters = vllm_parameters(sampling)
        outputs: Sequence[CompletionOutput] = ()
        try:
            async for result in self._llm.generate(
                {"prompt_token_ids": token_ids}, parameters, next(self._request_ids)
            ):
                outputs = result.outputs
        except EngineDeadError as error:
            raise EngineDiedError("vLLM's engine process died; its log says why") from error
        if self._policy_version != version:
            raise RuntimeError(f"weights changed from version {version} to {self._policy_version} while sampling")
        if unexpected := {output.finish_reason for output in outputs} - {"stop", "length"}:
            raise RuntimeError(f"vLLM ended a sample for another reason than its end or its limit: {unexpected}")
        return self._pack(outputs, sampling.seed, version)

    def _pack(self, outputs: Sequence[CompletionOutput], seed: int, policy_version: int) -> EngineGroup:
        ids = [np.asarray(output.token_ids, np.int32) for output in outputs]
        logprobs = [np.asarray(cast("FlatLogprobs", output.logprobs).logprobs, np.float32) for output in outputs]
        return EngineGroup(
            np.concatenate(ids),
            np.concatenate(logprobs),
            np.cumsum([0, *map(len, ids)]),
            tuple(self._tokenizer.batch_decode(ids, skip_special_tokens=True)),
            tuple(output.finish_reason == "stop" for output in outputs),
            seed,
            policy_version,
        )

    async def policy_version(self) -> int:
        """Version of the weights that sample now."""
        return self._policy_version

    async def pause(self) -> None:
        """Stop decoding: new weights are coming."""
        await self._llm.pause_generation(mode="keep")

    async def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Open the channel that new weights come through."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info))

    async def start_weight_update(self) -> None:
        """Make the model ready for new weights."""
        await self._llm.start_weight_update()

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        """Read weights from the channel."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self._llm.update_weights(WeightTransferUpdateRequest(update_info))

    async def finish_weight_update(self) -> None:
        """Put the new weights in use."""
        await self._llm.finish_weight_update()

    async def resume(self, policy_version: int) -> None:
        """Forget what the old weights cached, stamp the new version, decode again."""
        if not await self._llm.reset_prefix_cache():
            raise RuntimeError("a request still holds the key-value cache of the old weights")
        self._policy_version = policy_version
        await self._llm.resume_generation()

    async def close(self) -> None:
        """End vLLM's processes."""
        self._llm.shutdown()
