"""/deployments/NAME/slo, /alerts and /alert-webhook: objectives, what burned them, and who is told."""

from __future__ import annotations

import time
from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from ninja import Query, Router
from ninja.responses import Status

from console import actions
from console import slo as read_side
from console.actions.deployments import find_deployment
from console.api.activity import EVENT_CURSOR, Before
from console.api.errors import invalid
from console.api.inputs import SloInput, WebhookInput
from console.api.outputs import AlertOut, DeliveryOut, Feed, Page, StandingOut, WebhookOut
from console.api.routing import IfMatch, Limit, Offset, expected_version, operation, set_version
from console.api.security import caller_of
from console.models import Alert, AlertWebhook, WebhookDelivery

router = Router(tags=["objectives"])

Named = Annotated[str | None, Query(max_length=40)]
Open = Annotated[bool | None, Query(alias="open", description="true: those not resolved yet")]


@operation(router, "GET", "/deployments/{name}/slo", role="viewer", answer=StandingOut)
def get_slo(request: HttpRequest, response: HttpResponse, name: str) -> dict[str, Any]:
    """Objectives, error budget left, burn rates and open alerts, as of `evaluated_at` (every 30 s)."""
    return _standing(response, name)


@operation(router, "PATCH", "/deployments/{name}/slo", role="operator", answer=StandingOut)
def edit_slo(
    request: HttpRequest, response: HttpResponse, name: str, body: SloInput, if_match: IfMatch = None
) -> dict[str, Any]:
    """Change objectives. No replica restarts; the version is the deployment's own."""
    version = expected_version(header=if_match, body=body.expected_version)
    actions.edit_slo(
        actor=caller_of(request).actor, name=name, expected_version=version, changes=body.given()
    )
    return _standing(response, name)


@operation(router, "GET", "/alerts", role="viewer", answer=Feed[AlertOut])
def list_alerts(
    request: HttpRequest,
    limit: Limit = 50,
    before: Before = None,
    deployment: Named = None,
    is_open: Open = None,
) -> dict[str, Any]:
    """Alerts of all deployments, newest first."""
    rows = Alert.objects.order_by("-id")
    if deployment is not None:
        rows = rows.filter(deployment_name=deployment)
    if is_open is not None:
        rows = rows.filter(resolved_at__isnull=is_open)
    if before is not None:
        if not EVENT_CURSOR.match(before):
            raise invalid("Give the next_before of an earlier answer.", field="before")
        rows = rows.filter(pk__lt=int(before))
    items = list(rows[: limit + 1])
    more, items = len(items) > limit, items[:limit]
    return {"items": items, "next_before": str(items[-1].pk) if more else None}


@operation(router, "GET", "/alert-webhook", role="admin", answer=WebhookOut)
def get_webhook(request: HttpRequest, response: HttpResponse) -> AlertWebhook:
    """Where alerts are sent."""
    hook = read_side.webhook()
    set_version(response, hook.version)
    return hook


@operation(router, "PATCH", "/alert-webhook", role="admin", answer=WebhookOut)
def edit_webhook(
    request: HttpRequest, response: HttpResponse, body: WebhookInput, if_match: IfMatch = None
) -> AlertWebhook:
    """Change where alerts are sent, and which."""
    version = expected_version(header=if_match, body=body.expected_version)
    hook = actions.edit_webhook(
        actor=caller_of(request).actor, expected_version=version, changes=body.given()
    )
    set_version(response, hook.version)
    return hook


@operation(router, "POST", "/alert-webhook/test", role="admin", answer=DeliveryOut, status=201)
def send_test(request: HttpRequest) -> Status[WebhookDelivery]:
    """Send a test message. Its delivery, listed under deliveries, says what became of it."""
    return Status(201, actions.send_test(actor=caller_of(request).actor))


@operation(router, "GET", "/alert-webhook/deliveries", role="admin", answer=Page[DeliveryOut])
def list_deliveries(request: HttpRequest, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    """Messages of the last 30 days, newest first, each with its status, attempts and last error."""
    rows = WebhookDelivery.objects.order_by("-created_at")
    return {
        "items": list(rows[offset : offset + limit]),
        "total": rows.count(),
        "limit": limit,
        "offset": offset,
    }


def _standing(response: HttpResponse, name: str) -> dict[str, Any]:
    deployment = find_deployment(name)
    set_version(response, deployment.version)
    return read_side.standing(deployment, time.time())
