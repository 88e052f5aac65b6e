"""Alerts, the webhook they are sent to, and the objectives of a deployment."""

from __future__ import annotations

import time
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from console import actions, slo
from console.auth import require
from console.differences import differences
from console.models import Alert, DeliveryStatus, Deployment, WebhookDelivery
from console.slo_forms import SloForm, WebhookForm
from console.views import deployment_pages
from serving.errors import Conflict, RaydeckError

PER_PAGE = 50
DELIVERIES_SHOWN = 20


@require("viewer")
@require_GET
def alerts(request: HttpRequest) -> HttpResponse:
    """Alerts of all deployments: open ones first, then the newest."""
    page = Paginator(Alert.objects.order_by("-id"), PER_PAGE).get_page(request.GET.get("page"))
    names = {alert.deployment_name for alert in page}
    context = {
        "page": page,
        "rows": [{"alert": row, "words": slo.alert_words(row)} for row in page],
        "open": [
            {"alert": row, "words": slo.alert_words(row)}
            for row in Alert.objects.filter(resolved_at=None).order_by("speed", "opened_at")[:PER_PAGE]
        ],
        "existing": set(Deployment.objects.filter(name__in=names).values_list("name", flat=True)),
        "now": time.time(),
    }
    return render(request, "alerts/list.html", context)


@require("admin")
@require_http_methods(["GET", "HEAD", "POST"])
def alert_settings(request: HttpRequest) -> HttpResponse:
    """The webhook: address, secret, which alerts; its last messages."""
    hook = slo.webhook()
    if request.method != "POST":
        names = ("url", "enabled", "sends_fast", "sends_slow", "sends_resolved")
        initial = {name: getattr(hook, name) for name in names}
        return _settings_page(request, WebhookForm(initial={**initial, "expected_version": hook.version}))
    form = WebhookForm(request.POST)
    if not form.is_valid():
        return _settings_page(request, form, status=400)
    changes = dict(form.cleaned_data)
    version = changes.pop("expected_version")
    try:
        actions.edit_webhook(actor=_actor(request), expected_version=version, changes=changes)
    except RaydeckError as error:
        form.refuse(error)
        return _settings_page(request, form, status=409 if isinstance(error, Conflict) else 400)
    messages.success(request, "The webhook is saved.")
    return redirect("alert-settings")


@require("admin")
@require_POST
def alert_test(request: HttpRequest) -> HttpResponse:
    """Send a test message; the list of deliveries shows what becomes of it."""
    try:
        actions.send_test(actor=_actor(request))
    except RaydeckError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "A test message is on its way; its outcome is below.")
    return redirect("alert-settings")


@require("admin")
@require_GET
def alert_deliveries(request: HttpRequest) -> HttpResponse:
    """The table of messages alone; it fetches itself while one is under way."""
    return render(request, "alerts/deliveries.html", _deliveries())


@require("operator")
@require_http_methods(["GET", "HEAD", "POST"])
def deployment_slo(request: HttpRequest, name: str) -> HttpResponse:
    """A deployment's objectives. Who comes second is shown what is stored; what was typed stays."""
    deployment = deployment_pages.find(name)
    if request.method != "POST":
        return _slo_page(request, deployment, SloForm.of(slo.spec_of(deployment), deployment.version))
    form = SloForm(request.POST)
    if not form.is_valid():
        return _slo_page(request, deployment, form, status=400)
    changes = form.changes()
    try:
        actions.edit_slo(
            actor=_actor(request),
            name=name,
            expected_version=form.cleaned_data["expected_version"],
            changes=changes,
        )
    except Conflict as error:
        form.refuse(error)
        stored: dict[str, Any] = dict(error.current["values"])  # type: ignore[call-overload]
        form.data = {**form.data.dict(), "expected_version": str(error.current["version"])}  # type: ignore[attr-defined]
        return _slo_page(request, deployment, form, status=409, conflict=differences(stored, changes))
    except RaydeckError as error:
        form.refuse(error)
        return _slo_page(request, deployment, form, status=400)
    messages.success(request, f"The objectives of {name} are saved.")
    return redirect("deployment", name=name)


def _slo_page(
    request: HttpRequest, deployment: Deployment, form: SloForm, *, status: int = 200, **more: Any
) -> HttpResponse:
    context = {"deployment": deployment, "form": form, **more}
    return render(request, "deployments/slo_form.html", context, status=status)


def _settings_page(request: HttpRequest, form: WebhookForm, *, status: int = 200) -> HttpResponse:
    hook = slo.webhook()
    words = "Stored; leave empty to keep it." if hook.has_secret else "At least 16 characters."
    form.fields["secret"].help_text = f"{words} Kept encrypted and never shown again."
    context = {"form": form, "hook": hook, **_deliveries()}
    return render(request, "alerts/settings.html", context, status=status)


def _deliveries() -> dict[str, Any]:
    rows = list(WebhookDelivery.objects.select_related("alert").order_by("-created_at")[:DELIVERIES_SHOWN])
    waiting = any(row.status == DeliveryStatus.QUEUED and row.attempts == 0 for row in rows)
    return {"deliveries": rows, "is_waiting": waiting}


def _actor(request: HttpRequest) -> actions.Actor:
    return actions.Actor(request.user, "page")  # type: ignore[arg-type]


urlpatterns = [
    path("alerts/", alerts, name="alerts"),
    path("settings/alerts/", alert_settings, name="alert-settings"),
    path("settings/alerts/test/", alert_test, name="alert-test"),
    path("settings/alerts/deliveries/", alert_deliveries, name="alert-deliveries"),
    path("deployments/<str:name>/slo/", deployment_slo, name="deployment-slo"),
]
