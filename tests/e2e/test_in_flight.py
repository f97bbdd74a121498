"""Weights that change while a real engine decodes: it goes on at the same token, and says where."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.engine_client import EngineGroup, Sampling
from int_ray.types import Completion, TokenIds
from tests.e2e.conftest import LONG_PROMPT, NO_PREFIX, PROMPT, TEMPERATURE, Pair, run, sampling

ERROR = 1e-3  # fp32
NUM_SAMPLES = 400  # more than the engine decodes at once: some begin after the change
BEATS = 6  # signs of life before the first change, a decoding step each at least: some samples have ended by then
MANY = LONG_PROMPT, NO_PREFIX, sampling(NUM_SAMPLES, 3, 80)
LONG = PROMPT, NO_PREFIX, sampling(100, 3, 370)  # all at once, and for much longer than two changes take


async def sample_across(pair: Pair, *versions: int, what: tuple[TokenIds, TokenIds, Sampling] = MANY) -> EngineGroup:
    """Samples, while weights are published one or more times."""
    sampling_all = asyncio.create_task(pair.engine.sample_group(*what))
    for _ in range(BEATS):
        await pair.engine.probe()
    for version in versions:
        await pair.engine.probe()
        await pair.sync.publish(version)
    return await sampling_all


def test_a_change_to_equal_weights_changes_no_token(tied: Pair):
    run(tied.sync.publish(20))
    undisturbed = tied.call("sample_group", *MANY)
    disturbed = run(sample_across(tied, 21))
    assert disturbed.policy_version == 20 and any(one.switches for one in disturbed.completions())
    np.testing.assert_array_equal(disturbed.token_ids, undisturbed.token_ids)
    np.testing.assert_allclose(disturbed.rollout_logprobs, undisturbed.rollout_logprobs, atol=ERROR)


@pytest.fixture(scope="module")
def across(tied: Pair, tmp_path_factory: pytest.TempPathFactory) -> tuple[EngineGroup, list[Path]]:
    """Samples that began with the first checkpoint's weights, and may have ended with the second's: versions 22, 23."""
    folders = [tmp_path_factory.mktemp(name) for name in ("before", "after")]
    tied.save(folders[0])
    run(tied.sync.publish(22))
    tied.change_weights(seed=22)
    tied.save(folders[1])
    return run(sample_across(tied, 23)), folders


def logprobs(folder: Path, completions: list[Completion]) -> list[np.ndarray]:
    """What a checkpoint says about every token. [T] each"""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = []
    for one in completions:
        ids = torch.from_numpy(np.concatenate([LONG_PROMPT, one.token_ids]).astype(np.int64))
        with torch.no_grad():
            log_p = (model(input_ids=ids[None]).logits[0, len(LONG_PROMPT) - 1 : -1] / TEMPERATURE).log_softmax(-1)
        found.append(log_p.gather(-1, ids[len(LONG_PROMPT) :, None])[:, 0].numpy())
    return found


def test_each_token_has_the_logprob_of_the_version_that_it_is_stamped_with(across: tuple[EngineGroup, list[Path]]):
    group, folders = across
    pairs = list(zip(group.completions(), group.policy_versions(), strict=True))
    kinds = {
        "across": [(one, version) for one, version in pairs if one.switches],
        "before": [(one, version) for one, version in pairs if not one.switches and version == 22],
        "after": [(one, version) for one, version in pairs if version == 23],
    }
    for kind, found in kinds.items():
        assert len(found) >= 3, kind
    chosen = [pair for found in kinds.values() for pair in found[:12]]
    by_version = dict(zip([22, 23], (logprobs(folder, [one for one, _ in chosen]) for folder in folders), strict=True))
    for index, (one, version) in enumerate(chosen):
        versions = version + (np.arange(len(one.token_ids))[:, None] >= np.array(one.switches, int)).sum(-1)  # [T]
        expected = np.where(versions == 22, by_version[22][index], by_version[23][index])
        np.testing.assert_allclose(one.rollout_logprobs, expected, atol=ERROR)
        assert not np.allclose(by_version[22][index], by_version[23][index], atol=10 * ERROR)


def test_two_changes_are_two_switches(tied: Pair):
    run(tied.sync.publish(24))
    group = run(sample_across(tied, 25, 26, what=LONG))
    assert group.policy_version == 24 and len(group.switches) == 2
    both = [one.switches for one in group.completions() if len(one.switches) == 2]
    assert both and all(first <= second for first, second in both)
