"""How finely samples are kept, for how long, and which bucket a window is shown in. Pure; one table.

Samples are written once a second. Each is rolled up into the next coarser resolution; every resolution has
a retention of its own. A chart shows at most POINTS_MAX buckets; a sum over a window is put together from
whole rows of every resolution, see `cover`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HOUR_S = 3600
DAY_S = 24 * HOUR_S

RETENTION_S: dict[int, int] = {
    1: HOUR_S,
    10: DAY_S,
    60: 30 * DAY_S,
    300: 90 * DAY_S,
    HOUR_S: 400 * DAY_S,
    DAY_S: 5 * 365 * DAY_S,
}
"""Resolution in seconds -> seconds for which rows of that resolution are kept. Each divides the next."""

POINTS_MAX = 300
BUCKETS_S = (
    *(1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1200, 1800),
    *(HOUR_S, 2 * HOUR_S, 3 * HOUR_S, 6 * HOUR_S, 12 * HOUR_S, DAY_S, 2 * DAY_S),
)
"""Bucket lengths a chart may have; from 10 s on each is a multiple of the rows it is made of."""

ROWS_MAX = 6000
"""Rows a chart of many deployments may read; beyond it the buckets become coarser."""


def coarser_of(resolution_s: int) -> int | None:
    """The resolution that rows of this one are rolled up into, or None for the coarsest."""
    coarser = [one for one in RETENTION_S if one > resolution_s]
    return min(coarser) if coarser else None


def resolution_of(bucket_s: int) -> int:
    """The coarsest resolution whose rows fill buckets of this length exactly."""
    return max(one for one in RETENTION_S if bucket_s % one == 0)


def bucket_for(window_s: int, *, deployments: int = 1) -> int:
    """Length of the buckets in which a window is shown: the finest with at most POINTS_MAX of them, whose
    rows are still kept, and which reads at most ROWS_MAX rows over all deployments."""
    coarsest = BUCKETS_S[-1]
    for bucket_s in BUCKETS_S:
        resolution_s = resolution_of(bucket_s)
        fits = bucket_s * POINTS_MAX >= window_s and RETENTION_S[resolution_s] >= window_s
        if fits and window_s // resolution_s * max(1, deployments) <= ROWS_MAX:
            return bucket_s
        # So many deployments that no bucket reads few enough rows: hours, or days where an hour is too fine.
        if fits and resolution_s == HOUR_S:
            coarsest = min(coarsest, bucket_s)
    return coarsest


KEPT_SLACK_S = 60
"""A row this near to its retention may be dropped while it is being read."""


@dataclass(frozen=True)
class Span:
    """Rows of one resolution, from `start` until before `end` (epoch seconds), both on its intervals."""

    resolution_s: int
    start: int
    end: int


def finest_for(age_s: float) -> int:
    """The finest resolution whose rows of this age are surely still kept, in seconds."""
    kept = [one for one, kept_s in RETENTION_S.items() if kept_s >= age_s + KEPT_SLACK_S]
    return min(kept, default=max(RETENTION_S))


def snapped(start: float, end: float, *, now: float) -> tuple[int, int]:
    """The window widened to whole intervals of what is kept at each of its two ends, in epoch seconds."""
    at_start, at_end = finest_for(now - start), finest_for(now - end)
    first = int(start // at_start) * at_start
    return first, max(first + at_start, int(-(-end // at_end)) * at_end)


def cover(start: int, end: int, *, complete_to: Mapping[int, int]) -> list[Span]:
    """Spans that together are exactly [start, end), coarse ones in the middle and finer ones at the ends.

    `complete_to` says up to when rows of a resolution have been rolled up; later there are finer rows only.
    Give a window that `snapped` has widened. At most two spans per resolution.
    """
    return _cover(start, end, sorted(RETENTION_S, reverse=True), complete_to)


def _cover(start: int, end: int, sizes: Sequence[int], complete_to: Mapping[int, int]) -> list[Span]:
    if start >= end:
        return []
    size, *finer = sizes
    if not finer:
        return [Span(size, start, end)]
    low = -(-start // size) * size
    high = min(end, complete_to.get(size, 0)) // size * size
    if high <= low:
        return _cover(start, end, finer, complete_to)
    return [
        *_cover(start, low, finer, complete_to),
        Span(size, low, high),
        *_cover(high, end, finer, complete_to),
    ]
