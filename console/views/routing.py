"""Routing: aliases at the gateway, and the deployments that stand behind each."""

from __future__ import annotations

import time
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_http_methods

from console import actions, states
from console.actions.aliases import find_alias
from console.alias_forms import AliasForm, EditAliasForm
from console.aliases import aliases, values_of
from console.auth import require
from console.models import GatewayAlias
from serving.errors import Conflict, NotFound, RaydeckError


@require("viewer")
@require_GET
def routing(request: HttpRequest) -> HttpResponse:
    """Every alias with its deployments, their shares and what they are doing now."""
    by_name = {state["name"]: state for state in states.deployment_states(time.time())}
    context = {
        "rows": [_row(alias, by_name) for alias in aliases()],
        "has_deployments": bool(by_name),
        "base_url": f"{settings.GATEWAY_URL.rstrip('/')}/v1",
    }
    return render(request, "routing/list.html", context)


@require("operator")
@require_http_methods(["GET", "HEAD", "POST"])
def routing_new(request: HttpRequest) -> HttpResponse:
    """Create an alias."""
    form = AliasForm(request.POST or None)
    if request.method != "POST":
        return render(request, "routing/form.html", {"form": form})
    if form.is_valid():
        try:
            alias = actions.create_alias(
                actor=_actor(request), name=form.cleaned_data["name"], **form.values()
            )
        except RaydeckError as error:
            form.refuse(error)
        else:
            messages.success(request, f"The alias {alias.name} is there; the gateway knows it in a second.")
            return redirect("routing")
    return render(request, "routing/form.html", {"form": form}, status=400)


@require("operator")
@require_http_methods(["GET", "HEAD", "POST"])
def routing_edit(request: HttpRequest, name: str) -> HttpResponse:
    """Change what stands behind an alias; told, and nothing lost, when somebody else was faster."""
    alias = _alias(name)
    if request.method != "POST":
        return render(request, "routing/form.html", {"form": EditAliasForm.of(alias), "alias": alias})
    form = EditAliasForm(request.POST)
    status = 400
    if form.is_valid():
        version = form.cleaned_data["expected_version"]
        try:
            actions.edit_alias(actor=_actor(request), name=name, expected_version=version, **form.values())
        except Conflict as error:
            status = 409
            form.meet(error)
        except RaydeckError as error:
            form.refuse(error)
        else:
            messages.success(request, f"{name} is saved.")
            return redirect("routing")
    context = {"form": form, "alias": alias, "stored": values_of(_alias(name)) if status == 409 else None}
    return render(request, "routing/form.html", context, status=status)


@require("operator")
@require_http_methods(["GET", "HEAD", "POST"])
def routing_delete(request: HttpRequest, name: str) -> HttpResponse:
    """Delete an alias after its name was typed; the deployments stay."""
    alias = _alias(name)
    if request.method != "POST":
        return render(request, "routing/delete.html", {"alias": alias})
    if request.POST.get("typed_name", "").strip() != name:
        context = {"alias": alias, "error": f"Type {name} to confirm; it was not deleted."}
        return render(request, "routing/delete.html", context, status=400)
    actions.delete_alias(actor=_actor(request), name=name)
    messages.success(request, f"The alias {name} is deleted.")
    return redirect("routing")


def _row(alias: GatewayAlias, by_name: dict[str, Any]) -> dict[str, Any]:
    targets = [(row, by_name.get(row.deployment.name, {})) for row in alias.targets.all()]
    total = sum(row.weight or 0 for row, _ in targets)
    return {
        "alias": alias,
        "targets": [
            {"name": row.deployment.name, "state": state, "share": round(100 * row.weight / total)}
            for row, state in targets
            if row.weight is not None
        ],
        "fallback": [
            {"name": row.deployment.name, "state": state} for row, state in targets if row.weight is None
        ],
    }


def _alias(name: str) -> GatewayAlias:
    try:
        return find_alias(name)
    except NotFound as error:
        raise Http404(error.message) from error


def _actor(request: HttpRequest) -> actions.Actor:
    return actions.Actor(request.user, "page")  # type: ignore[arg-type]


urlpatterns = [
    path("routing/", routing, name="routing"),
    path("routing/new/", routing_new, name="routing-new"),
    path("routing/<str:name>/edit/", routing_edit, name="routing-edit"),
    path("routing/<str:name>/delete/", routing_delete, name="routing-delete"),
]
