"""A replica's cost, shared out: among the requests alive on it, and what none used as idle. Pure.

Each replica-second is shared on its own. The time within it when at least one request was alive is paid by
those requests, in proportion to the work each got in that second (serving/work.py); when none got any, all
waiting or nothing known of their tokens, in proportion to the time each was there. The rest of the second is
idle, by cause (serving/idle.py).

All amounts are trillionths of a dollar as serving/cost.py counts them: the cost of a stretch of time is the
difference of two cumulative costs, so stretches add up exactly, and a stretch is shared by largest remainder,
so its parts do too. A second is shared the same in whatever window it is asked for. Hence, for windows of
whole seconds, the parts of [a, b) and [b, c) are together exactly those of [a, c), for every request.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from serving.cost import MICROSECONDS, CostCurve
from serving.idle import Claim, IdleCauses
from serving.work import Work

SCALE = 1_000_000
"""Work within a second is counted in millionths of a weighted token."""

Span = tuple[int, int]
Present = dict[int, list[tuple[Work, int]]]
"""Second -> the requests alive in it, each with its microseconds there."""


@dataclass
class Shares:
    """Trillionths of a dollar by request id, and of idle time by cause."""

    requests: dict[str, int] = field(default_factory=dict)
    idle: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """What the replica cost in the window."""
        return sum(self.requests.values()) + sum(self.idle.values())


def allocate(
    claim: Claim, *, curve: CostCurve, causes: IdleCauses, works: Iterable[Work], start: int, end: int
) -> Shares:
    """Share out what a replica costs in [start, end), whole epoch seconds. `causes` covers the window;
    `works` are the requests of this replica, those outside the window are left out."""
    shares = Shares()
    start_us = max(start * MICROSECONDS, curve.started_us)
    end_us = end * MICROSECONDS if curve.ended_us is None else min(end * MICROSECONDS, curve.ended_us)
    if start_us >= end_us:
        return shares
    alive = sorted(
        (work for work in works if work.begin_us < end_us and work.end_us > start_us),
        key=lambda work: (work.begin_us, work.id),
    )
    busy = _merged((max(work.begin_us, start_us), min(work.end_us, end_us)) for work in alive)
    for begin, stop in _gaps(busy, start_us, end_us):
        for piece_begin, piece_end, cause in causes.pieces(claim, begin, stop):
            shares.idle[cause] = shares.idle.get(cause, 0) + curve.between(piece_begin, piece_end)
    present = _present(alive, start_us, end_us)
    for second, units in _by_second(busy, curve).items():
        for work_id, part in _shared_second(second, units, present[second]):
            shares.requests[work_id] = shares.requests.get(work_id, 0) + part
    return shares


def by_largest_remainder(units: int, weights: Sequence[int]) -> list[int]:
    """Whole parts of `units` in proportion to `weights` that add up to `units`; of equal remainders the
    earlier one is rounded up. The weights must not all be 0."""
    total = sum(weights)
    parts = [units * weight // total for weight in weights]
    left = units - sum(parts)
    if left:
        by_remainder = sorted(range(len(weights)), key=lambda i: (-(units * weights[i] % total), i))
        for i in by_remainder[:left]:
            parts[i] += 1
    return parts


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Spans that touch or overlap as one; they come in order of their beginning."""
    merged: list[Span] = []
    for begin, end in spans:
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


def _gaps(busy: Sequence[Span], start_us: int, end_us: int) -> list[Span]:
    begins = [start_us, *(end for _, end in busy)]
    ends = [*(begin for begin, _ in busy), end_us]
    return [(begin, end) for begin, end in zip(begins, ends, strict=True) if begin < end]


def _by_second(busy: Sequence[Span], curve: CostCurve) -> dict[int, int]:
    """What the busy time costs, second by second."""
    units: dict[int, int] = {}
    for begin, end in busy:
        for second, part_begin, part_end in _seconds(begin, end):
            units[second] = units.get(second, 0) + curve.between(part_begin, part_end)
    return units


def _present(alive: Sequence[Work], start_us: int, end_us: int) -> Present:
    present: Present = {}
    for work in alive:
        for second, begin, end in _seconds(max(work.begin_us, start_us), min(work.end_us, end_us)):
            present.setdefault(second, []).append((work, end - begin))
    return present


def _seconds(begin_us: int, end_us: int) -> Iterable[tuple[int, int, int]]:
    for second in range(begin_us // MICROSECONDS, -(-end_us // MICROSECONDS)):
        at = second * MICROSECONDS
        yield second, max(begin_us, at), min(end_us, at + MICROSECONDS)


def _shared_second(second: int, units: int, present: Sequence[tuple[Work, int]]) -> Iterable[tuple[str, int]]:
    ordered = sorted(present, key=lambda pair: pair[0].id)
    begin_us = second * MICROSECONDS
    weights = [_work_within(work, begin_us, begin_us + MICROSECONDS) for work, _ in ordered]
    if not any(weights):
        weights = [time_us for _, time_us in ordered]
    parts = by_largest_remainder(units, weights)
    return ((work.id, part) for (work, _), part in zip(ordered, parts, strict=True))


def _work_within(work: Work, begin_us: int, end_us: int) -> int:
    """Millionths of a weighted token that a request got in a second, its phases being steady."""
    done = 0
    for phase in work.phases:
        overlap = min(phase.end_us, end_us) - max(phase.begin_us, begin_us)
        if overlap > 0:
            done += phase.work * SCALE * overlap // (phase.end_us - phase.begin_us)
    return done
