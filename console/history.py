"""Samples as chart points: the one JSON that the metrics endpoint answers and the socket pushes.

Percentiles come from summed buckets, never from averaged percentiles. What was not measured is null; a
bucket without a single row is null throughout. Reads only; at most eight queries, whatever the window.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from console import costs
from console.models import Deployment, Sample
from console.windows import LATENCIES
from serving import histogram
from serving.resolutions import DAY_S, RETENTION_S, bucket_for, resolution_of

WINDOW_MIN_S = 10
WINDOW_MAX_S = 400 * DAY_S
COLUMNS = (
    "deployment_id",
    "resolution_s",
    "at",
    "requests_running",
    "requests_waiting",
    "kv_cache_usage",
    "prompt_tokens",
    "completion_tokens",
    "requests_ok",
    "requests_failed",
    "replicas",
    "weights_bytes",
    "kv_cache_bytes",
    "rest_bytes",
    "cost_per_hour_usd",
    *LATENCIES,
)
QUANTILES = (("p50", 0.50), ("p95", 0.95), ("p99", 0.99))


@dataclass(slots=True)
class Row:
    """One stored interval of one deployment; the columns of Sample without its machinery."""

    deployment_id: int
    resolution_s: int
    at: int
    requests_running: float | None
    requests_waiting: float | None
    kv_cache_usage: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    requests_ok: int | None
    requests_failed: int | None
    replicas: float | None
    weights_bytes: int | None
    kv_cache_bytes: int | None
    rest_bytes: int | None
    cost_per_hour_usd: Decimal | None
    ttft: histogram.Counts
    tpot: histogram.Counts
    e2e: histogram.Counts
    queue: histogram.Counts


def points(*, deployment: Deployment | None, window_s: int, now: float) -> dict[str, Any]:
    """The last `window_s` seconds of one deployment, or of all together: at most 300 points.

    The JSON of GET /api/v1/deployments/NAME/metrics: `resolution_s`, `from`, `to` (epoch seconds) and one
    point per bucket, oldest first; see `point`. The window is brought into 10 s .. 400 days.
    """
    window_s = max(WINDOW_MIN_S, min(WINDOW_MAX_S, int(window_s)))
    ids = [deployment.pk] if deployment else list(Deployment.objects.values_list("pk", flat=True))
    bucket_s = bucket_for(window_s, deployments=len(ids))
    count = -(-window_s // bucket_s)
    newest = (int(now) - 1) // bucket_s * bucket_s
    oldest = newest - (count - 1) * bucket_s
    buckets: dict[int, list[Row]] = {oldest + i * bucket_s: [] for i in range(count)}
    for row in _rows(ids, start=oldest, end=newest + bucket_s, resolution_s=resolution_of(bucket_s)):
        buckets[row.at // bucket_s * bucket_s].append(row)
    filled = [at for at, rows in buckets.items() if rows]
    spent = costs.book(deployment=deployment).usd_at([min(at + bucket_s, now) for at in filled])
    cost_usd = dict(zip(filled, spent, strict=True))
    return {
        "resolution_s": bucket_s,
        "from": oldest,
        "to": newest + bucket_s,
        "points": [point(at, rows, cost_usd=cost_usd.get(at)) for at, rows in buckets.items()],
    }


def point(at: int, rows: Sequence[Row], *, cost_usd: Decimal | None) -> dict[str, Any]:
    """One chart point of the bucket that begins at `at`: all rows in it, of one deployment or several.

    Latencies in seconds, rates per second, memory in bytes, money as text in US dollars. `cost_usd` is what
    has been spent up to the end of the bucket.
    """
    parts = _by_deployment(rows)
    answer: dict[str, Any] = {"t": at}
    for name in LATENCIES:
        counts = histogram.merged(getattr(row, name) for row in rows)
        for label, q in QUANTILES:
            answer[f"{name}_{label}_s"] = histogram.quantile(counts, q)
    answer["running"] = _total(_mean(part, "requests_running") for part in parts)
    answer["waiting"] = _total(_mean(part, "requests_waiting") for part in parts)
    answer["tokens_per_s"] = _total(_rate(part, "completion_tokens") for part in parts)
    answer["prompt_tokens_per_s"] = _total(_rate(part, "prompt_tokens") for part in parts)
    answer["kv_usage"] = _kv_usage(parts)
    answer["weights_bytes"] = _total(_last(part, "weights_bytes") for part in parts)
    answer["kv_bytes"] = _total(_last(part, "kv_cache_bytes") for part in parts)
    answer["rest_bytes"] = _total(_last(part, "rest_bytes") for part in parts)
    answer["replicas"] = _total(_last(part, "replicas") for part in parts)
    answer["cost_per_hour_usd"] = _text(_total(_last(part, "cost_per_hour_usd") for part in parts))
    answer["cost_usd"] = _text(cost_usd)
    failed = _total(row.requests_failed for row in rows)
    answered = _total(row.requests_ok for row in rows)
    answer["requests"] = _total((failed, answered))
    answer["failed"] = failed
    return answer


def row_of(sample: Sample) -> Row:
    """A Sample, saved or not, as a Row."""
    return Row(**{name: getattr(sample, name) for name in COLUMNS})


def _rows(ids: Sequence[int], *, start: int, end: int, resolution_s: int) -> Iterable[Row]:
    """Rows of the wanted resolution, and after the last of them the finer ones not rolled up yet."""
    for resolution in sorted((one for one in RETENTION_S if one <= resolution_s), reverse=True):
        found = Sample.objects.filter(
            deployment_id__in=ids, resolution_s=resolution, at__gte=start, at__lt=end
        ).order_by("at")
        for values in found.values_list(*COLUMNS):
            row = Row(*values)
            start = row.at + resolution
            yield row


def _by_deployment(rows: Sequence[Row]) -> list[list[Row]]:
    parts: dict[int, list[Row]] = {}
    for row in rows:
        parts.setdefault(row.deployment_id, []).append(row)
    return list(parts.values())


def _mean(rows: Sequence[Row], name: str) -> float | None:
    """Mean over time of a gauge, over the seconds in which it was measured."""
    measured = [(getattr(row, name), row.resolution_s) for row in rows if getattr(row, name) is not None]
    seconds = sum(resolution_s for _, resolution_s in measured)
    return sum(value * resolution_s for value, resolution_s in measured) / seconds if seconds else None


def _rate(rows: Sequence[Row], name: str) -> float | None:
    """Counted per second, over the seconds in which it was counted."""
    counted = [(getattr(row, name), row.resolution_s) for row in rows if getattr(row, name) is not None]
    seconds = sum(resolution_s for _, resolution_s in counted)
    return sum(value for value, _ in counted) / seconds if seconds else None


def _last(rows: Sequence[Row], name: str) -> Any:
    for row in reversed(rows):
        if getattr(row, name) is not None:
            return getattr(row, name)
    return None


def _total(values: Iterable[Any]) -> Any:
    """The sum of what was measured; None when nothing was."""
    measured = [value for value in values if value is not None]
    return sum(measured[1:], measured[0]) if measured else None


def _kv_usage(parts: Sequence[Sequence[Row]]) -> float | None:
    """Share of the KV cache in use; of several deployments weighted by the size of their caches."""
    used = [(_mean(part, "kv_cache_usage"), _last(part, "kv_cache_bytes")) for part in parts]
    known = [(usage, size) for usage, size in used if usage is not None]
    if not known:
        return None
    total_bytes = sum(size or 0 for _, size in known)
    if total_bytes == 0 or any(size is None for _, size in known):
        return sum(usage for usage, _ in known) / len(known)
    return sum(usage * size for usage, size in known) / total_bytes


def _text(value: Decimal | None) -> str | None:
    return None if value is None else format(value, "f")
