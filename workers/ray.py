"""The workers' connection to Ray: this installation's address and token, and Ray's answers in our words."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from serving.client import Node, RayClient
from serving.errors import RaydeckError

PHASE_SERIES = "ray_raydeck_phase_started_seconds"


def ray_client() -> RayClient:
    """A client for the configured cluster; use it as a context manager."""
    return RayClient.from_token_file(settings.RAY_DASHBOARD_URL, settings.RAY_TOKEN_FILE)


def node_json(node: Node) -> dict[str, Any]:
    """A node as the database keeps it: what it has, what placed work claims, what is used."""
    return {
        "node_id": node.id,
        "name": node.host_name or node.address,
        "ip": node.address,
        "alive": node.is_alive,
        "is_head": node.is_head,
        "cpus": int(node.total.get("CPU", 0)),
        "cpus_claimed": node.claimed.get("CPU", 0.0),
        "memory_bytes": node.memory_total_bytes,
        "memory_used_bytes": node.memory_used_bytes,
        "accelerators": _accelerators(node, node.total),
        "accelerators_claimed": _accelerators(node, node.claimed),
        "message": node.state_message,
    }


def replica_phases(ray: RayClient) -> dict[str, dict[str, float]]:
    """Replica id -> phase -> when it began (epoch seconds), from the replicas' own series.

    Empty when the metrics pages cannot be read: phases are then seen later, never invented.
    """
    phases: dict[str, dict[str, float]] = {}
    try:
        pages = [ray.read_metrics(target) for target in ray.get_metrics_targets()]
    except RaydeckError:
        return phases
    for line in (line for page in pages for line in page.splitlines()):
        if not line.startswith(PHASE_SERIES + "{"):
            continue
        labels, _, value = line.partition("} ")
        replica, phase = _label_of(labels, "ReplicaId"), _label_of(labels, "phase")
        if replica and phase:
            phases.setdefault(replica, {})[phase] = float(value.split()[0])
    return phases


def _accelerators(node: Node, resources: dict[str, float]) -> dict[str, int]:
    """Ray counts accelerators as GPU and marks their type beside it; nodes with two types do not occur."""
    count = int(resources.get("GPU", 0))
    if not node.accelerator_types or not node.total.get("GPU"):
        return {}
    return {node.accelerator_types[0]: count}


def _label_of(labels: str, name: str) -> str:
    _, found, rest = labels.partition(f'{name}="')
    return rest.partition('"')[0] if found else ""
