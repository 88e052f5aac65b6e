"""Fragments of the deployment form that plan: topologies to choose from, and what vLLM's own classes say."""

from __future__ import annotations

import time

from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.urls import path
from django.views.decorators.http import require_POST

from console.auth import require
from console.deployment_plan import engine_of_form
from console.exact_comparison import Comparison, compare
from console.exact_plans import request_exact_plan
from console.forms import DeploymentForm, EditDeploymentForm
from console.planning import question_of
from console.topology_cards import choices
from serving.errors import RaydeckError
from serving.planner.plan import make_plan
from serving.planner.request import BadPlanInput


@require("operator")
@require_POST
def deployment_topologies(request: HttpRequest) -> HttpResponse:
    """Every way to split the chosen model, ranked, with the best of each kind as a card."""
    given = request.POST
    context: dict[str, object] = {"cards": [], "ranked": []}
    try:
        model, engine, load = engine_of_form(form_of(given))
        context["load"] = load
        if model is None or engine is None:
            context["reason"] = "Choose a model to compare the ways to split it."
        elif (found := choices(engine, model, load, name=given.get("editing", ""))) is None:
            context["reason"] = "The model's files are not known here, so its splits cannot be compared."
        else:
            context.update(cards=found.cards, ranked=found.ranked)
    except (BadPlanInput, RaydeckError) as error:
        context["reason"] = error.message
    return render(request, "deployments/topologies.html", context)


@require("operator")
@require_POST
def deployment_exact(request: HttpRequest) -> HttpResponse:
    """Ask vLLM's own classes about what the form holds, once, and show how far that is."""
    exact: Comparison | None = None
    try:
        model, engine, _ = engine_of_form(form_of(request.POST))
        question = question_of(engine, model) if model is not None and engine is not None else None
        if question is not None:
            row = request_exact_plan(question, now=time.time())
            exact = compare(question, make_plan(question), row)
    except (BadPlanInput, RaydeckError):
        exact = None  # the plan beside it says what is wrong
    return render(request, "deployments/exact.html", {"plan": {"exact": exact}})


def form_of(given: QueryDict) -> DeploymentForm:
    """The form as it stands in the page, also when it is not complete."""
    return (EditDeploymentForm if given.get("editing") else DeploymentForm)(given)


urlpatterns = [
    path("deployments/new/topologies/", deployment_topologies, name="deployment-topologies"),
    path("deployments/new/exact/", deployment_exact, name="deployment-exact"),
]
