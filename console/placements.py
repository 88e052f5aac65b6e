"""Asks serving/placement.py whether something finds room, with what the database knows of the cluster.

Read only. Used before a deployment is accepted, by the form's live check, and by the reconciler before it
sends anything. Whether a model fits in its accelerators is the planner's verdict (console/planning.py).
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from django.db.models import Count, Q

from console.models import ClusterStatus, Deployment, DesiredState, Replica, Revision
from serving.placement import Claim, Floor, Node, check_placeable, claim_of, floor_of, node_memory_of
from serving.planner.placement_groups import Topology
from serving.planner.report import read_stored
from serving.planner.result import Plan
from serving.planner.update_needs import Fleet, UpdateNeeds, update_needs
from serving.spec import CapacitySpec, EngineSpec

CPU_PER_REPLICA = 1
"""Core that a replica on accelerators takes beside them."""
RELEASED_AFTER_S = 15.0
"""Ray may count an ended replica's resources as claimed for a moment longer."""


@dataclass(frozen=True)
class ClusterNow:
    """The nodes of the last observation, and what the deployments claim of them; read once, used for all."""

    nodes: list[Node]
    claims: list[Claim] = field(default_factory=list)

    @cached_property
    def floor(self) -> Floor:
        """What is free beside the claims; not to be taken from."""
        return floor_of(self.nodes, self.claims)

    def total(self, accelerator_type: str | None) -> dict[str, int]:
        """What each live node has of the type (CPU cores for None), nodes without left out."""
        counts = Floor(self.nodes, emptied=True).count(accelerator_type)
        return {node_id: count for node_id, count in counts.items() if count}


def check_against_cluster(
    *, name: str, engine: EngineSpec, capacity: CapacitySpec, plan: Plan | None
) -> list[str]:
    """The arithmetic when it finds room; raises NotPlaceable. A cluster never seen yet refuses nothing: the
    reconciler asks again before it sends."""
    now = cluster_now(but=name)
    if not now.nodes:
        return ["The cluster has not been seen yet; it is checked again before anything is sent"]
    return check_placeable(
        claim_of(deployment=name, engine=engine, min_replicas=capacity.min_replicas, plan=plan),
        nodes=now.nodes,
        others=now.claims,
        plan=plan,
    )


def cluster_now(*, but: str = "") -> ClusterNow:
    """Nodes and claims of all deployments except `but`, whose replicas make room for their successors."""
    stored = _stored_nodes()
    if not stored:
        return ClusterNow([])
    claims = {claim.deployment: claim for claim in _claims()}
    nodes = _with_foreign(stored, claims)
    return ClusterNow(nodes, [claim for name, claim in claims.items() if name != but])


def known_nodes() -> list[Node]:
    """The nodes of the last observation, without a thought of who holds what."""
    return [node_of(node) for node in _stored_nodes()]


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
    return [claim for claim in _claims() if claim.deployment != but]


def living_replicas() -> dict[str, int]:
    """Deployment name -> replicas that were seen and have not ended, draining ones included."""
    rows = Replica.objects.filter(ended_at=None).values("deployment_name").annotate(count=Count("pk"))
    return {row["deployment_name"]: row["count"] for row in rows.order_by()}


def update_of(deployment: Deployment | None, engine: Topology, min_replicas: int) -> UpdateNeeds:
    """What changing the deployment (None: a new one) to this engine holds while it is under way."""
    revision = deployment.current_revision if deployment is not None else None
    living = 0
    if deployment is not None and deployment.desired_state == DesiredState.RUNNING:
        living = living_replicas().get(deployment.name, 0)
    old = None
    if revision is not None:
        claim = _claim("", revision.engine, living, None)
        old = Fleet(claim.accelerator_type, claim.per_replica, living)
    size = engine.tensor_parallel_size * engine.pipeline_parallel_size
    return update_needs(old, Fleet(engine.accelerator_type, size, max(1, min_replicas, living)))


def _stored_nodes() -> list[dict[str, Any]]:
    status = ClusterStatus.objects.filter(pk=1).only("nodes").first()
    return list(status.nodes) if status else []


def _claims() -> list[Claim]:
    """What each running deployment claims: its fewest replicas, or as many as live now if that is more."""
    running = Deployment.objects.filter(desired_state=DesiredState.RUNNING).order_by("name")
    living, claims = living_replicas(), []
    for deployment in running.select_related("current_revision", "status"):
        status = getattr(deployment, "status", None)
        failed = status and status.failed_at is not None and status.generation == deployment.generation
        revision = deployment.current_revision
        if failed or revision is None:
            continue
        claims.append(
            _claim(
                deployment.name,
                revision.engine,
                max(1, deployment.min_replicas, living.get(deployment.name, 0)),
                read_stored(revision.plan),
            )
        )
    return claims


def _claim(name: str, stored: dict[str, Any], replicas: int, plan: Plan | None) -> Claim:
    """A claim from a stored engine, which an older version may have written: not validated."""
    claim = Claim(
        deployment=name,
        accelerator_type=stored.get("accelerator_type"),
        tensor_parallel_size=int(stored.get("tensor_parallel_size", 1)),
        pipeline_parallel_size=int(stored.get("pipeline_parallel_size", 1)),
        replicas=replicas,
        tp_may_span_nodes=bool(stored.get("tp_may_span_nodes", False)),
    )
    return replace(claim, memory_bytes=node_memory_of(plan, claim))


def _with_foreign(stored: list[dict[str, Any]], claims: dict[str, Claim]) -> list[Node]:
    """Nodes with what others than deployments hold there: what Ray says is claimed, less what is ours.

    What ours may hold is taken off where their replicas were seen, the rest wherever something is claimed:
    a replica that Ray has placed a moment ago must not pass for somebody else's.
    """
    left = {node["node_id"]: _claimed(node) for node in stored}
    for held in _held(stored, claims):
        more = held.count
        for node_id in sorted(left, key=lambda each: (each != held.node_id, -left[each][held.kind])):
            taken = min(more, left[node_id][held.kind])
            left[node_id][held.kind] -= taken
            more -= taken
    return [_node_beside(node, left[node["node_id"]]) for node in stored]


def _claimed(node: dict[str, Any]) -> defaultdict[str | None, float]:
    """What Ray says is claimed of a node: by accelerator type, cores under None."""
    claimed: defaultdict[str | None, float] = defaultdict(float)
    claimed[None] = float(node.get("cpus_claimed") or 0.0)
    for kind, count in (node.get("accelerators_claimed") or {}).items():
        claimed[kind] = float(count)
    return claimed


def _node_beside(stored: dict[str, Any], foreign: dict[str | None, float]) -> Node:
    return replace(
        node_of(stored),
        cpus_foreign=foreign[None],
        accelerators_foreign={
            kind: int(count) for kind, count in foreign.items() if kind is not None and count
        },
    )


@dataclass(frozen=True)
class _Held:
    """What may be ours of what is claimed: so many of a type (None: cores), and where it was seen."""

    kind: str | None
    count: float
    node_id: str = ""


def _held(stored: list[dict[str, Any]], claims: dict[str, Claim]) -> list[_Held]:
    """Everything that is or may be ours: seen replicas first, then what deployments claim beyond them."""
    held: list[_Held] = []
    seen: dict[str, int] = defaultdict(int)
    for replica, kind in _seen_replicas(stored):
        seen[replica.deployment_name] += 1
        held.append(_Held(kind, replica.accelerators, replica.node_id))
        if kind is not None:
            held.append(_Held(None, CPU_PER_REPLICA, replica.node_id))
    for name, claim in claims.items():
        more = max(0, claim.replicas - seen[name])
        held.append(_Held(claim.accelerator_type, more * claim.per_replica))
        if claim.accelerator_type is not None:
            held.append(_Held(None, more * CPU_PER_REPLICA))
    return held


def _seen_replicas(stored: list[dict[str, Any]]) -> list[tuple[Replica, str | None]]:
    """Replicas that have a node, with their accelerator type, draining and just ended ones included."""
    lately = time.time() - RELEASED_AFTER_S
    rows = list(
        Replica.objects.filter(Q(ended_at=None) | Q(ended_at__gte=lately)).exclude(node_id="").order_by("pk")
    )
    revisions = Revision.objects.filter(deployment_id__in={row.deployment_id for row in rows})
    engines = {
        (int(deployment), number): engine
        for deployment, number, engine in revisions.values_list("deployment_id", "number", "engine")
    }
    # Of a deleted deployment's replica only its node tells what it holds.
    there = {node["node_id"]: next(iter(node["accelerators"]), None) for node in stored}
    return [
        (
            row,
            engine.get("accelerator_type")
            if (engine := engines.get((row.deployment_id or 0, row.revision))) is not None
            else there.get(row.node_id),
        )
        for row in rows
    ]
