"""Aliases as they are wanted: the read side, and the rules they share with deployments. Writes nothing."""

from __future__ import annotations

from typing import Any

from console.models import Deployment, GatewayAlias
from serving.errors import InUse, InvalidSpec


def aliases() -> list[GatewayAlias]:
    """All aliases in order of name with their targets, in a constant number of queries."""
    return list(GatewayAlias.objects.prefetch_related("targets__deployment"))


def values_of(alias: GatewayAlias) -> dict[str, Any]:
    """{targets: [{deployment, weight}], fallback: [deployment]} in the order they were given."""
    rows = list(alias.targets.all())
    return {
        "targets": [
            {"deployment": row.deployment.name, "weight": row.weight}
            for row in rows
            if row.weight is not None
        ],
        "fallback": [row.deployment.name for row in rows if row.weight is None],
    }


def gateway_aliases() -> dict[str, dict[str, Any]]:
    """Name -> what the gateway needs to know of it."""
    return {
        alias.name: {**values_of(alias), "created": int(alias.created_at.timestamp())} for alias in aliases()
    }


def check_no_alias(name: str) -> None:
    """Deployments and aliases share one space of names: callers give either as `model`."""
    if GatewayAlias.objects.filter(name=name).exists():
        raise InvalidSpec(f"There already is an alias called {name}; choose another name.", field="name")


def check_behind_no_alias(deployment: Deployment) -> None:
    """Raises InUse naming the aliases that a deployment stands behind."""
    names = list(
        GatewayAlias.objects.filter(targets__deployment=deployment).values_list("name", flat=True)[:5]
    )
    if names:
        what = "the alias" if len(names) == 1 else "the aliases"
        raise InUse(
            f"{deployment.name} is used by {what} {', '.join(names)}; take it out there first (page Routing)."
        )
