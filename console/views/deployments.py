"""Deployments: the list, the form for a new one or a change, and every verb. Writes through actions only."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from console import actions
from console.auth import require
from console.deployment_plan import make_plan
from console.differences import Difference, differences
from console.forms import (
    CAPACITY_FIELDS,
    ENGINE_FIELDS,
    DeploymentForm,
    EditDeploymentForm,
    form_values,
    initial_of,
    without_stale_price,
)
from console.limit_forms import LIMIT_FIELDS
from console.limit_rows import deployment_lines
from console.models import Deployment
from console.placements import known_nodes
from console.views import deployment_logs, deployment_pages
from console.views.overview import fleet_rows
from serving.errors import Conflict, InvalidSpec, NotPlaceable, RaydeckError

REPEAT_WITHIN = timedelta(seconds=60)
"""The same form sent twice within this time is one submission (a double click, a reload)."""

FILTERS = {"all": "All", "serving": "Serving", "problem": "Problems"}


@require("viewer")
@require_GET
def deployment_list(request: HttpRequest) -> HttpResponse:
    """All deployments; `?status=serving|problem` and `?q=` filter."""
    return render(request, "deployments/list.html", _list_context(request))


@require("viewer")
@require_GET
def part_list(request: HttpRequest) -> HttpResponse:
    """The list's table alone."""
    return render(request, "deployments/list_table.html", _list_context(request))


@require("operator")
@require_http_methods(["GET", "HEAD", "POST"])
def deployment_new(request: HttpRequest) -> HttpResponse:
    """The form for a new deployment; `?model=` chooses a model, `?from=` copies another deployment."""
    if request.method != "POST":
        form = DeploymentForm(initial=_initial(request), present_types=_present_types())
        return _form_page(request, form)
    form = DeploymentForm(request.POST, present_types=_present_types())
    if not form.is_valid():
        return _form_page(request, form, status=400)
    name, arithmetic = form.cleaned_data["name"].strip(), []
    try:
        actions.create_deployment(
            actor=_actor(request),
            name=name,
            model=form.cleaned_data["model"],
            engine=form.engine(),
            capacity=form.capacity(),
            limits=form.limits(),
            note=form.cleaned_data["note"],
        )
    except RaydeckError as error:
        if _is_repeat(request, form, name):
            return redirect("deployment", name=name)
        form.refuse(error)
        arithmetic = error.arithmetic if isinstance(error, NotPlaceable) else []
        return _form_page(request, form, status=409 if arithmetic else 400, arithmetic=arithmetic)
    messages.success(request, f"{name} is being deployed.")
    return redirect("deployment", name=name)


@require("operator")
@require_http_methods(["GET", "HEAD", "POST"])
def deployment_edit(request: HttpRequest, name: str) -> HttpResponse:
    """Change a deployment. Who comes second is shown both versions; what was typed stays."""
    deployment = find(name)
    if request.method != "POST":
        form = EditDeploymentForm(initial=initial_of(deployment), present_types=_present_types())
        return _form_page(request, form, deployment=deployment)
    form = EditDeploymentForm(request.POST, present_types=_present_types())
    if not form.is_valid():
        return _form_page(request, form, deployment=deployment, status=400)
    try:
        actions.edit_deployment(
            actor=_actor(request),
            name=name,
            expected_version=form.cleaned_data["expected_version"],
            engine=form.engine(),
            capacity=without_stale_price(form.capacity(), deployment, form.cleaned_data["accelerator_type"]),
            limits=form.limits(),
            model=form.cleaned_data["model"],
            note=form.cleaned_data["note"],
        )
    except Conflict as error:
        return _conflict_page(request, form, deployment, error)
    except RaydeckError as error:
        form.refuse(error)
        arithmetic = error.arithmetic if isinstance(error, NotPlaceable) else []
        return _form_page(request, form, deployment=deployment, status=400, arithmetic=arithmetic)
    messages.success(request, f"{name} is saved.")
    return redirect("deployment", name=name)


@require("operator")
@require_http_methods(["GET", "HEAD", "POST"])
def deployment_check(request: HttpRequest) -> HttpResponse:
    """The plan panel for what the form holds now: claims, memory, money, or why it cannot be placed. Writes
    nothing; the page sends it as POST so that its token stays out of addresses and logs."""
    given = request.POST or request.GET
    editing = given.get("editing", "")
    kind = EditDeploymentForm if editing else DeploymentForm
    form = kind(given, present_types=_present_types())
    return render(request, "deployments/plan.html", {"plan": make_plan(form, name=editing or None)})


@require("operator")
@require_POST
def deployment_action(request: HttpRequest, name: str, verb: str) -> HttpResponse:
    """Stop, start, retry, roll back, delete."""
    perform = VERBS.get(verb)
    if perform is None:
        raise Http404(f"There is no action called {verb}.")
    find(name)
    try:
        done = perform(request, name)
    except RaydeckError as error:
        status = 409 if isinstance(error, (Conflict, NotPlaceable)) else 400
        if verb == "delete":
            return deployment_pages.delete_page(request, name, refusal=error.message, status=status)
        return deployment_pages.overview_page(request, name, refusal=error, status=status)
    messages.success(request, done)
    return redirect("deployments") if verb == "delete" else redirect("deployment", name=name)


def find(name: str) -> Deployment:
    """The deployment, or a page that says there is none."""
    return deployment_pages.find(name)


def _stop(request: HttpRequest, name: str) -> str:
    actions.stop_deployment(actor=_actor(request), name=name)
    return f"{name} is stopping."


def _start(request: HttpRequest, name: str) -> str:
    actions.start_deployment(actor=_actor(request), name=name)
    return f"{name} is starting."


def _retry(request: HttpRequest, name: str) -> str:
    actions.retry_deployment(actor=_actor(request), name=name)
    return f"{name} is tried again."


def _roll_back(request: HttpRequest, name: str) -> str:
    wanted = request.POST.get("revision", "")
    revision = int(wanted) if wanted.isdecimal() and len(wanted) < 10 else 0
    seen = request.POST.get("expected_version", "")
    if not (seen.isdecimal() and len(seen) < 10):
        raise InvalidSpec("The page did not say which version it showed; open it again.")
    actions.roll_back(actor=_actor(request), name=name, revision=revision, expected_version=int(seen))
    return f"{name} is rolled back to revision {revision}."


def _delete(request: HttpRequest, name: str) -> str:
    actions.delete_deployment(actor=_actor(request), name=name, typed_name=request.POST.get("typed_name", ""))
    return f"{name} is deleted. Its events and usage stay."


VERBS: dict[str, Callable[[HttpRequest, str], str]] = {
    "stop": _stop,
    "start": _start,
    "retry": _retry,
    "rollback": _roll_back,
    "delete": _delete,
}


def _list_context(request: HttpRequest) -> dict[str, Any]:
    rows = fleet_rows(time.time())
    chosen = request.GET.get("status", "all")
    chosen = chosen if chosen in FILTERS else "all"
    wanted = request.GET.get("q", "").strip()
    groups = {
        "all": rows,
        "serving": [row for row in rows if row["phase"] in ("ready", "asleep")],
        "problem": [row for row in rows if row["phase"] in ("failed", "unknown")],
    }
    shown = [row for row in groups[chosen] if wanted.lower() in f"{row['name']} {row['model']}".lower()]
    return {
        "rows": shown,
        "total": len(rows),
        "filters": [(key, word, len(groups[key])) for key, word in FILTERS.items()],
        "chosen": chosen,
        "q": wanted,
    }


def _initial(request: HttpRequest) -> dict[str, Any]:
    source = Deployment.objects.select_related("model", "current_revision").filter(
        name=request.GET.get("from", "")
    )
    if copied := source.first():
        return {**initial_of(copied), "name": "", "note": f"Copied from {copied.name}"}
    return {"model": request.GET.get("model", ""), "name": request.GET.get("name", ""), "dtype": "auto"}


def _present_types() -> tuple[str, ...]:
    return tuple(sorted({kind for node in known_nodes() if node.alive for kind in node.accelerators}))


def _form_page(
    request: HttpRequest,
    form: DeploymentForm,
    *,
    deployment: Deployment | None = None,
    status: int = 200,
    **more: Any,
) -> HttpResponse:
    context = {
        "form": form,
        "deployment": deployment,
        "plan": make_plan(form, name=deployment.name if deployment else None),
        "limit_lines": deployment_lines(deployment) if deployment else [],
        **more,
    }
    return render(request, "deployments/form.html", context, status=status)


def _conflict_page(
    request: HttpRequest, form: DeploymentForm, deployment: Deployment, error: Conflict
) -> HttpResponse:
    """Theirs beside yours; the form keeps yours and, sent again, is measured against their version."""
    form.add_error(None, error.message)
    theirs: dict[str, Any] = dict(error.current.get("values") or {})  # type: ignore[call-overload]
    if theirs.get("kv_cache_is_automatic"):
        theirs["kv_cache_memory_bytes"] = None  # nobody gave it, as the form shows
    theirs["load_adapters"] = bool(theirs.get("adapters"))
    yours = {**form.engine(), **form.capacity(), **form.limits(), "model": form.cleaned_data["model"]}
    yours = {name: yours[name] if yours[name] != "" else None for name in yours}
    fields = (*ENGINE_FIELDS, *CAPACITY_FIELDS, *LIMIT_FIELDS, "model")
    rows: list[Difference] = differences({name: theirs.get(name) for name in fields}, yours)
    form.data = {**form.data.dict(), "expected_version": str(error.current.get("version", ""))}  # type: ignore[attr-defined]
    return _form_page(
        request,
        form,
        deployment=find(deployment.name),
        status=409,
        conflict=error.current,
        conflict_rows=rows,
    )


def _is_repeat(request: HttpRequest, form: DeploymentForm, name: str) -> bool:
    """Whether exactly this was created by this person a moment ago: the form was sent twice."""
    existing = (
        Deployment.objects.select_related("model", "current_revision")
        .filter(name=name, created_by_id=request.user.pk, created_at__gte=timezone.now() - REPEAT_WITHIN)
        .first()
    )
    if existing is None or existing.version != 1 or existing.model.name != form.cleaned_data["model"]:
        return False
    asked = form_values({**form.engine(), **form.capacity()})
    have = initial_of(existing)
    # Defaults that the action fills in.
    filled_in = ("max_model_len", "kv_cache_memory_bytes", "price_per_accelerator_hour_usd")
    return all(asked[key] == have[key] or (key in filled_in and asked[key] in (None, "")) for key in asked)


def _actor(request: HttpRequest) -> actions.Actor:
    return actions.Actor(request.user, "page")  # type: ignore[arg-type]


urlpatterns = [
    path("deployments/", deployment_list, name="deployments"),
    path("deployments/parts/table/", part_list, name="deployments-table"),
    path("deployments/new/", deployment_new, name="deployment-new"),
    path("deployments/new/check/", deployment_check, name="deployment-check"),
    path("deployments/<str:name>/edit/", deployment_edit, name="deployment-edit"),
    path("deployments/<str:name>/action/<str:verb>/", deployment_action, name="deployment-action"),
    *deployment_logs.urlpatterns,
    *deployment_pages.urlpatterns,
]
