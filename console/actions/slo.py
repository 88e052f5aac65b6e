"""Writes on objectives: which share of a deployment's requests must be good."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import F
from django.utils import timezone
from pydantic import ValidationError

from console import live
from console.actions.deployments import find_deployment
from console.differences import words
from console.events import Actor, record
from console.models import Deployment, Slo
from console.slo import FIELDS, spec_of
from serving.errors import Conflict, InvalidSpec
from serving.slo import SloSpec


def edit_slo(*, actor: Actor, name: str, expected_version: int, changes: dict[str, Any]) -> Deployment:
    """Change a deployment's objectives; a partial map is enough, None takes an objective away.

    Raises Conflict when the deployment's version is not the expected one: nothing is changed then. No replica
    restarts, and alerts are judged by the new values at the next evaluation.
    """
    deployment = find_deployment(name)
    old = spec_of(deployment)
    new = _checked({**old.model_dump(), **changes})
    if deployment.version != expected_version:
        raise _conflict(deployment, old)
    if new == old:
        return deployment
    with transaction.atomic():
        claimed = Deployment.objects.filter(pk=deployment.pk, version=expected_version).update(
            version=F("version") + 1, updated_at=timezone.now()
        )
        if not claimed:
            raise _conflict(deployment, old)
        Slo.objects.update_or_create(
            deployment=deployment, defaults={field: getattr(new, field) for field in FIELDS}
        )
        record(
            actor=actor,
            kind="deployment.slo",
            message=f"Objectives: {words(old.model_dump(), new.model_dump())}",
            subject_kind="deployment",
            subject_name=deployment.name,
            deployment=deployment,
            before=old.model_dump(mode="json"),
            after=new.model_dump(mode="json"),
        )
        live.publish_changed(["overview", "deployments", f"deployment:{deployment.name}"], "status")
    return find_deployment(name)


def _checked(values: dict[str, Any]) -> SloSpec:
    try:
        return SloSpec(**values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidSpec(f"{first['msg']}.".replace("..", "."), field=field) from None


def _conflict(deployment: Deployment, stands: SloSpec) -> Conflict:
    last = deployment.events.order_by("-id").first()
    return Conflict(
        f"{last.actor if last else 'Somebody'} changed {deployment.name} while you were editing;"
        " nothing of yours was saved. Compare both and save again.",
        current={
            "version": deployment.version,
            "changed_by": last.actor if last else "",
            "changed_at": deployment.updated_at.isoformat(),
            "values": stands.model_dump(mode="json"),
        },
    )
