"""Every TCP port Raydeck listens on, in one table: name -> (environment variable, default).

RAYDECK_PORT_OFFSET is added to defaults only, never to a port that was given by name; steps of 1000 keep
two copies apart (the worker range is 500 ports wide). Plain Python, no Django: settings import this.
"""

import os
from typing import NamedTuple


class PortError(ValueError):
    """A port variable holds something that is not a port; the message names the variable."""


class PortEntry(NamedTuple):
    """How one port is configured: the variable that sets it, its default, and what listens there."""

    variable: str
    default: int
    purpose: str


PORTS: dict[str, PortEntry] = {
    "web": PortEntry("RAYDECK_PORT", 8080, "web console"),
    "gateway": PortEntry("RAYDECK_GATEWAY_PORT", 8000, "gateway (OpenAI-compatible API)"),
    "redis": PortEntry("RAYDECK_REDIS_PORT", 6390, "embedded Redis"),
    "ray_gcs": PortEntry("RAYDECK_RAY_GCS_PORT", 6391, "Ray control store (GCS)"),
    "ray_dashboard": PortEntry("RAYDECK_RAY_DASHBOARD_PORT", 8265, "Ray dashboard and Serve REST API"),
    "ray_dashboard_agent": PortEntry("RAYDECK_RAY_DASHBOARD_AGENT_PORT", 6392, "Ray dashboard agent, HTTP"),
    "ray_dashboard_agent_grpc": PortEntry(
        "RAYDECK_RAY_DASHBOARD_AGENT_GRPC_PORT", 6393, "Ray dashboard agent, gRPC"
    ),
    "ray_node_manager": PortEntry("RAYDECK_RAY_NODE_MANAGER_PORT", 6394, "Ray node manager"),
    "ray_object_manager": PortEntry("RAYDECK_RAY_OBJECT_MANAGER_PORT", 6395, "Ray object manager"),
    "ray_runtime_env_agent": PortEntry(
        "RAYDECK_RAY_RUNTIME_ENV_AGENT_PORT", 6396, "Ray runtime environment agent"
    ),
    "ray_metrics_export": PortEntry("RAYDECK_RAY_METRICS_PORT", 6397, "Ray node metrics page"),
    "ray_autoscaler_metrics": PortEntry(
        "RAYDECK_RAY_AUTOSCALER_METRICS_PORT", 6398, "Ray autoscaler metrics page"
    ),
    "ray_dashboard_metrics": PortEntry(
        "RAYDECK_RAY_DASHBOARD_METRICS_PORT", 6399, "Ray dashboard metrics page"
    ),
    "ray_client": PortEntry("RAYDECK_RAY_CLIENT_PORT", 6400, "Ray client server"),
    "serve_grpc": PortEntry("RAYDECK_SERVE_GRPC_PORT", 6401, "Ray Serve gRPC proxy"),
    "serve_fallback_http": PortEntry(
        "RAYDECK_SERVE_FALLBACK_HTTP_PORT", 6402, "Ray Serve fallback proxy, HTTP"
    ),
    "serve_fallback_grpc": PortEntry(
        "RAYDECK_SERVE_FALLBACK_GRPC_PORT", 6403, "Ray Serve fallback proxy, gRPC"
    ),
    "haproxy_metrics": PortEntry("RAYDECK_HAPROXY_METRICS_PORT", 6404, "HAProxy metrics page"),
    "haproxy_stats": PortEntry("RAYDECK_HAPROXY_STATS_PORT", 6405, "HAProxy statistics page"),
    "ray_worker_first": PortEntry("RAYDECK_RAY_WORKER_PORT_FIRST", 6500, "first Ray worker port"),
    "ray_worker_last": PortEntry("RAYDECK_RAY_WORKER_PORT_LAST", 6799, "last Ray worker port"),
    "serve_replica_first": PortEntry(
        "RAYDECK_SERVE_REPLICA_PORT_FIRST", 6800, "first HTTP port of Serve replicas"
    ),
    "serve_replica_last": PortEntry(
        "RAYDECK_SERVE_REPLICA_PORT_LAST", 6999, "last HTTP port of Serve replicas"
    ),
}

# The two ends of a range are bounds, not listeners of their own.
RANGE_BOUNDS = frozenset({"ray_worker_first", "ray_worker_last", "serve_replica_first", "serve_replica_last"})


def port(name: str) -> int:
    """The port called `name`: its own variable, else its default plus RAYDECK_PORT_OFFSET.

    Raises KeyError for a name not in PORTS and PortError for a value outside 1..65535.
    """
    entry = PORTS[name]
    given = os.environ.get(entry.variable, "").strip()
    if given:
        return _as_port(given, variable=entry.variable)
    shifted = entry.default + port_offset()
    if not 1 <= shifted <= 65535:
        raise PortError(f"RAYDECK_PORT_OFFSET={port_offset()} puts {entry.purpose} on {shifted}, no port.")
    return shifted


def port_offset() -> int:
    """RAYDECK_PORT_OFFSET as an integer, 0 by default."""
    given = os.environ.get("RAYDECK_PORT_OFFSET", "").strip() or "0"
    try:
        return int(given)
    except ValueError:
        raise PortError(f"RAYDECK_PORT_OFFSET={given!r} is not a whole number.") from None


def _as_port(text: str, *, variable: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise PortError(f"{variable}={text!r} is not a port number.") from None
    if not 1 <= number <= 65535:
        raise PortError(f"{variable}={number} is not between 1 and 65535.")
    return number
