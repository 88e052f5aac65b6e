"""How finely samples are kept, for how long, and which bucket a window is shown in. Pure; one table.

Samples are written once a second. Each is rolled up into the next coarser resolution; every resolution has
a retention of its own. A chart shows at most POINTS_MAX buckets.
"""

HOUR_S = 3600
DAY_S = 24 * HOUR_S

RETENTION_S: dict[int, int] = {
    1: HOUR_S,
    10: DAY_S,
    60: 30 * DAY_S,
    300: 400 * DAY_S,
}
"""Resolution in seconds -> seconds for which rows of that resolution are kept. Each divides the next."""

POINTS_MAX = 300
BUCKETS_S = (
    *(1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 2400),
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
    for bucket_s in BUCKETS_S:
        resolution_s = resolution_of(bucket_s)
        fits = bucket_s * POINTS_MAX >= window_s and RETENTION_S[resolution_s] >= window_s
        if fits and window_s // resolution_s * max(1, deployments) <= ROWS_MAX:
            return bucket_s
    return BUCKETS_S[-1]
