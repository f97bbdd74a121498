"""Seeds of samples: stable, so that a run repeats itself, and different for any two groups that it samples."""

from __future__ import annotations

import hashlib
import json

from int_ray.types import Purpose, TokenIds


def sample_seed(
    run_seed: int,
    purpose: Purpose,
    round_: int,
    policy_version: int,
    problem_id: str,
    prefix_ids: TokenIds,
    repeat: int = 0,
) -> int:
    """Seed of a group, in `0 .. 2**63 - 1`, the same in every process; sample i of the group uses `seed + i`.

    `prefix_ids` [S] keeps apart the continuations of two interventions on one problem, `repeat` the groups of a problem
    that one call asks for more than once.
    """
    name = json.dumps([run_seed, str(purpose), round_, policy_version, problem_id, repeat]).encode()
    # JSON text holds no zero byte, so that name and prefix cannot run into each other.
    digest = hashlib.sha256(name + b"\0" + prefix_ids.astype("<i4").tobytes()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
