"""The workers' connection to Ray: the HTTP client with this installation's address and token."""

from __future__ import annotations

from django.conf import settings

from serving.client import RayClient
from serving.errors import RaydeckError

PHASE_SERIES = "ray_raydeck_phase_started_seconds"


def ray_client() -> RayClient:
    """A client for the configured cluster; use it as a context manager."""
    return RayClient(settings.RAY_DASHBOARD_URL, token_file=settings.RAY_TOKEN_FILE)


def replica_phases(ray: RayClient) -> dict[str, dict[str, float]]:
    """Replica id -> phase -> when it began (epoch seconds), from the replicas' own series.

    Empty when the metrics pages cannot be read: phases are then seen later, never invented.
    """
    try:
        pages = ray.read_metrics()
    except RaydeckError:
        return {}
    phases: dict[str, dict[str, float]] = {}
    for page in pages:
        for line in page.splitlines():
            if not line.startswith(PHASE_SERIES + "{"):
                continue
            labels, _, value = line.partition("} ")
            replica, phase = label_of(labels, "ReplicaId"), label_of(labels, "phase")
            if replica and phase:
                phases.setdefault(replica, {})[phase] = float(value.split()[0])
    return phases


def label_of(labels: str, name: str) -> str:
    """The value of one label in a series' text; empty when it is not there."""
    _, found, rest = labels.partition(f'{name}="')
    return rest.partition('"')[0] if found else ""
