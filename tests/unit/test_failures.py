"""The failure table: every error has a kind, also after it has crossed from one actor to another."""

from __future__ import annotations

import pickle

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayTaskError

from actors.failures import (
    EngineCallError,
    EngineDiedError,
    EngineHungError,
    FleetLostError,
    Kind,
    PoisonedGroupError,
    kind_of,
)
from int_ray.config_file import ConfigError
from int_ray.errors import Resumable, RunError

KINDS = {
    EngineDiedError("gone"): Kind.INFRA,
    EngineHungError("silent"): Kind.INFRA,
    TimeoutError("late"): Kind.INFRA,
    PoisonedGroupError("4 engines"): Kind.DATA,
    ConfigError(["rollout.n: too small"]): Kind.CONFIG,
    EngineCallError("cannot decode that"): Kind.FATAL,
    FleetLostError("none left"): Kind.FATAL,
    ValueError("a mistake"): Kind.FATAL,
}


@pytest.mark.parametrize("error", KINDS)
def test_an_error_has_its_kind_before_and_after_it_is_pickled(error: Exception):
    copy = pickle.loads(pickle.dumps(error))
    assert kind_of(error) is kind_of(copy) is KINDS[error] and str(copy) == str(error)


@pytest.mark.parametrize("error", [EngineDiedError("gone"), PoisonedGroupError("4"), ValueError("a mistake")])
def test_what_a_method_of_an_actor_raised_keeps_its_kind(error: Exception):
    crossed = RayTaskError("sample_group", "traceback", error).as_instanceof_cause()
    assert kind_of(crossed) is KINDS.get(error, kind_of(error)) is kind_of(error)


def test_a_dead_actor_and_one_that_cannot_be_reached_are_infrastructure():
    assert kind_of(ActorDiedError()) is Kind.INFRA
    assert kind_of(ActorUnavailableError("lost", None)) is Kind.INFRA
    assert kind_of(OutOfMemoryError("killed by Ray's memory monitor")) is Kind.INFRA  # no RayActorError
    assert kind_of(NodeDiedError("gone")) is Kind.INFRA


def test_a_lost_fleet_can_be_resumed_and_what_an_engine_does_wrong_is_one_line():
    assert issubclass(FleetLostError, Resumable)
    assert issubclass(EngineHungError, RunError) and issubclass(EngineCallError, RunError)


def test_only_errors_of_torch_itself_cost_the_learner():
    import torch

    from actors.learner import _is_of_torch  # pyright: ignore

    assert _is_of_torch(RuntimeError("Connection closed by peer")) and _is_of_torch(torch.OutOfMemoryError("no room"))
    assert not _is_of_torch(RunError("no weight sender")) and not _is_of_torch(ValueError("wrong"))
