"""Finished groups of rollouts on disk, so that an iteration that is repeated after a crash does not sample them again.

Only groups that the weights of a checkpoint have sampled can be used again: later weights are learned anew, and on GPUs
not to the last bit. So there is one file per policy version, of the newest checkpoint and of those being written.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from int_ray.journal import LineFile
from int_ray.types import Completion, Outcome, Rollout, RolloutGroup, Start

if TYPE_CHECKING:
    from actors.engine_client import Sampling


def group_key(start: Start, sampling: Sampling, version: int) -> str:
    """SHA-256 (hex) of all that a group depends on; `version` of the policy asked for it, `sampling` has its own seed.

    Evaluations share their seeds, so that nothing but the version tells two of them apart.
    """
    problem = start.problem
    ids = start.prompt_ids.tolist(), start.prefix_ids.tolist()
    parts = [version, problem.id, problem.answer, *ids, astuple(sampling)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class GroupJournal:
    """`groups/version_*.jsonl` of a run folder. Nothing is found, and nothing kept, before `restart`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept: set[int] = set()  # versions whose groups are written down
        self._found: dict[str, bytes] = {}  # key -> line of an earlier process
        self._waiting: list[tuple[int, str, RolloutGroup]] = []
        self._turn = asyncio.Lock()
        self._writer = ThreadPoolExecutor(1, "groups")

    def restart(self, policy_version: int) -> None:
        """Go on from the checkpoint of that version: what it has sampled is known, all else is forgotten."""
        self.keep_only(policy_version)
        path = self._path(policy_version)
        self._found = {}
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                self._found[json.loads(line)["key"]] = line
            except (ValueError, KeyError, TypeError):  # torn by the crash
                continue

    def keep(self, policy_version: int) -> None:
        """Also write down what this version samples: a checkpoint of it is on its way."""
        self._kept.add(policy_version)

    def keep_only(self, policy_version: int) -> None:
        """The newest checkpoint has this version: groups of others are of no use."""
        self._kept = {policy_version}
        for path in self.folder.glob("version_*.jsonl"):
            if path != self._path(policy_version):
                path.unlink(missing_ok=True)

    def find(self, key: str, start: Start) -> RolloutGroup | None:
        """A group that was sampled before the last `restart`; each is found once."""
        line = self._found.pop(key, None)
        return None if line is None else _read(json.loads(line), start)

    async def add(self, key: str, group: RolloutGroup) -> None:
        """Keep a group; on disk when this returns, unless no resumed run could use it.

        Raises OSError once, for all that is not written until the next checkpoint.
        """
        version = group.rollouts[0].policy_version
        is_of_one = all(one.policy_version == version and not one.completion.switches for one in group.rollouts)
        if not is_of_one or version not in self._kept or not group.graded:
            return
        self._waiting.append((version, key, group))
        async with self._turn:  # whoever waits for it finds that its group was written along
            groups, self._waiting = self._waiting, []
            if groups:
                await self._write_beside(groups)

    def close(self) -> None:
        """Write what has been given to it, and end."""
        self._writer.shutdown(wait=True)

    async def _write_beside(self, groups: list[tuple[int, str, RolloutGroup]]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._write, groups)
        except OSError:
            self._kept = set()
            raise

    def _write(self, groups: list[tuple[int, str, RolloutGroup]]) -> None:
        self.folder.mkdir(exist_ok=True)
        for version in {version for version, _, _ in groups} & self._kept:
            with closing(LineFile(self._path(version))) as file:
                file.append(*({"key": key, **_record(group)} for own, key, group in groups if own == version))

    def _path(self, policy_version: int) -> Path:
        return self.folder / f"version_{policy_version:06d}.jsonl"


def _record(group: RolloutGroup) -> dict[str, Any]:
    """With log-probs, unlike a record for people; numbers in base64, to be written and read quickly."""
    return {
        "rollouts": [
            {
                "token_ids": b64encode(rollout.completion.token_ids.astype("<i4").tobytes()).decode(),
                "logprobs": b64encode(rollout.completion.rollout_logprobs.astype("<f4").tobytes()).decode(),
                "text": rollout.completion.text,
                "finished": rollout.completion.finished,
                "seed": rollout.completion.seed,
                "outcome": rollout.outcome,
                "policy_version": rollout.policy_version,
            }
            for rollout in group.rollouts
        ]
    }


def _read(record: Mapping[str, Any], start: Start) -> RolloutGroup:
    return RolloutGroup(start.problem, start.prompt_ids, start.prefix_ids, tuple(map(_rollout, record["rollouts"])))


def _rollout(record: Mapping[str, Any]) -> Rollout:
    token_ids = np.frombuffer(b64decode(record["token_ids"]), "<i4").astype(np.int32)
    logprobs = np.frombuffer(b64decode(record["logprobs"]), "<f4").astype(np.float32)
    completion = Completion(token_ids, logprobs, record["text"], record["finished"], record["seed"])
    return Rollout(completion, Outcome(record["outcome"]), record["policy_version"])
