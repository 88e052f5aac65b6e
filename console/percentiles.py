"""p50, p95 and p99 of every latency in a window, from summed buckets, never averaged. Reads only."""

from __future__ import annotations

from typing import Any

from console.models import Deployment
from console.windows import LATENCIES, window
from serving import histogram
from serving.resolutions import DAY_S

WINDOW_MIN_S = 60
WINDOW_MAX_S = 30 * DAY_S
QUANTILES = {"p50_s": 0.50, "p95_s": 0.95, "p99_s": 0.99}


def summary(deployment: Deployment, *, start: float, end: float, now: float) -> dict[str, Any]:
    """The JSON of GET /api/v1/deployments/NAME/percentiles: `from` and `to` (epoch seconds, as far as rows
    of that age allow), requests, and per latency its count and percentiles in seconds; null without one.

    A percentile lies within 5 % of the true order statistic, the width of a bucket. At most 13 queries.
    """
    found = window([deployment.pk], start=start, end=end, now=now)
    own = found.of(deployment.pk)
    return {
        "from": found.start,
        "to": found.end,
        "requests": own.requests,
        "failed": own.requests_failed,
        "latencies": {name: _of(own.counts.get(name, {})) for name in LATENCIES},
    }


def _of(counts: histogram.Counts) -> dict[str, Any]:
    values: dict[str, Any] = {name: histogram.quantile(counts, q) for name, q in QUANTILES.items()}
    return {"count": sum(counts.values()), **values}
