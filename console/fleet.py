"""Recent figures of all deployments at once, for the table and the tiles. Reads only, in few queries.

Percentiles are read from summed buckets, like those of console/history.py, which makes the points.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from console import history
from console.models import RequestRecord, Sample

RECENT_S = 60
SPARK_S = 900
SPARK_RESOLUTION_S = 60
MANY = 40
"""From so many deployments on, figures come from 10 s rows, which keeps the page's reading bounded."""


def recent(ids: Sequence[int], now: float) -> dict[int, dict[str, Any]]:
    """Deployment id -> one point (console.history.point) over the last minute. One query."""
    resolution_s = 1 if len(ids) < MANY else 10
    found = Sample.objects.filter(
        deployment_id__in=ids, resolution_s=resolution_s, at__gte=int(now) - RECENT_S, at__lte=int(now)
    ).order_by("at")
    rows: dict[int, list[history.Row]] = {}
    for values in found.values_list(*history.COLUMNS):
        row = history.Row(*values)
        rows.setdefault(row.deployment_id, []).append(row)
    return {pk: history.point(int(now), own, cost_usd=None) for pk, own in rows.items()}


def token_trends(ids: Sequence[int], now: float) -> dict[int, list[float | None]]:
    """Deployment id -> output tokens per second, by minute, over the last 15 minutes. One query."""
    start = int(now) // SPARK_RESOLUTION_S * SPARK_RESOLUTION_S - SPARK_S
    found = Sample.objects.filter(
        deployment_id__in=ids, resolution_s=SPARK_RESOLUTION_S, at__gte=start
    ).values_list("deployment_id", "at", "completion_tokens")
    trends: dict[int, list[float | None]] = {}
    for pk, at, tokens in found:
        trend = trends.setdefault(pk, [None] * (SPARK_S // SPARK_RESOLUTION_S + 1))
        trend[(at - start) // SPARK_RESOLUTION_S] = None if tokens is None else tokens / SPARK_RESOLUTION_S
    return trends


def usd_per_million_tokens(point: dict[str, Any] | None) -> Decimal | None:
    """What a million output tokens cost at the last minute's rate; None without tokens or cost."""
    if not point or not point["tokens_per_s"] or point["cost_per_hour_usd"] is None:
        return None
    per_hour = Decimal(str(point["tokens_per_s"])) * 3600
    return Decimal(point["cost_per_hour_usd"]) / per_hour * 1_000_000


def last_request_at(deployment_name: str | None = None) -> float | None:
    """When the newest request began, of one deployment or of all, epoch seconds."""
    rows = RequestRecord.objects.of_callers().order_by("-started_at")
    if deployment_name is not None:
        rows = rows.filter(deployment_name=deployment_name)
    return rows.values_list("started_at", flat=True).first()
