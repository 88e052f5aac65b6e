"""/events, /requests and /metrics of the whole console. Reads only."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest
from ninja import Query, Router

from console import history
from console.api.errors import invalid
from console.api.outputs import EventOut, Feed, PointsOut, RequestOut
from console.api.routing import Limit, operation
from console.models import Event, RequestRecord

router = Router(tags=["activity"])

Before = Annotated[str | None, Query(max_length=80, description="`next_before` of the page before this one")]
Named = Annotated[str | None, Query(max_length=100)]
EVENT_CURSOR = re.compile(r"^\d{1,18}$", re.ASCII)
REQUEST_CURSOR = re.compile(r"^(\d{1,12}(?:\.\d{1,9})?)~([A-Za-z0-9-]{1,40})$", re.ASCII)


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
    outcome: Named = None,
) -> dict[str, Any]:
    """Usage records of the gateway, newest first: which key asked what, how long it took, how it ended.
    The console's own smoke requests are left out."""
    rows = RequestRecord.objects.of_callers().order_by("-started_at", "-id")
    given = {"deployment_name": deployment, "key_id": key_id, "outcome": outcome}
    rows = rows.filter(**{name: value for name, value in given.items() if value is not None})
    if before is not None:
        started_at, row_id = _request_cursor(before)
        rows = rows.filter(Q(started_at__lt=started_at) | Q(started_at=started_at, id__lt=row_id))
    items = list(rows[: limit + 1])
    more, items = len(items) > limit, items[:limit]
    return {"items": items, "next_before": f"{items[-1].started_at!r}~{items[-1].id}" if more else None}


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


def _request_cursor(before: str) -> tuple[float, str]:
    match = REQUEST_CURSOR.match(before)
    if match is None:
        raise invalid("Give the next_before of an earlier answer.", field="before")
    return float(match.group(1)), match.group(2)
