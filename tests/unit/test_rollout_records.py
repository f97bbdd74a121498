"""Rollouts written down and read again."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from int_ray.rollout_records import group_record, read_group
from tests.factories import group


def test_a_group_is_read_as_it_was_written_but_for_its_logprobs():
    written = group("cw", version=3)
    first, second = written.rollouts
    switched = replace(first, completion=replace(first.completion, switches=(2, 5)))
    written = replace(written, rollouts=(switched, second))
    read = read_group(json.loads(json.dumps(group_record(written))), written.problem)
    assert [rollout.completion.switches for rollout in read.rollouts] == [(2, 5), ()]
    for before, after in zip(written.rollouts, read.rollouts, strict=True):
        np.testing.assert_array_equal(before.completion.token_ids, after.completion.token_ids)
        assert (before.outcome, before.policy_version) == (after.outcome, after.policy_version)
        assert np.isnan(after.completion.rollout_logprobs).all()


def test_a_record_without_switches_is_of_one_version():
    record = group_record(group("c"))
    del record["rollouts"][0]["switches"]
    assert read_group(record, group("c").problem).rollouts[0].completion.switches == ()
