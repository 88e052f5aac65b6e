"""The request log: which usage records are asked for, and what is known of one. Reads only.

One definition of every filter for page and API. Newest first; a page is cut by the place of its last row,
never by a number of rows to skip, so that the ledger may be as long as it likes. No prompt, answer or key is
known here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import F, Q, QuerySet

from console.models import Deployment, RequestRecord, Sample
from serving import histogram
from serving.resolutions import DAY_S
from serving.waterfall import Part, parts_of

ID = re.compile(r"[!-~]{1,40}", re.ASCII)
CURSOR = re.compile(r"^(\d{1,12}(?:\.\d{1,9})?)~([!-~]{1,40})$", re.ASCII)
FAILED = Q(outcome="error") | Q(status__gte=500)
LONGEST_S = 3600.0
"""Neighbours that began longer ago than this are not looked for."""
SLOW_OVER_S = DAY_S
"""A deployment's p95 is that of its last day."""
P95_RESOLUTIONS_S = (300, 10)
"""From the coarse rows, or for a deployment too young to have any from the finer ones."""


@dataclass(frozen=True)
class Filters:
    """What is asked for; None is everything. `slower_than_p95` compares each with its own deployment."""

    deployment: str | None = None
    key_id: int | None = None
    outcome: str | None = None
    status: int | None = None
    failed: bool = False
    slower_than_s: float | None = None
    slower_than_p95: bool = False
    since: float | None = None
    until: float | None = None


class BadCursor(ValueError):
    """The place to go on from is none that this module gave."""


def find(request_id: str) -> RequestRecord | None:
    """One record, or None; also for what can be no id, which a database might refuse to look for."""
    if not ID.fullmatch(request_id):
        return None
    return RequestRecord.objects.select_related("key").filter(pk=request_id).first()


def rows(filters: Filters, *, now: float) -> QuerySet[RequestRecord]:
    """The records asked for, newest first."""
    found = RequestRecord.objects.of_callers().order_by("-started_at", "-id")
    if any("\x00" in (text or "") for text in (filters.deployment, filters.outcome)):
        return found.none()  # PostgreSQL refuses to look for a NUL
    given = {
        "deployment_name": filters.deployment,
        "key_id": filters.key_id,
        "outcome": filters.outcome,
        "status": filters.status,
        "started_at__gte": filters.since,
        "started_at__lt": filters.until,
        "e2e_s__gt": filters.slower_than_s,
    }
    found = found.filter(**{name: value for name, value in given.items() if value is not None})
    if filters.failed:
        found = found.filter(FAILED)
    if filters.slower_than_p95:
        found = found.filter(_above(p95_by_deployment(now, filters.deployment)))
    return found


def page(
    found: QuerySet[RequestRecord], *, before: str | None, limit: int
) -> tuple[list[RequestRecord], str | None]:
    """At most `limit` records after the place `before`, and the place of the next page, None at the end.

    Raises BadCursor.
    """
    if before is not None:
        match = CURSOR.match(before)
        if match is None:
            raise BadCursor(before)
        started_at, row_id = float(match.group(1)), match.group(2)
        found = found.filter(Q(started_at__lt=started_at) | Q(started_at=started_at, id__lt=row_id))
    items = list(found.select_related("key")[: limit + 1])
    more, items = len(items) > limit, items[:limit]
    return items, f"{items[-1].started_at!r}~{items[-1].id}" if more else None


def p95_by_deployment(now: float, name: str | None = None) -> dict[str, float]:
    """Seconds from end to end that 95 of 100 answers of the last day stayed below, by deployment."""
    deployments = Deployment.objects.all() if name is None else Deployment.objects.filter(name=name)
    names = dict(deployments.values_list("pk", "name"))
    found: dict[str, float] = {}
    for resolution_s in P95_RESOLUTIONS_S:
        missing = [pk for pk, known in names.items() if known not in found]
        if not missing:
            break
        parts: dict[int, list[dict[int, int]]] = {}
        samples = Sample.objects.filter(
            deployment_id__in=missing, resolution_s=resolution_s, at__gte=int(now - SLOW_OVER_S)
        )
        for pk, counts in samples.values_list("deployment_id", "e2e"):
            parts.setdefault(pk, []).append(dict(counts))  # type: ignore[arg-type]  # our own column
        for pk, counted in parts.items():
            p95_s = histogram.quantile(histogram.merged(counted), 0.95)
            if p95_s is not None:
                found[names[pk]] = p95_s
    return found


def neighbours(record: RequestRecord) -> int | None:
    """How many other requests the same replica was asked at the same time; None where no replica is known."""
    if not record.replica or record.e2e_s is None:
        return None
    end = record.started_at + record.e2e_s
    others = RequestRecord.objects.filter(
        replica=record.replica, started_at__gt=record.started_at - LONGEST_S, started_at__lt=end
    ).exclude(pk=record.pk)
    return (
        others.annotate(ended_at=F("started_at") + F("e2e_s")).filter(ended_at__gt=record.started_at).count()
    )


def waterfall(record: Any) -> list[dict[str, Any]]:
    """The parts of a record as the API and the playground give them."""
    return [
        {
            "name": part.name,
            "label": part.label,
            "start_s": round(part.start_s, 6),
            "seconds": round(part.seconds, 6),
            "how": part.how,
        }
        for part in parts_of(record)
    ]


@dataclass(frozen=True)
class Bar:
    """A part as drawn: place and width in thousandths of the whole."""

    part: Part
    x: float
    width: float


def bars(record: RequestRecord) -> Sequence[Bar]:
    """The waterfall's bars. A part too short to see is given a hair's width."""
    parts = parts_of(record)
    total_s = sum(part.seconds for part in parts) or 1.0
    drawn = []
    for part in parts:
        width = max(2.0, 1000.0 * part.seconds / total_s) if part.seconds else 0.0
        drawn.append(
            Bar(part, round(min(1000.0 * part.start_s / total_s, 1000.0 - width), 2), round(width, 2))
        )
    return drawn


def _above(p95: dict[str, float]) -> Q:
    found = Q(pk__in=[])
    for name, seconds in p95.items():
        found |= Q(deployment_name=name, e2e_s__gt=seconds)
    return found
