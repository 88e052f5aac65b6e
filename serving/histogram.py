"""Latency histograms that can be merged without loss: fixed log-spaced buckets, sparse counts.

A histogram is a plain map from bucket index to count, so that it fits a JSON column and any window's
percentile can be read from the sum of its parts. Percentiles are never averaged. Knows no database.

Bucket 0 holds everything below 0.1 ms, bucket i (1..LAST-1) holds BOUNDS[i-1] <= value < BOUNDS[i], the last
one everything from about 2.8 h on. Each bound is 1.05 times the one before, so that a quantile read from the
buckets lies within 5 % of the true order statistic, and about 2.5 % where a bucket holds one value.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping

LOWEST_S = 1e-4
HIGHEST_S = 1e4
GROWTH = 1.05
"""Ratio of neighbouring bounds: the relative width of a bucket is 5 %."""

BOUNDS: tuple[float, ...] = tuple(
    LOWEST_S * GROWTH**i for i in range(math.ceil(math.log(HIGHEST_S / LOWEST_S, GROWTH)) + 1)
)
LAST = len(BOUNDS)
"""Index of the overflow bucket."""

Counts = dict[int, int]


def bucket_of(value_s: float) -> int:
    """Index of the bucket that holds `value_s` (seconds, not negative).

    Raises ValueError for a negative or non-finite value.
    """
    if not math.isfinite(value_s) or value_s < 0:
        raise ValueError(f"a duration must be a finite number of seconds from 0 on, not {value_s!r}")
    return bisect_right(BOUNDS, value_s)


def observe(counts: Counts, value_s: float) -> None:
    """Count one duration in seconds, in place."""
    index = bucket_of(value_s)
    counts[index] = counts.get(index, 0) + 1


def merged(parts: Iterable[Mapping[int, int]]) -> Counts:
    """The sum of several histograms: as if every value had been observed in one."""
    total: Counts = {}
    for part in parts:
        for index, count in part.items():
            total[index] = total.get(index, 0) + count
    return total


def quantile(counts: Mapping[int, int], q: float) -> float | None:
    """The q-quantile in seconds (nearest rank, placed evenly inside its bucket), or None when empty.

    The overflow bucket answers with its lower bound: it has no upper one.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"a quantile lies between 0 and 1, not at {q!r}")
    total = sum(counts.values())
    if total == 0:
        return None
    rank = max(1, math.ceil(q * total))
    below = 0
    for index in sorted(counts):
        count = counts[index]
        if below + count >= rank:
            return _inside(index, (rank - below - 0.5) / count)
        below += count
    return _inside(max(counts), 1.0)


def from_json(stored: Mapping[str, int]) -> Counts:
    """Counts from a JSON column, whose keys are text."""
    return {int(index): count for index, count in stored.items()}


def to_json(counts: Mapping[int, int]) -> dict[str, int]:
    """Counts for a JSON column, in bucket order."""
    return {str(index): counts[index] for index in sorted(counts)}


def _inside(index: int, fraction: float) -> float:
    if index >= LAST:
        return BOUNDS[-1]
    lower = BOUNDS[index - 1] if index else 0.0
    return lower + (BOUNDS[index] - lower) * fraction
