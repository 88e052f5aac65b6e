"""One deployment's pages: overview, metrics, events, logs, revisions, config, and the fragments they are made
of. Reads only; the verbs are in console/views/deployments.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import yaml
from django.conf import settings
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.http import require_GET

from console import charts, costs, fleet, history, percentiles, plan_checks, slo, snippets, states
from console.auth import require
from console.desired import desired_document
from console.differences import differences
from console.models import Deployment, Replica, Revision
from console.views.ranges import range_of
from serving.errors import NotPlaceable, RaydeckError
from serving.render import app_name, redacted

CHART_KEYS = ("ttft", "tpot", "e2e", "requests", "tokens", "kv", "memory", "replicas", "cost")
METRICS_KEYS = ("ttft", "tpot", "e2e", "queue", *CHART_KEYS[3:])
TABS = (
    ("deployment", "Overview"),
    ("deployment-metrics", "Metrics"),
    ("deployment-events", "Events"),
    ("deployment-logs", "Logs"),
    ("deployment-revisions", "Revisions"),
    ("deployment-config", "Config"),
)
PARTS = ("head", "timeline", "replicas", "slo", "plan_check", "events_card", "revisions_card")
EVENTS_SHOWN, REVISIONS_SHOWN, REPLICAS_SHOWN = 6, 5, 20
EVENTS_PER_PAGE = 50


def find(name: str) -> Deployment:
    """The deployment with its model, revision and status, or a page that says there is none."""
    deployment = (
        Deployment.objects.select_related(
            "model", "current_revision__plan_check", "status", "slo", "slo_status"
        )
        .filter(name=name)
        .first()
    )
    if deployment is None:
        raise Http404(f"There is no deployment called {name}.")
    return deployment


@require("viewer")
@require_GET
def overview(request: HttpRequest, name: str) -> HttpResponse:
    """What it is doing, how fast, on what, at what price."""
    return overview_page(request, name)


def overview_page(
    request: HttpRequest, name: str, *, refusal: RaydeckError | None = None, status: int = 200
) -> HttpResponse:
    """The overview tab; `refusal` is an action that was not carried out, with its arithmetic."""
    deployment = find(name)
    now = time.time()
    context = {
        **frame(deployment, "deployment", now),
        **_charts(request, deployment, now),
        **_overview_parts(deployment, now),
        "snippets": snippets.snippets(base_url=f"{settings.GATEWAY_URL}/v1", model=name),
        "refusal": refusal,
        "arithmetic": refusal.arithmetic if isinstance(refusal, NotPlaceable) else [],
        "last_request_at": fleet.last_request_at(name),
    }
    return render(request, "deployments/overview.html", context, status=status)


@require("viewer")
@require_GET
def part(request: HttpRequest, name: str, part_name: str) -> HttpResponse:
    """A fragment of the overview tab."""
    if part_name not in PARTS:
        raise Http404(f"There is no fragment called {part_name}.")
    deployment = find(name)
    now = time.time()
    context = {**frame(deployment, "deployment", now), **_overview_parts(deployment, now)}
    return render(request, f"deployments/{part_name}.html", context)


@require("viewer")
@require_GET
def points(request: HttpRequest, name: str) -> JsonResponse:
    """The history by topic, as the pages carry it."""
    window_s = range_of(request).window_s
    deployment = find(name)
    past = history.points(deployment=deployment, window_s=window_s, now=time.time())
    return JsonResponse({f"deployment:{name}": charts.for_page(past)})


@require("viewer")
@require_GET
def metrics(request: HttpRequest, name: str) -> HttpResponse:
    """All charts, large."""
    deployment = find(name)
    now, window_s = time.time(), range_of(request).window_s
    context = {
        **frame(deployment, "deployment-metrics", now),
        **_charts(request, deployment, now, METRICS_KEYS),
        "percentiles": percentiles.summary(deployment, start=now - window_s, end=now, now=now),
    }
    return render(request, "deployments/metrics.html", context)


@require("viewer")
@require_GET
def events(request: HttpRequest, name: str) -> HttpResponse:
    """Everything that happened to it, newest first."""
    deployment = find(name)
    page = Paginator(deployment.events.all(), EVENTS_PER_PAGE).get_page(request.GET.get("page"))
    context = {**frame(deployment, "deployment-events", time.time()), "page": page}
    return render(request, "deployments/events.html", context)


@require("viewer")
@require_GET
def revisions(request: HttpRequest, name: str) -> HttpResponse:
    """Every engine definition it has had, each with what it changed."""
    deployment = find(name)
    rows = list(deployment.revisions.all())
    earlier = [row.engine for row in rows[1:]] + [None]
    context = {
        **frame(deployment, "deployment-revisions", time.time()),
        "rows": [
            {"revision": row, "changes": [] if before is None else differences(before, row.engine)}
            for row, before in zip(rows, earlier, strict=True)
        ],
        "plan_trend": plan_checks.trend_table(deployment),
    }
    return render(request, "deployments/revisions.html", context)


@require("viewer")
@require_GET
def revision(request: HttpRequest, name: str, number: int) -> HttpResponse:
    """One revision against another: `?compare=`, by default the one before it."""
    deployment = find(name)
    chosen = _revision(deployment, number)
    wanted = request.GET.get("compare", "")
    other = number - 1
    if wanted.isdecimal() and len(wanted) < 10:
        other = int(wanted)
    compared = deployment.revisions.filter(number=other).first()
    context = {
        **frame(deployment, "deployment-revisions", time.time()),
        "chosen": chosen,
        "compared": compared,
        "numbers": list(deployment.revisions.exclude(number=number).values_list("number", flat=True)),
        "changes": differences(compared.engine, chosen.engine) if compared else [],
        "document": _yaml(chosen.engine),
        "plan_check": plan_checks.shown(chosen),
    }
    return render(request, "deployments/revision.html", context)


@require("viewer")
@require_GET
def config(request: HttpRequest, name: str) -> HttpResponse:
    """What Ray Serve is sent for it, secrets hidden."""
    deployment = find(name)
    document = redacted(desired_document().document)
    apps = [app for app in document["applications"] if app["name"] == app_name(name)]
    route: dict[str, Any] = {}
    for app in document["applications"]:
        for override in app.get("deployments", []):
            route = (override.get("user_config") or {}).get("models", {}).get(name) or route
    context = {
        **frame(deployment, "deployment-config", time.time()),
        "document": yaml.safe_dump({"applications": apps}, sort_keys=False, allow_unicode=True)
        if apps
        else "",
        "route": yaml.safe_dump({name: route}, sort_keys=False, allow_unicode=True),
    }
    return render(request, "deployments/config.html", context)


@require("operator")
@require_GET
def delete_form(request: HttpRequest, name: str) -> HttpResponse:
    """The question before a deletion, as a page of its own."""
    return delete_page(request, name)


def delete_page(request: HttpRequest, name: str, *, refusal: str = "", status: int = 200) -> HttpResponse:
    """The typed-name form, with the reason when it was refused."""
    context = {**frame(find(name), "deployment", time.time()), "refusal": refusal}
    return render(request, "deployments/delete.html", context, status=status)


def frame(deployment: Deployment, tab: str, now: float) -> dict[str, Any]:
    """What the head and tabs of every page of a deployment show."""
    return {
        "deployment": deployment,
        "state": states.deployment_state(deployment, now),
        "tabs": TABS,
        "tab": tab,
        "topic": f"deployment:{deployment.name}",
        "base_url": f"{settings.GATEWAY_URL}/v1",
        "now": now,
    }


def _charts(
    request: HttpRequest, deployment: Deployment, now: float, keys: Sequence[str] = CHART_KEYS
) -> dict[str, Any]:
    time_range = range_of(request)
    past = charts.for_page(history.points(deployment=deployment, window_s=time_range.window_s, now=now))
    topic = f"deployment:{deployment.name}"
    shown = [charts.CHARTS[key] for key in keys]
    limits = slo.spec_of(deployment).limit_of
    return {
        "range": time_range,
        "cards": [charts.card(chart, past, topic, slo_s=limits(chart.key)) for chart in shown],
        "figures": charts.figures_block(shown),
        "points": {topic: past},
        "quiet": not any(point["requests"] for point in past["points"]),
        "newest": past["points"][-1] if past["points"] else {},
    }


def _overview_parts(deployment: Deployment, now: float) -> dict[str, Any]:
    alive = Replica.objects.filter(deployment=deployment, ended_at=None).order_by("started_at")
    standing = slo.standing(deployment, now)
    revisions_shown = list(deployment.revisions.all()[:REVISIONS_SHOWN])
    return {
        "replicas": list(alive[:REPLICAS_SHOWN]),
        "events": list(deployment.events.all()[:EVENTS_SHOWN]),
        "revisions": revisions_shown,
        "standing": standing,
        "slo_rows": slo.card_rows(standing),
        "alerts": [{"alert": row, "words": slo.alert_words(row)} for row in standing["open_alerts"]],
        "cost_so_far_usd": costs.cost_so_far_usd(deployment, now),
        "plan_check": plan_checks.shown(deployment.current_revision) if deployment.current_revision else None,
    }


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _revision(deployment: Deployment, number: int) -> Revision:
    found = deployment.revisions.select_related("plan_check").filter(number=number).first()
    if found is None:
        raise Http404(f"{deployment.name} has no revision {number}.")
    return found


urlpatterns = [
    path("deployments/<str:name>/", overview, name="deployment"),
    path("deployments/<str:name>/parts/<str:part_name>/", part, name="deployment-part"),
    path("deployments/<str:name>/points/", points, name="deployment-points"),
    path("deployments/<str:name>/metrics/", metrics, name="deployment-metrics"),
    path("deployments/<str:name>/events/", events, name="deployment-events"),
    path("deployments/<str:name>/revisions/", revisions, name="deployment-revisions"),
    path("deployments/<str:name>/revisions/<int:number>/", revision, name="deployment-revision"),
    path("deployments/<str:name>/config/", config, name="deployment-config"),
    path("deployments/<str:name>/delete/", delete_form, name="deployment-delete"),
]
