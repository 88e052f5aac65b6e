"""/deployments/NAME/…: revisions, events, logs and metrics of one deployment. Reads only."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from django.http import HttpRequest
from ninja import Query, Router

from console import history, logs, percentiles, plan_checks
from console.actions.deployments import find_deployment
from console.api.activity import Before, event_feed
from console.api.errors import invalid, not_found
from console.api.outputs import (
    EventOut,
    Feed,
    LogOut,
    Page,
    PercentilesOut,
    PlanCheckOut,
    PointsOut,
    RevisionOut,
)
from console.api.routing import Limit, Offset, operation

router = Router(tags=["deployments"])

Window = Annotated[int, Query(ge=10, le=34_560_000, description="seconds back from now")]
RevisionNumber = Annotated[
    int | None, Query(ge=1, lt=2**31, description="a revision's number; the current one without it")
]
SummaryWindow = Annotated[
    int | None,
    Query(
        ge=percentiles.WINDOW_MIN_S,
        le=percentiles.WINDOW_MAX_S,
        description="seconds back from now; an hour without it and without from and to",
    ),
]
Moment = Annotated[float | None, Query(ge=0, le=4_000_000_000, description="epoch seconds")]
From = Annotated[float | None, Query(alias="from", ge=0, le=4_000_000_000, description="epoch seconds")]
Lines = Annotated[int, Query(ge=1, le=logs.MOST_LINES)]


@operation(router, "GET", "/{name}/revisions", role="viewer", answer=Page[RevisionOut])
def list_revisions(request: HttpRequest, name: str, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    """The deployment's engine definitions, newest first."""
    rows = find_deployment(name).revisions.order_by("-number")
    return {
        "items": list(rows[offset : offset + limit]),
        "total": rows.count(),
        "limit": limit,
        "offset": offset,
    }


@operation(router, "GET", "/{name}/revisions/{number}", role="viewer", answer=RevisionOut)
def get_revision(request: HttpRequest, name: str, number: int) -> Any:
    """One engine definition."""
    deployment = find_deployment(name)
    row = deployment.revisions.filter(number=number).first() if 0 < number < 2**31 else None
    if row is None:
        raise not_found(f"{name} has no revision {str(number)[:20]}.")
    return row


@operation(router, "GET", "/{name}/plan-check", role="viewer", answer=PlanCheckOut)
def get_plan_check(request: HttpRequest, name: str, revision: RevisionNumber = None) -> dict[str, Any]:
    """What a revision planned beside what its engine was measured to hold, and the trend over revisions.

    The current revision where none is named.
    """
    deployment = find_deployment(name)
    number = revision or (deployment.current_revision.number if deployment.current_revision else 0)
    row = deployment.revisions.select_related("plan_check").filter(number=number).first()
    if row is None:
        raise not_found(f"{name} has no revision {number}.")
    return plan_checks.as_json(deployment, row)


@operation(router, "GET", "/{name}/events", role="viewer", answer=Feed[EventOut])
def list_deployment_events(
    request: HttpRequest, name: str, limit: Limit = 50, before: Before = None
) -> dict[str, Any]:
    """What happened to the deployment and who did it, newest first."""
    return event_feed(find_deployment(name).events.all(), limit=limit, before=before)


@operation(router, "GET", "/{name}/logs", role="viewer", answer=LogOut, asks_ray=True)
def get_logs(
    request: HttpRequest,
    name: str,
    source: Literal["engine", "replica", "controller"] = "engine",
    lines: Lines = 200,
) -> Any:
    """The end of the logs of the newest replica, with the root cause when one is found in them."""
    return logs.tail(deployment=find_deployment(name), source=source, lines=lines)


@operation(router, "GET", "/{name}/metrics", role="viewer", answer=PointsOut, by_alias=True)
def get_metrics(request: HttpRequest, name: str, window: Window = 900) -> dict[str, Any]:
    """Latency, load, memory, replicas and cost over a window.

    At most 300 points; null is a gap. Times in seconds, memory in bytes, money as text in US dollars.
    """
    return history.points(deployment=find_deployment(name), window_s=window, now=time.time())


@operation(router, "GET", "/{name}/percentiles", role="viewer", answer=PercentilesOut, by_alias=True)
def get_percentiles(
    request: HttpRequest, name: str, window: SummaryWindow = None, from_: From = None, to: Moment = None
) -> dict[str, Any]:
    """p50, p95 and p99 of TTFT, TPOT, end-to-end and queue time over any window from 1 minute to 30 days.

    Give `window`, or `from` and `to`. Read from summed bucket counts, never from other percentiles.
    """
    deployment = find_deployment(name)
    now = time.time()
    start, end = _window(window=window, start=from_, end=to, now=now)
    return percentiles.summary(deployment, start=start, end=end, now=now)


def _window(*, window: int | None, start: float | None, end: float | None, now: float) -> tuple[float, float]:
    if start is None and end is None:
        return now - (window or 3600), now
    if window is not None:
        raise invalid("Give either window, or from and to.", field="window")
    if start is None:
        raise invalid("Give from as well.", field="from")
    end = now if end is None else min(end, now)
    if not percentiles.WINDOW_MIN_S <= end - start <= percentiles.WINDOW_MAX_S:
        raise invalid("A window is 1 minute to 30 days long and does not lie in the future.", field="from")
    return start, end
