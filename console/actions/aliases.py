"""Writes on aliases: names at the gateway behind which several deployments stand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from console import live
from console.aliases import check_no_alias, values_of
from console.events import Actor, record
from console.models import AliasTarget, Deployment, GatewayAlias
from console.wakeup import wake_reconciler
from serving.errors import Conflict, InvalidSpec, NotFound
from serving.spec import NAME_HELP, NAME_PATTERN

HEAVIEST = 1000
MOST_DEPLOYMENTS = 20
RESERVED_NAMES = ("new",)
"""/routing/new/ is a page."""


def create_alias(
    *, actor: Actor, name: str, targets: Sequence[dict[str, Any]], fallback: Sequence[str] = ()
) -> GatewayAlias:
    """A new alias. `targets`: [{deployment, weight}], at least one; `fallback`: deployments, in order."""
    name = _checked_name(name)
    rows = _checked_targets(targets, fallback)
    try:
        with transaction.atomic():
            alias = GatewayAlias.objects.create(name=name, created_by=actor.user)
            # Looked at after our own row is in: of two people who take one name at once, one is refused.
            _check_no_deployment(name)
            _write_targets(alias, rows)
            _noted(
                actor, alias, kind="alias.created", message=f"Alias {name} created", after=values_of(alias)
            )
    except IntegrityError:
        check_no_alias(name)
        raise InvalidSpec("A deployment of this alias was deleted meanwhile.", field="targets") from None
    return alias


def edit_alias(
    *,
    actor: Actor,
    name: str,
    expected_version: int,
    targets: Sequence[dict[str, Any]] | None = None,
    fallback: Sequence[str] | None = None,
) -> GatewayAlias:
    """Change what stands behind an alias; None leaves a part as it is. Raises Conflict when somebody else was
    faster: nothing is changed then."""
    alias = find_alias(name)
    if alias.version != expected_version:
        raise _conflict(name)
    before = values_of(alias)
    rows = _checked_targets(
        before["targets"] if targets is None else targets,
        before["fallback"] if fallback is None else fallback,
    )
    if _values_of_rows(rows) == before:
        return alias
    with transaction.atomic():
        written = GatewayAlias.objects.filter(pk=alias.pk, version=expected_version).update(
            version=F("version") + 1, updated_at=timezone.now()
        )
        if not written:
            raise _conflict(name)
        alias.targets.all().delete()
        _write_targets(alias, rows)
        after = _values_of_rows(rows)
        message = f"Alias {name} changed"
        _noted(actor, alias, kind="alias.edited", message=message, before=before, after=after)
    return find_alias(name)


def delete_alias(*, actor: Actor, name: str) -> None:
    """Forget an alias; callers that name it get 404 from then on. The deployments are left alone."""
    alias = find_alias(name)
    with transaction.atomic():
        before = values_of(alias)
        GatewayAlias.objects.filter(pk=alias.pk).delete()
        _noted(actor, alias, kind="alias.deleted", message=f"Alias {name} deleted", before=before)


def find_alias(name: str) -> GatewayAlias:
    """The alias with its targets; raises NotFound."""
    alias = GatewayAlias.objects.prefetch_related("targets__deployment").filter(name=name).first()
    if alias is None:
        raise NotFound(f"There is no alias called {name[:60]}.", field="name")
    return alias


Row = tuple[Deployment, int | None]


def _checked_name(name: str) -> str:
    name = name.strip()
    if not re.match(NAME_PATTERN, name):
        raise InvalidSpec(f"Use {NAME_HELP}.", field="name")
    if name in RESERVED_NAMES:
        raise InvalidSpec(f"“{name}” is an address of the console's own; choose another name.", field="name")
    check_no_alias(name)
    _check_no_deployment(name)
    return name


def _check_no_deployment(name: str) -> None:
    if Deployment.objects.filter(name=name).exists():
        raise InvalidSpec(f"There already is a deployment called {name}; choose another name.", field="name")


def _checked_targets(targets: Sequence[dict[str, Any]], fallback: Sequence[str]) -> list[Row]:
    if not targets:
        raise InvalidSpec("Name at least one deployment.", field="targets")
    if len(targets) + len(fallback) > MOST_DEPLOYMENTS:
        raise InvalidSpec(
            f"No more than {MOST_DEPLOYMENTS} deployments stand behind one alias.", field="targets"
        )
    asked: list[tuple[str, int | None, str]] = [
        (str(one["deployment"]), _checked_weight(one.get("weight", 1)), "targets") for one in targets
    ]
    asked += [(str(one), None, "fallback") for one in fallback]
    known = {row.name: row for row in Deployment.objects.filter(name__in=[name for name, _, _ in asked])}
    rows: dict[str, Row] = {}
    for name, weight, field in asked:
        if name not in known:
            raise InvalidSpec(f"There is no deployment called {name[:40] or '(none)'}.", field=field)
        if name in rows:
            raise InvalidSpec(f"{name} is named twice.", field=field)
        rows[name] = (known[name], weight)
    return list(rows.values())


def _checked_weight(weight: Any) -> int:
    if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= HEAVIEST:
        raise InvalidSpec(f"A weight is a whole number from 1 to {HEAVIEST:,}.", field="targets")
    return weight


def _values_of_rows(rows: list[Row]) -> dict[str, Any]:
    return {
        "targets": [{"deployment": row.name, "weight": weight} for row, weight in rows if weight is not None],
        "fallback": [row.name for row, weight in rows if weight is None],
    }


def _write_targets(alias: GatewayAlias, rows: list[Row]) -> None:
    AliasTarget.objects.bulk_create(
        AliasTarget(alias=alias, deployment=deployment, weight=weight, position=position)
        for position, (deployment, weight) in enumerate(rows)
    )


def _conflict(name: str) -> Conflict:
    now = GatewayAlias.objects.prefetch_related("targets__deployment").filter(name=name).first()
    if now is None:
        return Conflict("Somebody deleted this alias in the meantime.", current={})
    return Conflict(
        "Somebody else changed this alias while you were editing; nothing of yours was saved.",
        current={
            "version": now.version,
            "changed_at": now.updated_at.isoformat(),
            "values": values_of(now),
        },
    )


def _noted(
    actor: Actor, alias: GatewayAlias, *, kind: str, message: str, before: Any = None, after: Any = None
) -> None:
    record(
        actor=actor,
        kind=kind,
        message=message,
        subject_kind="alias",
        subject_name=alias.name,
        before=before,
        after=after,
    )
    live.publish_changed(["keys"], "aliases")
    wake_reconciler()
