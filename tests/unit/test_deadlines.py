"""Settings of the elastic fleet that contradict each other, and the deadline above all others."""

from __future__ import annotations

import pytest

from int_ray.config_file import ConfigError, load_config
from int_ray.deadlines import stall_abort_s

QUICKSTART = "configs/quickstart.yaml"
ON_GPUS = ["learner.device=cuda", "learner.weight_sync=nccl"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([*ON_GPUS, "rollout.num_engines=4", "rollout.max_engines=2"], "rollout.max_engines: 2 is below"),
        (["rollout.max_engines=2"], "engines that join have GPUs of their own"),
        (["run.stall_abort_s=7200"], "run.stall_abort_s: 7200 would end what may take 7200 s"),  # 2 hangs of 3600 s
    ],
)
def test_contradictions_are_errors(overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(QUICKSTART, overrides)


def test_a_fleet_may_grow_on_gpus():
    assert load_config(QUICKSTART, [*ON_GPUS, "rollout.max_engines=8"]).rollout.max_engines == 8


def test_the_watchdog_leaves_every_wait_its_own_deadline():
    config = load_config(QUICKSTART, ["learner.deadline_s=5000"])
    assert stall_abort_s(config) == 15000
    assert stall_abort_s(load_config(QUICKSTART, ["run.stall_abort_s=7201"])) == 7201


def test_a_slow_storage_is_no_stall():
    late = "run.storage_deadline_s=9000"
    assert stall_abort_s(load_config(QUICKSTART, [late])) < 27000
    assert stall_abort_s(load_config(QUICKSTART, [late, "run.storage=memory://run"])) == 27000
