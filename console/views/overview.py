"""The overview page, the activity page and the fragments of the frame. Reads only; writes nothing."""

from __future__ import annotations

import time
from typing import Any

from django.core.paginator import Paginator
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.http import require_GET

from console import charts, costs, fleet, history, setup_steps, shell, slo, states
from console.auth import require
from console.models import Alert, Deployment, Event, RequestRecord
from console.views.ranges import range_of
from serving.observed import START_PHASES

CHART_KEYS = ("ttft", "tpot", "e2e", "memory", "cost")
BUSIEST = 5
EVENTS_PER_PAGE = 50
HEALTH = (
    # colour class, word, phases
    ("ok", "ready", ("ready",)),
    ("warn", "over SLO", ("over_slo",)),
    ("info", "starting", START_PHASES),
    ("idle", "asleep or stopped", ("asleep", "stopped")),
    ("warn", "unknown", ("unknown",)),
    ("bad", "failed", ("failed",)),
)


@require("viewer")
@require_GET
def overview(request: HttpRequest) -> HttpResponse:
    """The fleet at a glance; the set-up steps while there is no deployment."""
    now = time.time()
    if not Deployment.objects.exists():
        return render(request, "first_run.html", setup_steps.context(now))
    time_range = range_of(request)
    histories = _histories(time_range.window_s, now)
    total = histories["overview"]
    shown = [charts.CHARTS[key] for key in CHART_KEYS]
    busiest = charts.tokens_by_deployment(_busiest(histories))
    context = {
        **_fleet_context(now),
        "range": time_range,
        "cards": {chart.key: charts.card(chart, total, "overview") for chart in (*shown, busiest)},
        "figures": charts.figures_block((*shown, busiest)),
        "points": histories,
        "quiet": not any(point["requests"] for point in total["points"]),
        "last_request_at": fleet.last_request_at(),
    }
    if context["last_request_at"] is None:
        context.update(setup_steps.context(now))
    return render(request, "overview.html", context)


@require("viewer")
@require_GET
def overview_points(request: HttpRequest) -> JsonResponse:
    """Histories by topic, as the page carries them."""
    return JsonResponse(_histories(range_of(request).window_s, time.time()))


@require("viewer")
@require_GET
def part_fleet(request: HttpRequest, part: str) -> HttpResponse:
    """A fragment of the overview: tiles, attention or the table."""
    return render(request, f"overview/{part}.html", _fleet_context(time.time()))


@require("viewer")
@require_GET
def part_setup(request: HttpRequest) -> HttpResponse:
    """The set-up steps, checked anew."""
    return render(request, "overview/steps.html", setup_steps.context(time.time()))


@require("viewer")
@require_GET
def activity(request: HttpRequest) -> HttpResponse:
    """Who did what, newest first; `?q=` looks in subject, person and words."""
    wanted = request.GET.get("q", "").strip()
    events = Event.objects.all()
    if wanted:
        events = events.filter(
            Q(subject_name__icontains=wanted) | Q(actor__icontains=wanted) | Q(message__icontains=wanted)
        )
    page = Paginator(events, EVENTS_PER_PAGE).get_page(request.GET.get("page"))
    names = {event.subject_name for event in page if event.subject_kind == "deployment"}
    existing = set(Deployment.objects.filter(name__in=names).values_list("name", flat=True))
    return render(request, "activity.html", {"page": page, "q": wanted, "existing": existing})


@require("viewer")
@require_GET
def part_cluster(request: HttpRequest) -> HttpResponse:
    """The cluster's box in the sidebar."""
    return render(request, "partials/cluster.html", {"cluster": shell.cluster_summary(time.time())})


@require("viewer")
@require_GET
def part_cluster_problem(request: HttpRequest) -> HttpResponse:
    """The banner about the cluster, empty when all is well."""
    return render(request, "partials/cluster_problem.html", {"cluster": shell.cluster_summary(time.time())})


def fleet_rows(now: float) -> list[dict[str, Any]]:
    """One row per deployment: its state, its figures of the last minute, its trend."""
    rows = states.deployment_states(now)
    ids = dict(Deployment.objects.values_list("name", "pk"))
    recent = fleet.recent(list(ids.values()), now)
    trends = fleet.token_trends(list(ids.values()), now)
    for row in rows:
        pk = ids.get(row["name"], 0)
        point = recent.get(pk)
        row["point"] = point
        row["trend"] = trends.get(pk, [])
        row["memory_bytes"] = _memory(point)
        row["usd_per_million_tokens"] = fleet.usd_per_million_tokens(point)
    return rows


def _fleet_context(now: float) -> dict[str, Any]:
    rows = fleet_rows(now)
    cluster = states.cluster_state(now)
    health = [(colour, sum(row["word"] in phases for row in rows), word) for colour, word, phases in HEALTH]
    known = [row["point"]["tokens_per_s"] for row in rows if row["point"]]
    measured = [value for value in known if value is not None]
    return {
        "rows": rows,
        "health": health,
        "ready": sum(row["phase"] == "ready" for row in rows),
        "failed": sum(row["phase"] == "failed" for row in rows),
        "starting": sum(row["phase"] in START_PHASES for row in rows),
        "tokens_per_s": sum(measured) if measured else None,
        "cluster": cluster,
        "held": _held(rows, cluster["nodes"]),
        "cost_per_hour_usd": costs.running_cost_per_hour_usd(None),
        "month_to_date_usd": costs.month_to_date_usd(now),
        "month_start": costs.month_start(now),
        "attention": _attention(rows, _alert_rows(), cluster["reachable"]),
        "now": now,
    }


def _held(rows: list[dict[str, Any]], nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Accelerators (CPU cores where there are none) that replicas hold, of how many there are."""
    alive = [node for node in nodes if node.get("alive", True)]
    totals: dict[str, int] = {}
    for node in alive:
        for kind, amount in node.get("accelerators", {}).items():
            totals[kind] = totals.get(kind, 0) + int(amount)
    if not totals:
        used = sum(row["accelerators"] for row in rows if not row["engine"].get("accelerator_type"))
        return {
            "word": "CPU cores",
            "used": used,
            "total": sum(int(n.get("cpus", 0)) for n in alive),
            "free": "",
        }
    held: dict[str, int] = {}
    for row in rows:
        kind = row["engine"].get("accelerator_type")
        if kind:
            held[kind] = held.get(kind, 0) + row["accelerators"]
    free = [f"{max(0, amount - held.get(kind, 0))} × {kind}" for kind, amount in sorted(totals.items())]
    return {
        "word": "Accelerators",
        "used": sum(held.values()),
        "total": sum(totals.values()),
        "free": ", ".join(free),
    }


def _alert_rows() -> list[dict[str, Any]]:
    """Deployments whose error budget burns, the fast ones first; one row each."""
    found: dict[str, dict[str, Any]] = {}
    for alert in Alert.objects.filter(resolved_at=None, deployment__isnull=False).order_by(
        "speed", "opened_at"
    ):
        row = {"name": alert.deployment_name, "reason": slo.alert_words(alert), "since": alert.opened_at}
        found.setdefault(alert.deployment_name, {**row, "phase": "over_slo", "speed": alert.speed})
    return list(found.values())


def _attention(
    rows: list[dict[str, Any]], alerts: list[dict[str, Any]], reachable: bool
) -> list[dict[str, Any]]:
    """At most three. While Ray is away the banner says so once, not every row again."""
    failed = [row for row in rows if row["phase"] == "failed"]
    unknown = [row for row in rows if row["phase"] == "unknown" and reachable]
    return [*failed, *alerts, *unknown][:3]


def _histories(window_s: int, now: float) -> dict[str, Any]:
    total = history.points(deployment=None, window_s=window_s, now=now)
    histories = {"overview": charts.for_page(total)}
    for deployment in lately_asked(now - window_s):
        topic = f"deployment:{deployment.name}"
        past = history.points(deployment=deployment, window_s=window_s, now=now)
        histories[topic] = charts.for_page(past, ("tokens_per_s",))
    return histories


def lately_asked(since: float) -> QuerySet[Deployment]:
    """The few deployments whose newest request began last, at `since` (epoch seconds) or later. Reads one
    row of the ledger per deployment, by its index, however long the ledger is."""
    newest = RequestRecord.objects.of_callers().filter(
        deployment_name=OuterRef("name"), started_at__gte=since
    )
    newest_at = newest.order_by("-started_at").values("started_at")[:1]
    asked = Deployment.objects.annotate(at=Subquery(newest_at)).filter(at__isnull=False)
    return asked.order_by("-at")[:BUSIEST]


def _busiest(histories: dict[str, Any]) -> list[tuple[str, int]]:
    names = [topic.split(":", 1)[1] for topic in histories if topic != "overview"]
    colours = dict(Deployment.objects.filter(name__in=names).values_list("name", "colour"))
    return [(name, colours[name]) for name in names if name in colours]


def _memory(point: dict[str, Any] | None) -> int | None:
    parts = [point[key] for key in ("weights_bytes", "kv_bytes", "rest_bytes")] if point else []
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


urlpatterns = [
    path("", overview, name="overview"),
    path("activity/", activity, name="activity"),
    path("parts/points/", overview_points, name="overview-points"),
    path("parts/tiles/", part_fleet, {"part": "tiles"}, name="part-tiles"),
    path("parts/attention/", part_fleet, {"part": "attention"}, name="part-attention"),
    path("parts/table/", part_fleet, {"part": "table"}, name="part-table"),
    path("parts/setup/", part_setup, name="part-setup"),
    path("parts/cluster/", part_cluster, name="part-cluster"),
    path("parts/cluster-problem/", part_cluster_problem, name="part-cluster-problem"),
]
