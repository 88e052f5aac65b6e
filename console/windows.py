"""What happened in a window of time, exactly: requests and latency buckets, summed over stored rows.

Any window is put together from whole rows of several resolutions, so that a month takes some hundred rows and
no row counts twice. Reads only: one query for how far each resolution is complete, one per span of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from console.models import Sample, SampleMark
from serving import histogram
from serving.resolutions import cover, snapped

LATENCIES = ("ttft", "tpot", "e2e", "queue")
"""Columns of Sample that hold buckets."""


@dataclass
class Totals:
    """All requests of one deployment in a window. `counts`: latency -> its buckets."""

    requests_ok: int = 0
    requests_failed: int = 0
    counts: dict[str, histogram.Counts] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """Answered and failed ones; what was refused as wrong is no traffic."""
        return self.requests_ok + self.requests_failed


@dataclass(frozen=True)
class Window:
    """Totals by deployment id of [start, end), epoch seconds: what was asked for, in whole rows."""

    start: int
    end: int
    totals: dict[int, Totals]

    def of(self, deployment_id: int) -> Totals:
        """One deployment's; nothing but zeros where it has no rows."""
        return self.totals.get(deployment_id, Totals())


def window(
    ids: Sequence[int],
    *,
    start: float,
    end: float,
    now: float,
    latencies: Sequence[str] = LATENCIES,
    marks: dict[int, int] | None = None,
) -> Window:
    """Sum the rows of these deployments. `marks`, from `complete_to`, saves its query.

    The ends are widened to what is kept at that age: 1 s within the last hour, 10 s within a day, 60 s
    within 30 days, 5 min within 90 days.
    """
    first, last = snapped(start, end, now=now)
    totals: dict[int, Totals] = {}
    for span in cover(first, last, complete_to=complete_to() if marks is None else marks):
        rows = Sample.objects.filter(
            deployment_id__in=ids, resolution_s=span.resolution_s, at__gte=span.start, at__lt=span.end
        ).values_list("deployment_id", "requests_ok", "requests_failed", *latencies)
        for pk, answered, failed, *buckets in rows.iterator(2000):
            own = totals.setdefault(pk, Totals(counts={name: {} for name in latencies}))
            own.requests_ok += answered or 0
            own.requests_failed += failed or 0
            for name, counts in zip(latencies, buckets, strict=True):
                histogram.add(own.counts[name], counts)
    return Window(first, last, totals)


def complete_to() -> dict[int, int]:
    """Resolution -> epoch seconds up to which its rows are complete."""
    return dict(SampleMark.objects.values_list("resolution_s", "complete_to"))
