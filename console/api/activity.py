"""/events, /requests and /metrics of the whole console. Reads only."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

from django.db.models import QuerySet
from django.http import HttpRequest
from ninja import Query, Router

from console import history, request_log
from console.api.errors import invalid, not_found
from console.api.outputs import EventOut, Feed, PointsOut, RequestDetail, RequestOut
from console.api.routing import Limit, operation
from console.models import Event

router = Router(tags=["activity"])

Before = Annotated[str | None, Query(max_length=80, description="`next_before` of the page before this one")]
Named = Annotated[str | None, Query(max_length=100)]
Moment = Annotated[float | None, Query(ge=0, le=1e11, description="epoch seconds")]
EVENT_CURSOR = re.compile(r"^\d{1,18}$", re.ASCII)


@operation(router, "GET", "/events", role="viewer", answer=Feed[EventOut])
def list_events(
    request: HttpRequest,
    limit: Limit = 50,
    before: Before = None,
    subject_kind: Named = None,
    subject_name: Named = None,
) -> dict[str, Any]:
    """What happened and who did it, newest first."""
    rows = Event.objects.all()
    if subject_kind is not None:
        rows = rows.filter(subject_kind=subject_kind)
    if subject_name is not None:
        rows = rows.filter(subject_name=subject_name)
    return event_feed(rows, limit=limit, before=before)


@operation(router, "GET", "/requests", role="viewer", answer=Feed[RequestOut])
def list_requests(
    request: HttpRequest,
    limit: Limit = 50,
    before: Before = None,
    deployment: Named = None,
    key_id: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    outcome: Annotated[str | None, Query(max_length=100, description="ok, error, aborted or refused")] = None,
    status: Annotated[int | None, Query(ge=100, le=999, description="the HTTP status")] = None,
    failed: Annotated[bool, Query(description="only those the service failed: errors and 5xx")] = False,
    slower_than_s: Annotated[float | None, Query(ge=0, le=1e9, description="seconds from end to end")] = None,
    slower_than_p95: Annotated[bool, Query(description="only above their deployment's p95 of a day")] = False,
    since: Moment = None,
    until: Moment = None,
) -> dict[str, Any]:
    """Usage records of the gateway, newest first: which key asked what, how long it took, how it ended.
    The console's own smoke requests are left out."""
    filters = request_log.Filters(
        deployment=deployment,
        key_id=key_id,
        outcome=outcome,
        status=status,
        failed=failed,
        slower_than_s=slower_than_s,
        slower_than_p95=slower_than_p95,
        since=since,
        until=until,
    )
    try:
        items, following = request_log.page(
            request_log.rows(filters, now=time.time()), before=before, limit=limit
        )
    except request_log.BadCursor:
        raise invalid("Give the next_before of an earlier answer.", field="before") from None
    return {"items": items, "next_before": following}


@operation(router, "GET", "/requests/{request_id}", role="viewer", answer=RequestDetail)
def get_request(request: HttpRequest, request_id: str) -> dict[str, Any]:
    """One request with its waterfall: parts in order of time that add up to `e2e_s`, measured or derived."""
    found = request_log.find(request_id)
    if found is None:
        raise not_found("There is no such request; a record arrives a second or two after its answer.")
    shown = RequestOut.model_validate(found, from_attributes=True).model_dump()
    return {**shown, "parts": request_log.waterfall(found), "neighbours": request_log.neighbours(found)}


@operation(router, "GET", "/metrics", role="viewer", answer=PointsOut, by_alias=True)
def get_fleet_metrics(
    request: HttpRequest,
    window: Annotated[int, Query(ge=10, le=34_560_000, description="seconds back from now")] = 900,
) -> dict[str, Any]:
    """The same as a deployment's metrics, of all deployments together."""
    return history.points(deployment=None, window_s=window, now=time.time())


def event_feed(rows: QuerySet[Event], *, limit: int, before: str | None) -> dict[str, Any]:
    """One page of events, newest first."""
    if before is not None:
        if not EVENT_CURSOR.match(before):
            raise invalid("Give the next_before of an earlier answer.", field="before")
        rows = rows.filter(pk__lt=int(before))
    items = list(rows.order_by("-id")[: limit + 1])
    more, items = len(items) > limit, items[:limit]
    return {"items": items, "next_before": str(items[-1].pk) if more else None}
