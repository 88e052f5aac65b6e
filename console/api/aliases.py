"""/aliases: names at the gateway behind which several deployments stand."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import Router
from ninja.responses import Status

from console import actions
from console.actions.aliases import find_alias
from console.aliases import values_of
from console.api.inputs import AliasChange, AliasInput
from console.api.outputs import AliasOut, Page
from console.api.routing import (
    IdempotencyKey,
    IfMatch,
    Limit,
    Offset,
    expected_version,
    method_and_path,
    operation,
    set_version,
)
from console.api.security import caller_of
from console.idempotency import create_once
from console.models import GatewayAlias

router = Router(tags=["aliases"])


@operation(router, "GET", "", role="viewer", answer=Page[AliasOut])
def list_aliases(request: HttpRequest, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    """All aliases in order of name."""
    rows = GatewayAlias.objects.prefetch_related("targets__deployment")
    return {
        "items": [alias_out(row) for row in rows[offset : offset + limit]],
        "total": rows.count(),
        "limit": limit,
        "offset": offset,
    }


@operation(router, "POST", "", role="operator", answer=AliasOut, status=201)
def create_alias(
    request: HttpRequest, response: HttpResponse, body: AliasInput, idempotency_key: IdempotencyKey = None
) -> Status[dict[str, Any]]:
    """Create an alias.

    Callers name it as `model`. Of its targets one is drawn by weight; where it is stopped, failed, asleep for
    too long, or answers 429 or 5xx before the first byte, the other targets and then the fallback are tried.
    """
    caller = caller_of(request)

    def create() -> tuple[int, dict[str, Any]]:
        return 201, alias_out(actions.create_alias(actor=caller.actor, **body.model_dump()))

    answer = create_once(
        user=caller.user,
        key=idempotency_key,
        method_and_path=method_and_path(request),
        request=body.model_dump(),
        create=create,
    )
    response["Idempotent-Replayed"] = str(answer.replayed).lower()
    return Status(answer.status, answer.body)


@operation(router, "GET", "/{name}", role="viewer", answer=AliasOut)
def get_alias(request: HttpRequest, response: HttpResponse, name: str) -> dict[str, Any]:
    """One alias."""
    alias = find_alias(name)
    set_version(response, alias.version)
    return alias_out(alias)


@operation(router, "PATCH", "/{name}", role="operator", answer=AliasOut)
def edit_alias(
    request: HttpRequest, response: HttpResponse, name: str, body: AliasChange, if_match: IfMatch = None
) -> dict[str, Any]:
    """Change targets or fallback. Applied in place: nothing restarts."""
    version = expected_version(header=if_match, body=body.expected_version)
    given = body.model_dump(exclude_unset=True, exclude={"expected_version"})
    alias = actions.edit_alias(actor=caller_of(request).actor, name=name, expected_version=version, **given)
    set_version(response, alias.version)
    return alias_out(alias)


@operation(router, "DELETE", "/{name}", role="operator", answer=None, status=204)
def delete_alias(request: HttpRequest, name: str) -> Status[None]:
    """Delete an alias; its deployments are left alone."""
    actions.delete_alias(actor=caller_of(request).actor, name=name)
    return Status(204, None)


def alias_out(alias: GatewayAlias) -> dict[str, Any]:
    """A row as the API gives it, in JSON types only."""
    names = ("name", "version", "created_at", "updated_at")
    shown = {**{name: getattr(alias, name) for name in names}, **values_of(alias)}
    return AliasOut.model_validate(shown).model_dump(mode="json")
