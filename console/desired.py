"""Rows -> what the cluster should run: the list of DeploymentSpecs and the gateway's key table. Read only.

A generation that has failed is left out of the document, so that it frees what it held and is not started
again with every other change; the gateway still answers for it with the reason.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings

from console import ports, secrets
from console.models import ApiKey, Deployment, DesiredState
from serving.render import ClusterOptions, GatewayTable, render
from serving.spec import CapacitySpec, DeploymentSpec, EngineSpec

CAPACITY_FIELDS = tuple(CapacitySpec.model_fields)


def desired_document() -> tuple[dict[str, Any], list[DeploymentSpec]]:
    """The whole Serve document as the database wants it now, and the specs it was made from."""
    specs = desired_deployments()
    options = ClusterOptions(
        gateway_host=settings.GATEWAY_HOST,
        gateway_port=ports.port("gateway"),
        pythonpath=settings.CLUSTER_PYTHONPATH,
    )
    table = GatewayTable(keys=gateway_keys(), hold_s=settings.WAKE_HOLD_S)
    return render(specs, table=table, options=options), specs


def desired_deployments() -> list[DeploymentSpec]:
    """One spec per deployment, in order of name."""
    rows = Deployment.objects.select_related("current_revision", "status", "model").order_by("name")
    return [spec_of(row) for row in rows if row.current_revision is not None]


def spec_of(deployment: Deployment) -> DeploymentSpec:
    """One deployment's spec, with the state the gateway shall speak of."""
    revision = deployment.current_revision
    assert revision is not None
    state, reason = _state_of(deployment)
    return DeploymentSpec(
        name=deployment.name,
        revision=revision.number,
        generation=deployment.generation,
        state=state,
        reason=reason,
        created_at=int(deployment.created_at.timestamp()),
        engine=EngineSpec(**revision.engine),
        capacity=CapacitySpec(**{name: getattr(deployment, name) for name in CAPACITY_FIELDS}),
        secret_env=_secret_env(deployment),
    )


def gateway_keys() -> dict[str, dict[str, Any]]:
    """Digest -> id, name and kind of every key that is not revoked."""
    rows = ApiKey.objects.filter(revoked_at=None).order_by("pk")
    return {row.digest: {"id": row.pk, "name": row.name, "kind": row.kind} for row in rows}


def _state_of(deployment: Deployment) -> tuple[Any, str]:
    if deployment.desired_state == DesiredState.STOPPED:
        return "stopped", "It was stopped by an operator."
    status = getattr(deployment, "status", None)
    if status and status.failed_at is not None and status.generation == deployment.generation:
        return "failed", "It failed to start; an operator has to look at it."
    return "serve", ""


def _secret_env(deployment: Deployment) -> dict[str, str]:
    encrypted = deployment.model.hub_token_encrypted
    return {"HF_TOKEN": secrets.decrypt(encrypted)} if encrypted else {}
