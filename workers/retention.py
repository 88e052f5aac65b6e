"""Roll samples up and drop what is past its retention. The table of both is in serving/resolutions.py:

    rows of | kept for | rolled up into
    1 s     | 1 h      | 10 s
    10 s    | 24 h     | 60 s
    60 s    | 30 d     | 300 s
    300 s   | 90 d     | 1 h
    1 h     | 400 d    | 1 d
    1 d     | 5 years  | –

Rolling up sums counts and buckets, takes the mean of gauges over time and the last value of sizes. It waits
SETTLE_S, so that late usage records have found their second; later ones still are added to both rows.
Every run is bounded and continues where the last one stopped; a mark per resolution (SampleMark) says up to
when it is complete, and is written in the same transaction. Must never drop a row that was not rolled up.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from django.db import transaction
from django.db.models import Max, Min

from console.models import Deployment, Sample, SampleMark
from console.windows import LATENCIES, complete_to
from serving import histogram
from serving.resolutions import RETENTION_S, coarser_of
from workers.samples import locked_marks

SETTLE_S = 35
"""Seconds after which an interval is rolled up; usage records come at most 30 s late in regular running."""

SOURCE_ROWS_PER_STEP = 4_000
ROWS_PER_RUN = 200_000
DELETE_BATCH = 5_000
RUN_FOR_S = 20.0
MEANS = ("requests_running", "requests_waiting", "kv_cache_usage")
SUMS = ("prompt_tokens", "completion_tokens", "requests_ok", "requests_failed")
LASTS = ("replicas", "weights_bytes", "kv_cache_bytes", "rest_bytes", "cost_per_hour_usd")


def apply_retention(now: float | None = None) -> dict[str, int]:
    """The hourly task: roll everything up that is due, then drop what is past. Returns the row counts."""
    now = time.time() if now is None else now
    deadline = time.monotonic() + RUN_FOR_S
    rolled = 0
    while (step := roll_up(now)) and time.monotonic() < deadline:
        rolled += step
    return {"rolled_up": rolled, "dropped": drop_expired(now)}


def roll_up(now: float) -> int:
    """One bounded step per resolution, finest first; the number of rows written. Cheap when none is due."""
    ids = list(Deployment.objects.values_list("pk", flat=True))
    marks, complete, written = complete_to(), int(now - SETTLE_S), 0
    for source_s in RETENTION_S:
        target_s = coarser_of(source_s)
        if target_s is None or not ids:
            break
        if complete // target_s * target_s > marks.get(target_s, 0):
            rows, complete = _roll_up_from(source_s, target_s, ids=ids, complete=complete)
            written += rows
        else:
            complete = marks.get(target_s, 0)
    return written


def drop_expired(now: float, *, rows_max: int = ROWS_PER_RUN) -> int:
    """Delete rows past their retention that have been rolled up; at most about `rows_max` per run."""
    dropped, marks = 0, complete_to()
    for deployment_id in list(Deployment.objects.values_list("pk", flat=True)):
        for resolution_s, kept_s in RETENTION_S.items():
            if dropped >= rows_max:
                return dropped
            before, coarser_s = int(now - kept_s), coarser_of(resolution_s)
            if coarser_s is not None:
                before = min(before, marks.get(coarser_s, 0))
            dropped += _drop(deployment_id, resolution_s, before=before, rows_max=rows_max)
    return dropped


def _roll_up_from(source_s: int, target_s: int, *, ids: Sequence[int], complete: int) -> tuple[int, int]:
    """Roll up intervals that end by `complete`, up to where the source is complete. Gives the number of rows
    written and the time up to which the target is complete now."""
    with transaction.atomic():
        mark = _locked_mark(target_s, ids)
        settled = complete // target_s * target_s
        begin = _next_due(source_s, target_s, ids=ids, since=mark.complete_to)
        if settled <= mark.complete_to:
            return 0, mark.complete_to
        coarse: list[Sample] = []
        end = settled
        if begin is not None and begin < settled:
            intervals = max(1, SOURCE_ROWS_PER_STEP // (len(ids) * target_s // source_s))
            end = min(settled, begin + intervals * target_s)
            rows = (
                Sample.objects.select_for_update()
                .filter(deployment_id__in=ids, resolution_s=source_s, at__gte=begin, at__lt=end)
                .order_by("at")
            )
            coarse = list(_rolled(rows, target_s))
            Sample.objects.bulk_create(coarse, ignore_conflicts=True)
        mark.complete_to = end
        mark.save(update_fields=["complete_to"])
    return len(coarse), end


def _locked_mark(target_s: int, ids: Sequence[int]) -> SampleMark:
    """The resolution's mark, locked. A new one begins where rows of an earlier release end."""
    SampleMark.objects.get_or_create(
        resolution_s=target_s, defaults={"complete_to": _end_of_rows(target_s, ids)}
    )
    return next(mark for mark in locked_marks() if mark.resolution_s == target_s)


def _end_of_rows(resolution_s: int, ids: Sequence[int]) -> int:
    rows = Sample.objects.filter(deployment_id__in=ids, resolution_s=resolution_s)
    last = rows.aggregate(last=Max("at"))["last"]
    return 0 if last is None else last + resolution_s


def _next_due(source_s: int, target_s: int, *, ids: Sequence[int], since: int) -> int | None:
    """Start of the first interval from `since` on that has source rows; None when there is none."""
    sources = Sample.objects.filter(deployment_id__in=ids, resolution_s=source_s, at__gte=since)
    first = sources.aggregate(first=Min("at"))["first"]
    return None if first is None else first // target_s * target_s


def _rolled(rows: Iterable[Sample], target_s: int) -> Iterable[Sample]:
    groups: dict[tuple[int, int], list[Sample]] = {}
    for row in rows:
        groups.setdefault((row.deployment_id, row.at // target_s * target_s), []).append(row)
    for (deployment_id, at), parts in groups.items():
        yield merged_row(parts, deployment_id=deployment_id, at=at, resolution_s=target_s)


def merged_row(parts: Sequence[Sample], *, deployment_id: int, at: int, resolution_s: int) -> Sample:
    """One unsaved row from the rows inside its interval, oldest first. What none measured stays null."""
    values: dict[str, Any] = {}
    for name in MEANS:
        measured = _measured(parts, name)
        values[name] = sum(measured) / len(measured) if measured else None
    for name in SUMS:
        measured = _measured(parts, name)
        values[name] = sum(measured) if measured else None
    for name in LASTS:
        measured = _measured(parts, name)
        values[name] = measured[-1] if measured else None
    for name in LATENCIES:
        values[name] = histogram.merged(getattr(part, name) for part in parts)
    return Sample(deployment_id=deployment_id, at=at, resolution_s=resolution_s, **values)


def _measured(parts: Sequence[Sample], name: str) -> list[float | int | Decimal]:
    return [getattr(part, name) for part in parts if getattr(part, name) is not None]


def _drop(deployment_id: int, resolution_s: int, *, before: int, rows_max: int) -> int:
    expired = Sample.objects.filter(deployment_id=deployment_id, resolution_s=resolution_s, at__lt=before)
    dropped = 0
    while dropped < rows_max:
        batch = list(expired.order_by("at").values_list("pk", flat=True)[:DELETE_BATCH])
        if not batch:
            break
        dropped += Sample.objects.filter(pk__in=batch).delete()[0]
    return dropped
