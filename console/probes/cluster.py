"""Probes of what runs on Ray: nodes, Serve, gateway, metrics pages. All over HTTP; they change nothing."""

from typing import Any

import httpx
from django.conf import settings

from console import secrets
from console.probes.state import START_IT, TIMEOUT_S, PartState
from serving import keys
from serving.client import RayClient
from serving.errors import RaydeckError


def ray_cluster() -> PartState:
    """Whether Ray's dashboard answers and which nodes are alive."""
    try:
        with _ray() as client:
            version, nodes = client.version(), client.get_nodes()
    except RaydeckError as error:
        return PartState("ray", "fail", error.message, _ray_advice(error))
    alive = [node for node in nodes if node.is_alive]
    said = f"Ray {version.ray}, {len(alive)} of {len(nodes)} nodes alive"
    if not alive:
        return PartState("ray", "fail", said, "No node is alive: see logs/ray.log.")
    if len(alive) < len(nodes):
        lost = ", ".join(node.host_name or node.address for node in nodes if not node.is_alive)
        return PartState("ray", "warn", said, f"Bring back or remove: {lost}.")
    return PartState("ray", "ok", said)


def serve() -> PartState:
    """Whether Serve runs and every application on it is well."""
    try:
        with _ray() as client:
            state = client.get_serve_state()
    except RaydeckError as error:
        return PartState("serve", "fail", error.message, _ray_advice(error))
    applications: dict[str, Any] = state.get("applications") or {}
    if not applications:
        return PartState(
            "serve",
            "warn",
            "no application yet",
            "The worker sends them 10 s after Ray's start.",
        )
    unwell = {
        name: str(facts.get("status"))
        for name, facts in applications.items()
        if facts.get("status") != "RUNNING"
    }
    said = f"{len(applications) - len(unwell)} of {len(applications)} applications running"
    if not unwell:
        return PartState("serve", "ok", said)
    listed = ", ".join(f"{name} {status}" for name, status in sorted(unwell.items()))
    broken = any(status in ("DEPLOY_FAILED", "UNHEALTHY") for status in unwell.values())
    return PartState("serve", "fail" if broken else "warn", f"{said}: {listed}", "See the deployment's page.")


def gateway() -> PartState:
    """Whether the gateway answers, refuses a call without a key, and takes the console's own key."""
    base = f"{settings.GATEWAY_URL}/v1"
    own_key = keys.internal_key(pepper=secrets.key_pepper(), purpose="smoke")
    try:
        without = httpx.get(f"{base}/models", timeout=TIMEOUT_S).status_code
        # Only something that asks for keys gets to see ours.
        shown = {"Authorization": f"Bearer {own_key}"} if without == 401 else {}
        with_key = httpx.get(f"{base}/models", headers=shown, timeout=TIMEOUT_S).status_code
    except httpx.HTTPError as error:
        return PartState(
            "gateway",
            "fail",
            f"{base} does not answer ({type(error).__name__})",
            "It is an application on Ray: see the lines ray and serve, and RAYDECK_GATEWAY_URL.",
        )
    if without != 401:
        return PartState(
            "gateway",
            "fail",
            f"{base} answered {without} without a key, not 401",
            "Something else may listen there: check RAYDECK_GATEWAY_URL, then the serve line.",
        )
    if with_key != 200:
        return PartState(
            "gateway",
            "fail",
            f"{base} answers, but refuses the console's own key ({with_key})",
            "Give the cluster the console's RAYDECK_KEY_PEPPER. Right after a start, ask again in 10 s.",
        )
    said = f"{base} answers and takes the console's keys"
    health = _health()
    if _part(health, "limits").get("redis") in ("away", "off"):
        return PartState(
            "gateway",
            "warn",
            f"{said}; it cannot reach Redis, so each of its replicas keeps the limits by itself",
            "Check the cluster's RAYDECK_USAGE_REDIS_URL and that Redis can be reached from its nodes.",
        )
    lost = _unrecorded_requests(health)
    if lost:
        return PartState(
            "gateway",
            "warn",
            f"{said}; {lost} requests since its start are missing in the ledger",
            "The gateway could reach neither Redis nor its spool: check the cluster's "
            "RAYDECK_USAGE_REDIS_URL, then room and rights in RAYDECK_SPOOL_DIR.",
        )
    return PartState("gateway", "ok", said)


def metrics_pages() -> PartState:
    """Whether the metrics page of every living node can be read from here."""
    try:
        with _ray() as client:
            targets = [node.metrics_url for node in client.get_nodes() if node.is_alive and node.metrics_url]
            silent = [target for target in targets if not _page_answers(client, target)]
    except RaydeckError as error:
        return PartState("metrics", "fail", error.message, _ray_advice(error))
    said = f"{len(targets) - len(silent)} of {len(targets)} nodes' pages answer"
    if silent or not targets:
        listed = ", ".join(silent) or "none is announced"
        return PartState("metrics", "fail", said, f"Open these to the console's machine: {listed}.")
    return PartState("metrics", "ok", said)


def _ray() -> RayClient:
    return RayClient.from_token_file(settings.RAY_DASHBOARD_URL, settings.RAY_TOKEN_FILE, timeout_s=TIMEOUT_S)


def _ray_advice(error: RaydeckError) -> str:
    if error.field == "token":
        return "Put the cluster's token into the file that RAYDECK_RAY_TOKEN_FILE names."
    if settings.RAY_IS_EMBEDDED:
        return START_IT
    return "Check RAYDECK_RAY_DASHBOARD_URL and that the cluster's head runs and can be reached from here."


def _health() -> dict[str, Any]:
    """What the answering gateway replica says of itself; empty where it says nothing."""
    try:
        said = httpx.get(f"{settings.GATEWAY_URL}/healthz", timeout=TIMEOUT_S).json()
    except (httpx.HTTPError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _part(health: dict[str, Any], name: str) -> dict[str, Any]:
    part = health.get(name)
    return part if isinstance(part, dict) else {}


def _unrecorded_requests(health: dict[str, Any]) -> int:
    """Requests whose usage record it could keep nowhere; 0 where it says nothing."""
    try:
        return int(_part(health, "usage")["unrecorded"])
    except (ValueError, KeyError, TypeError):
        return 0


def _page_answers(client: RayClient, target: str) -> bool:
    try:
        client.read_metrics(target)
    except RaydeckError:
        return False
    return True
