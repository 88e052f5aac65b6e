"""Latency histograms that can be merged without loss: fixed log-spaced buckets, sparse counts.

A histogram is a plain map from bucket index to count, so that any window's percentile can be read from the
sum of its parts; `encode` makes a few bytes of it for a column. Percentiles are never averaged. Knows no
database.

Bucket 0 holds everything below 0.1 ms, bucket i (1..LAST-1) holds BOUNDS[i-1] <= value < BOUNDS[i], the last
one everything from about 2.8 h on. Each bound is 1.05 times the one before, so that a quantile read from the
buckets lies within 5 % of the true order statistic, and about 2.5 % where a bucket holds one value.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import accumulate

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
        add(total, part)
    return total


def add(into: Counts, part: Mapping[int, int]) -> None:
    """Count everything of `part` once more, in place."""
    for index, count in part.items():
        into[index] = into.get(index, 0) + count


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


def within(counts: Mapping[int, int], limit_s: float) -> int:
    """How many values are certainly at most `limit_s` seconds: whole buckets that end there or before.

    The bucket that the limit lies inside counts as beyond it, so the answer is never too good; `held_limit_s`
    says which limit it is exact for.
    """
    whole = bisect_right(BOUNDS, limit_s)
    return sum(count for index, count in counts.items() if index < whole)


def held_limit_s(limit_s: float) -> float:
    """The bound a limit is held to: the largest one not above it, at most 5 % below; 0 under the first."""
    whole = bisect_right(BOUNDS, limit_s)
    return BOUNDS[whole - 1] if whole else 0.0


WIDTHS = {1: "B", 2: "H", 4: "I", 8: "Q"}
"""Bytes per count -> its code in `struct`."""
STEP_MAX = 255


def encode(counts: Mapping[int, int]) -> bytes:
    """A histogram in a few bytes: the width of a count, one byte per bucket with its distance from the bucket
    before, then the counts, little-endian. Nothing for an empty one. A distance over 255 takes a bucket of
    count 0 in between. Raises ValueError for an index or count below 0.
    """
    steps: list[int] = []
    amounts: list[int] = []
    at = 0
    for index in sorted(index for index, count in counts.items() if count):
        if index < 0 or counts[index] < 0:
            raise ValueError("bucket indices and counts are not negative")
        while index - at > STEP_MAX:
            steps.append(STEP_MAX)
            amounts.append(0)
            at += STEP_MAX
        steps.append(index - at)
        amounts.append(counts[index])
        at = index
    if not amounts:
        return b""
    width = next(width for width in WIDTHS if max(amounts) < 1 << 8 * width)
    return bytes((width, *steps)) + struct.pack(f"<{len(amounts)}{WIDTHS[width]}", *amounts)


def decode(stored: bytes) -> Counts:
    """What `encode` made bytes of. Raises ValueError for bytes that it never makes."""
    if not stored:
        return {}
    width = stored[0]
    buckets, rest = divmod(len(stored) - 1, 1 + width)
    if width not in WIDTHS or rest:
        raise ValueError("these bytes are no histogram")
    amounts = struct.unpack(f"<{buckets}{WIDTHS[width]}", stored[1 + buckets :])
    found = dict(zip(accumulate(stored[1 : 1 + buckets]), amounts, strict=True))
    return {index: count for index, count in found.items() if count} if 0 in amounts else found


def _inside(index: int, fraction: float) -> float:
    if index >= LAST:
        return BOUNDS[-1]
    lower = BOUNDS[index - 1] if index else 0.0
    return lower + (BOUNDS[index] - lower) * fraction
