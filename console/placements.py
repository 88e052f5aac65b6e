"""Asks serving/placement.py whether something fits, with what the database knows of the cluster.

Read only. Used before a deployment is accepted, by the form's live check, and by the reconciler before it
sends anything.
"""

from __future__ import annotations

from typing import Any

from console.models import ClusterStatus, Deployment, DesiredState
from serving.placement import Claim, Node, check_placeable, claim_of
from serving.spec import CapacitySpec, EngineSpec


def check_against_cluster(
    *, name: str, engine: EngineSpec, capacity: CapacitySpec, facts: dict[str, Any]
) -> list[str]:
    """The arithmetic when it fits; raises NotPlaceable. A cluster never seen yet refuses nothing: the
    reconciler asks again before it sends."""
    nodes = known_nodes()
    if not nodes:
        return ["The cluster has not been seen yet; it is checked again before anything is sent"]
    return check_placeable(
        claim_of(deployment=name, engine=engine, min_replicas=capacity.min_replicas),
        engine=engine,
        nodes=nodes,
        others=other_claims(but=name),
        weight_bytes=facts.get("weight_bytes"),
        parameters=facts.get("parameters"),
    )


def known_nodes() -> list[Node]:
    """The nodes of the last observation."""
    status = ClusterStatus.objects.filter(pk=1).first()
    return [node_of(node) for node in status.nodes] if status else []


def node_of(stored: dict[str, Any]) -> Node:
    """A Node from the JSON that the reconciler stores."""
    return Node(
        node_id=stored["node_id"],
        name=stored["name"],
        alive=stored["alive"],
        cpus=stored["cpus"],
        memory_bytes=stored["memory_bytes"],
        accelerators=stored["accelerators"],
    )


def other_claims(*, but: str) -> list[Claim]:
    """Claims of all running deployments except `but` and those that have failed and hold nothing."""
    running = Deployment.objects.filter(desired_state=DesiredState.RUNNING).exclude(name=but)
    claims = []
    for deployment in running.select_related("current_revision", "status"):
        status = getattr(deployment, "status", None)
        failed = status and status.failed_at is not None and status.generation == deployment.generation
        if failed or deployment.current_revision is None:
            continue
        engine = deployment.current_revision.engine
        claims.append(
            Claim(
                deployment=deployment.name,
                accelerator_type=engine.get("accelerator_type"),
                tensor_parallel_size=int(engine.get("tensor_parallel_size", 1)),
                pipeline_parallel_size=int(engine.get("pipeline_parallel_size", 1)),
                replicas=max(1, deployment.min_replicas),
            )
        )
    return claims
