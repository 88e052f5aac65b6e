"""/api/v1: the REST admin API. Every write goes through console/actions, every read through its read side.

Nothing here knows a rule of its own: what may be deployed is decided in serving/ and console/actions.
"""

from console.api import (
    accelerators,
    access,
    activity,
    aliases,
    cluster,
    cost,
    deployment_parts,
    deployments,
    plan,
    registry,
    slo,
)
from console.api.application import AdminApi

DESCRIPTION = """
Models, deployments, keys and the cluster of this console, as JSON. Authenticate with a bearer token; a
browser's session works too, with its CSRF token in the header X-CSRFToken. Every refusal has the form
{"error": {"code", "message", "field", "details"}}. Creating takes an Idempotency-Key; changing takes the
version you have read, as expected_version or If-Match.
""".strip()

api = AdminApi(title="Raydeck admin API", version="1", description=DESCRIPTION, urls_namespace="api-v1")
api.add_router("/models", registry.router)
api.add_router("/deployments", deployments.router)
api.add_router("/deployments", deployment_parts.router)
api.add_router("/deployments", cost.of_deployment)
api.add_router("/cost", cost.router)
api.add_router("/aliases", aliases.router)
api.add_router("/plan", plan.router)
api.add_router("/accelerators", accelerators.router)
api.add_router("/cluster", cluster.router)
api.add_router("", slo.router)
api.add_router("", activity.router)
api.add_router("", access.router)
