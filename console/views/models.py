"""The registry of models: list, register, facts, edit, read again, remove."""

from __future__ import annotations

import time
from typing import Any

from django.contrib import messages
from django.db.models import Count
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from console import actions, model_facts, states
from console.auth import require, role_allows
from console.fit_chips import chips, shelf
from console.model_forms import EditForm, RegisterForm
from console.models import RegisteredModel
from serving.errors import Conflict, InUse, NotFound, RaydeckError


@require("viewer")
@require_GET
def model_list(request: HttpRequest) -> HttpResponse:
    """Every registered model with its facts and problems; `?q=` filters by name, architecture or source."""
    wanted = request.GET.get("q", "").strip().lower()
    found = RegisteredModel.objects.annotate(deployment_count=Count("deployments"))
    rows = [_row(model) for model in found]
    shown = [row for row in rows if wanted in row["searched"]]
    on = shelf()
    for row in shown:
        row["chips"] = chips(row["model"], on)
    context = {"rows": shown, "total": len(rows), "q": request.GET.get("q", "").strip()}
    return render(request, "models/list.html", context)


@require("operator")
@require_http_methods(["GET", "HEAD", "POST"])
def model_new(request: HttpRequest) -> HttpResponse:
    """Register a model; a folder is read at once."""
    form = RegisterForm(request.POST or None, initial={"source_kind": "folder"})
    if request.method != "POST":
        return render(request, "models/form.html", {"form": form})
    if form.is_valid():
        try:
            model = actions.register_model(actor=_actor(request), **form.values())
        except RaydeckError as error:
            form.refuse(error)
        else:
            messages.success(request, f"{model.name} is registered.")
            return redirect("model", name=model.name)
    return render(request, "models/form.html", {"form": form}, status=400)


@require("viewer")
@require_GET
def model_detail(request: HttpRequest, name: str) -> HttpResponse:
    """One model: facts, problems, and the deployments that use it."""
    return _detail(request, get_object_or_404(RegisteredModel, name=name))


@require("operator")
@require_http_methods(["GET", "HEAD", "POST"])
def model_edit(request: HttpRequest, name: str) -> HttpResponse:
    """Change where a model comes from; told, and nothing lost, when somebody else was faster."""
    model = get_object_or_404(RegisteredModel, name=name)
    if request.method != "POST":
        return render(request, "models/form.html", {"form": EditForm.of(model), "model": model})
    form = EditForm(request.POST, has_stored_token=model.has_hub_token)
    conflict: list[tuple[str, str]] = []
    status = 400
    if form.is_valid():
        values = form.values()
        try:
            actions.edit_model(
                actor=_actor(request), model=model, expected_version=values.pop("expected_version"), **values
            )
        except Conflict as error:
            status = 409
            conflict = form.meet(error)
        except RaydeckError as error:
            form.refuse(error)
        else:
            messages.success(request, f"{name} is saved.")
            return redirect("model", name=name)
    context = {"form": form, "model": model, "conflict": conflict}
    return render(request, "models/form.html", context, status=status)


@require("operator")
@require_POST
def model_inspect(request: HttpRequest, name: str) -> HttpResponse:
    """Read a folder's files again."""
    model = get_object_or_404(RegisteredModel, name=name)
    try:
        actions.inspect_model(actor=_actor(request), model=model)
    except RaydeckError as error:
        return _detail(request, model, refusal=error.message, status=400)
    messages.success(request, f"The files of {name} were read again.")
    return redirect("model", name=name)


@require("operator")
@require_POST
def model_delete(request: HttpRequest, name: str) -> HttpResponse:
    """Remove a model from the registry: typed name, and no deployment may use it. Its files stay."""
    model = get_object_or_404(RegisteredModel, name=name)
    if request.POST.get("typed_name", "").strip() != name:
        return _detail(request, model, typed_error=f"Type {name} to confirm; it was not removed.", status=400)
    try:
        actions.delete_model(actor=_actor(request), model=model)
    except InUse as error:
        return _detail(request, model, refusal=error.message, status=409)
    messages.success(request, f"{name} was removed from the registry. Its files were left alone.")
    return redirect("models")


@require("operator")
@require_POST
def adapter_add(request: HttpRequest, name: str) -> HttpResponse:
    """Register a LoRA adapter of a model: `name=`, `source=`."""
    model = get_object_or_404(RegisteredModel, name=name)
    given = {key: request.POST.get(key, "") for key in ("name", "source")}
    try:
        adapter = actions.register_adapter(actor=_actor(request), model=model, **given)
    except RaydeckError as error:
        return _detail(request, model, adapter_error=error.message, adapter_given=given, status=400)
    messages.success(request, f"The adapter {adapter.name} is registered.")
    return redirect("model", name=name)


@require("operator")
@require_POST
def adapter_delete(request: HttpRequest, name: str, adapter: str) -> HttpResponse:
    """Forget an adapter that no deployment loads; its files stay."""
    model = get_object_or_404(RegisteredModel, name=name)
    try:
        actions.delete_adapter(actor=_actor(request), model=model, name=adapter)
    except NotFound as error:
        raise Http404(error.message) from error
    except InUse as error:
        return _detail(request, model, refusal=error.message, status=409)
    messages.success(request, f"The adapter {adapter} was removed from the registry.")
    return redirect("model", name=name)


def _row(model: RegisteredModel) -> dict[str, Any]:
    facts = model.facts
    searched = " ".join((model.name, str(facts.get("architecture") or ""), model.source, model.note)).lower()
    return {
        "model": model,
        "facts": facts,
        "heads": model_facts.heads(facts),
        "kv_per_thousand": model_facts.kv_per_thousand(facts),
        "level": model_facts.worst_level(model.problems),
        "problem": model_facts.worst_problem(model.problems),
        "searched": searched,
    }


def _detail(
    request: HttpRequest,
    model: RegisteredModel,
    *,
    refusal: str = "",
    typed_error: str = "",
    adapter_error: str = "",
    adapter_given: dict[str, str] | None = None,
    status: int = 200,
) -> HttpResponse:
    used_by = [state for state in states.deployment_states(time.time()) if state["model"] == model.name]
    context = {
        "model": model,
        "facts": model_facts.fact_rows(model.facts),
        "level": model_facts.worst_level(model.problems),
        "chips": chips(model, shelf()),
        "used_by": used_by,
        "refusal": refusal,
        "typed_error": typed_error,
        "adapters": list(model.adapters.all()),
        "adapter_error": adapter_error,
        "adapter_given": adapter_given,
        "may_change": role_allows(request.user.role, "operator"),  # type: ignore[union-attr]
    }
    return render(request, "models/detail.html", context, status=status)


def _actor(request: HttpRequest) -> actions.Actor:
    return actions.Actor(request.user, "page")  # type: ignore[arg-type]


urlpatterns = [
    path("models/", model_list, name="models"),
    path("models/new/", model_new, name="model-new"),
    path("models/<str:name>/", model_detail, name="model"),
    path("models/<str:name>/edit/", model_edit, name="model-edit"),
    path("models/<str:name>/inspect/", model_inspect, name="model-inspect"),
    path("models/<str:name>/adapters/", adapter_add, name="model-adapter-add"),
    path("models/<str:name>/adapters/<str:adapter>/delete/", adapter_delete, name="model-adapter-delete"),
    path("models/<str:name>/delete/", model_delete, name="model-delete"),
]
