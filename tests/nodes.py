"""Several Ray nodes on one machine, which come and go as an autoscaler's do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2


@contextmanager
def head_node(num_gpus: int = 0) -> Iterator[Cluster]:
    """One node so far, and Ray connected to it. What Ray believes to be GPUs are just numbers here."""
    head = {"num_cpus": 1, "num_gpus": num_gpus, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def drain(cluster: Cluster, node_id: str) -> None:
    """As the autoscaler does before it takes a spot machine away."""
    pb2: Any = autoscaler_pb2
    reason = pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = (time.time_ns() // 10**6) + 600_000
    accepted, why_not = GcsClient(address=cluster.address).drain_node(node_id, reason, "spot", deadline)
    assert accepted, why_not
