"""Rows -> what the cluster should run: the list of DeploymentSpecs and the gateway's key table. Read only.

A generation that has failed is left out of the document, so that it frees what it held and is not started
again with every other change; the gateway still answers for it with the reason.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from pydantic import ValidationError

from console import ports, secrets
from console.aliases import gateway_aliases
from console.models import ApiKey, Deployment, DesiredState, Revision
from serving.limits import DeploymentLimits, KeyLimits
from serving.render import ClusterOptions, GatewayTable, render
from serving.spec import CapacitySpec, DeploymentSpec, EngineSpec

log = logging.getLogger(__name__)
CAPACITY_FIELDS = tuple(CapacitySpec.model_fields)


@dataclass(frozen=True)
class Desired:
    """The whole Serve document, the specs it was made from, and what of the rows could not be read."""

    document: dict[str, Any]
    specs: dict[str, DeploymentSpec]
    unreadable: dict[str, str]


def desired_document() -> Desired:
    """What the database wants now. A row that cannot be read is left out with its reason: it must not keep
    all others from being followed."""
    specs, unreadable = desired_deployments()
    options = ClusterOptions(
        gateway_host=settings.GATEWAY_HOST,
        gateway_port=ports.port("gateway"),
        pythonpath=settings.CLUSTER_PYTHONPATH,
        installation=installation(),
    )
    table = GatewayTable(keys=gateway_keys(), hold_s=settings.WAKE_HOLD_S, aliases=gateway_aliases())
    document = render(specs, table=table, options=options)
    return Desired(document, {spec.name: spec for spec in specs}, unreadable)


def desired_deployments() -> tuple[list[DeploymentSpec], dict[str, str]]:
    """One spec per deployment, in order of name, and name -> reason of those that cannot be read."""
    specs, unreadable = [], {}
    rows = Deployment.objects.select_related("current_revision", "status", "model").order_by("name")
    for row in rows:
        if row.current_revision is None:
            continue
        try:
            specs.append(spec_of(row))
        except secrets.SecretError as error:
            unreadable[row.name] = str(error)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            unreadable[row.name] = f"Its stored definition is not valid any more: {field}: {first['msg']}"
    return specs, unreadable


def installation() -> str:
    """What marks this console's applications on a cluster: stable, and no secret."""
    return hashlib.sha256(b"raydeck installation:" + secrets.secret_key().encode()).hexdigest()[:16]


def spec_of(deployment: Deployment) -> DeploymentSpec:
    """One deployment's spec, with the state the gateway shall speak of."""
    revision = deployment.current_revision
    assert revision is not None
    state, reason = _state_of(deployment)
    return DeploymentSpec(
        name=deployment.name,
        deployment_id=deployment.pk,
        revision=revision.number,
        generation=deployment.generation,
        state=state,
        reason=reason,
        created_at=int(deployment.created_at.timestamp()),
        engine=EngineSpec(**revision.engine),
        capacity=CapacitySpec(**{name: getattr(deployment, name) for name in CAPACITY_FIELDS}),
        limits=DeploymentLimits(**deployment.limits).for_gateway(),
        secret_env=_secret_env(revision),
    )


def gateway_keys() -> dict[str, dict[str, Any]]:
    """Digest -> id, name, kind and limits of every key that is not revoked. A key whose limits cannot be read
    is left out: without them it must not pass."""
    found: dict[str, dict[str, Any]] = {}
    for row in ApiKey.objects.filter(revoked_at=None).order_by("pk"):
        entry: dict[str, Any] = {"id": row.pk, "name": row.name, "kind": row.kind}
        try:
            limits = KeyLimits(**row.limits).for_gateway()
        except ValidationError as error:
            log.error(
                "key=%d left out: its stored limits are not valid: %s", row.pk, error.errors()[0]["msg"]
            )
            continue
        found[row.digest] = {**entry, "limits": limits} if limits else entry
    return found


def _state_of(deployment: Deployment) -> tuple[Any, str]:
    if deployment.desired_state == DesiredState.STOPPED:
        return "stopped", "It was stopped by an operator."
    status = getattr(deployment, "status", None)
    if status and status.failed_at is not None and status.generation == deployment.generation:
        return "failed", "It failed to start; an operator has to look at it."
    return "serve", ""


def _secret_env(revision: Revision) -> dict[str, str]:
    encrypted = revision.hub_token_encrypted
    return {"HF_TOKEN": secrets.decrypt(encrypted)} if encrypted else {}
