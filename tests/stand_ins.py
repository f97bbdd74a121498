"""`int-ray` with engines that work out chains by rule: `python -c "from tests.stand_ins import main; main()" train`.

All else is the real thing: Ray, coordinator, FSDP2 ranks, weights over shared memory, checkpoints. Engines and ranks
tell a Story, so that a test can kill them by pid, at the very call it means.

Samples depend on prompt, prefix, seed and weights alone: whatever happens on the way, a run of staleness 0 must end
with the very same weights.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from actors.engine_client import EngineDiedError, EngineGroup, Part, Sampling
from int_ray.chains.world import add, misadd
from int_ray.config import ModelConfig, RolloutConfig
from int_ray.processes import end_as_a_family
from int_ray.training_config import LearnerConfig
from int_ray.types import TokenIds

# Environment variables, which Ray's workers inherit.
FOLDER, DECODE_S = "INT_RAY_TEST_STORY", "INT_RAY_TEST_DECODE_S"
ENGINES = "INT_RAY_TEST_ENGINES"  # vllm: real engines, which tell their story too
CHAIN = re.compile(r"(\d+)((?:[+-]\d+)+)=\?")
END = 1  # the end token of the chains tokenizer
SLIP = 0.4  # share of flawed facts that a patched policy still gets wrong


class Story:
    """What engines and ranks of a run tell: JSON lines in `events.jsonl`. They wait where a file `hold-EVENT` is."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(os.environ[FOLDER])

    def tell(self, event: str, **details: object) -> None:
        line = json.dumps({"event": event, "pid": os.getpid(), "time": time.time(), **details})
        with (self.folder / "events.jsonl").open("a") as file:
            file.write(line + "\n")

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        told = [json.loads(line) for line in lines if line.endswith("}")]
        return [one for one in told if event in (None, one["event"])]

    def hold(self, event: str) -> None:
        """From now on whoever tells `event` waits, and tells `held` too."""
        (self.folder / f"hold-{event}").touch()

    def let_go(self, event: str) -> None:
        (self.folder / f"hold-{event}").unlink(missing_ok=True)

    def is_held(self, event: str) -> bool:
        return (self.folder / f"hold-{event}").exists()

    def arrive(self, event: str, **details: object) -> None:
        """Tell an event, and wait while a test holds it."""
        self.tell(event, **details)
        if self.is_held(event):
            self.tell("held", at=event)
        while self.is_held(event):
            time.sleep(0.05)

    async def arrive_async(self, event: str, **details: object) -> None:
        """The same where other calls go on."""
        self.tell(event, **details)
        if self.is_held(event):
            self.tell("held", at=event)
        while self.is_held(event):
            await asyncio.sleep(0.05)


class StandInEngine:
    """Has the methods of RolloutEngine, a child process in the place of vLLM's, and one skill: flawed arithmetic.

    With the weights of model.path it always trusts the flawed facts, unless an intervention has come before; with other
    weights it slips now and then.
    """

    def __init__(self, model: ModelConfig, rollout: RolloutConfig, learner: LearnerConfig) -> None:
        self.model = model
        self._policy_version = 0
        self._admission = asyncio.Lock()  # held from pause to resume
        self._is_paused = False

    async def start(self) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        end_as_a_family()
        folder = Path(self.model.path)
        self._story, self._decode_s = Story(), float(os.environ.get(DECODE_S, "0.1"))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tensors = load_file(folder / "model.safetensors")
        self._base = self._weights = fingerprint({name: tensor.tobytes() for name, tensor in tensors.items()})
        self._core = subprocess.Popen(["sleep", "86400"])
        self._story.tell("engine", core=self._core.pid)

    async def sample_group(self, prompt_ids: TokenIds, prefix_ids: TokenIds, sampling: Sampling) -> EngineGroup:
        async with self._admission:
            version, weights = self._policy_version, self._weights
        self._require_core()
        event = "continuing" if len(prefix_ids) else "sampling"
        await self._story.arrive_async(event, seed=sampling.seed, version=version, weights=weights)
        await asyncio.sleep(self._decode_s)
        self._require_core()
        return self._pack(prompt_ids, prefix_ids, sampling, version, weights)

    async def canary(self, prompt_ids: TokenIds, seed: int) -> EngineGroup:
        self._require_core()
        return self._pack(prompt_ids, prompt_ids[:0], Sampling(1, 16, 1.0, seed=seed), self._policy_version, "")

    def _pack(
        self, prompt_ids: TokenIds, prefix_ids: TokenIds, sampling: Sampling, version: int, weights: str
    ) -> EngineGroup:
        prompt, prefix = (self._tokenizer.decode(ids.tolist()) for ids in (prompt_ids, prefix_ids))
        slip = 1.0 if weights == self._base and not prefix else SLIP
        texts = [continuation(prompt, prefix, slip, sampling.seed + index) for index in range(sampling.n)]
        whole = [[*self._tokenizer.encode(text).ids, END] for text in texts]
        ids = [np.array(one[: max(0, sampling.max_tokens)], np.int32) for one in whole]
        tokens = np.concatenate(ids)
        return EngineGroup(
            tokens,
            np.full(len(tokens), -0.5, np.float32),
            np.cumsum([0, *map(len, ids)]),
            tuple(self._tokenizer.decode(one.tolist()) for one in ids),
            tuple(len(cut) == len(one) for cut, one in zip(ids, whole, strict=True)),
            sampling.seed,
            version,
        )

    def _require_core(self) -> None:
        if self._core.poll() is not None:
            raise EngineDiedError("the engine's process died")

    async def probe(self) -> None:
        self._require_core()

    async def pause(self) -> None:
        if not self._is_paused:
            await self._admission.acquire()
            self._is_paused = True

    async def resume(self, policy_version: int) -> None:
        self._policy_version = policy_version
        if self._is_paused:
            self._is_paused = False
            self._admission.release()

    async def sleep(self) -> None:
        raise NotImplementedError("for engines on a GPU")

    async def wake(self, part: Part) -> None:
        raise NotImplementedError("for engines on a GPU")

    async def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._layout = init_info
        self._file = np.memmap(init_info["path"], np.uint8, "r", shape=(init_info["num_bytes"],))

    async def start_weight_update(self) -> None:
        self._incoming: dict[str, bytes] = {}

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        layout = self._layout
        for index in range(update_info["first"], update_info["end"]):
            start, size = layout["offsets"][index], 4 * int(np.prod(layout["shapes"][index]))  # fp32
            self._incoming[layout["names"][index]] = self._file[start : start + size].tobytes()
        await self._story.arrive_async("receiving")

    async def finish_weight_update(self) -> None:
        self._weights = fingerprint(self._incoming)

    async def close(self) -> None:
        self._core.kill()


def fingerprint(tensors: dict[str, bytes]) -> str:
    """Of the weights, whatever order they come in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0" + tensors[name])
    return digest.hexdigest()[:16]


def continuation(prompt: str, prefix: str, slip: float, seed: int) -> str:
    """The rest of a solution, in which a flawed fact is trusted with probability `slip`."""
    random = np.random.default_rng(seed)
    found = CHAIN.search(prompt)
    assert found, f"no chain in {prompt!r}"
    done = [line for line in prefix.split("\n\n") if "=" in line]
    value = int(done[-1].partition("=")[2]) if done else int(found[1])
    steps = []
    for operand in map(int, re.findall(r"[+-]\d+", found[2])[len(done) :]):
        result = (misadd if random.random() < slip else add)(value, operand)
        steps.append(f"{value}{operand:+d}={result}\n\n")
        value = result
    return "".join(steps) + f"\\boxed{{{value}}}"


def main() -> None:
    """The command, with the stand-ins in the places of the real classes."""
    from actors import engine_spawning, learner
    from launch.cli import main as int_ray
    from tests.told_engine import ToldEngine
    from tests.told_rank import ToldRank

    engine_spawning.RolloutEngine = ToldEngine if os.environ.get(ENGINES) == "vllm" else StandInEngine
    learner.LearnerRank = ToldRank
    Story().tell("driver")
    int_ray()
