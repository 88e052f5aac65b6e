"""Why a replica was idle: decided from recorded facts alone, for every moment. Pure.

In this order:

    draining           it was told to stop (the first time Ray showed it stopping) and has not ended
    starting           it has not taken requests yet: before it was first seen running
    kept_warm          it is one of the policy's fewest replicas, which stay whatever happens
    scale_down_delay   it is above the fewest: it waits out that delay, or the idle time before zero

Which replicas are the fewest is not recorded anywhere, since Ray has no such notion: the oldest ready ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serving.cost import Life, microseconds

KEPT_WARM = "kept_warm"
SCALE_DOWN_DELAY = "scale_down_delay"
STARTING = "starting"
DRAINING = "draining"
IDLE_CAUSES = (KEPT_WARM, SCALE_DOWN_DELAY, STARTING, DRAINING)


@dataclass(frozen=True)
class Claim:
    """A replica's life with what was seen of it, in epoch seconds; None for what has not happened (yet)."""

    replica_id: str
    life: Life
    ready_at: float | None = None
    draining_at: float | None = None

    def takes_requests(self, at_us: int) -> bool:
        """Whether it was ready, and neither draining nor gone."""
        left = [at for at in (self.draining_at, self.life.ended_at) if at is not None]
        return (
            self.ready_at is not None
            and microseconds(self.ready_at) <= at_us
            and all(at_us < microseconds(at) for at in left)
        )


@dataclass(frozen=True)
class Minimum:
    """The policy's fewest replicas from a moment on (epoch seconds)."""

    from_at: float
    min_replicas: int


class IdleCauses:
    """The causes of all replicas of one deployment within [start, end) microseconds.

    `claims`: every life that touches the window. Before the first minimum that one holds.
    """

    def __init__(
        self, claims: Sequence[Claim], minimums: Sequence[Minimum], *, start_us: int, end_us: int
    ) -> None:
        self._end_us = end_us
        ordered = sorted(claims, key=lambda claim: (claim.life.started_at, claim.replica_id))
        dated = sorted(minimums, key=lambda minimum: minimum.from_at)
        moments = {start_us, *(microseconds(minimum.from_at) for minimum in dated)}
        for claim in ordered:
            facts = (claim.ready_at, claim.draining_at, claim.life.ended_at)
            moments |= {microseconds(at) for at in facts if at is not None}
        self._moments = sorted(at for at in moments if start_us <= at < end_us)
        self._warm = [_kept_warm(ordered, dated, at) for at in self._moments]

    def pieces(self, claim: Claim, start_us: int, end_us: int) -> Iterator[tuple[int, int, str]]:
        """(begin, end, cause) over a part of the window, in order, without gaps."""
        ends = [*self._moments[1:], self._end_us]
        for begin, end, warm in zip(self._moments, ends, self._warm, strict=True):
            if begin < end_us and end > start_us:
                yield max(begin, start_us), min(end, end_us), _cause(claim, begin, warm)


def _kept_warm(ordered: Sequence[Claim], dated: Sequence[Minimum], at_us: int) -> frozenset[str]:
    fewest = dated[0].min_replicas if dated else 0
    for minimum in dated:
        if microseconds(minimum.from_at) <= at_us:
            fewest = minimum.min_replicas
    ready = [claim.replica_id for claim in ordered if claim.takes_requests(at_us)]
    return frozenset(ready[:fewest])


def _cause(claim: Claim, at_us: int, warm: frozenset[str]) -> str:
    if claim.draining_at is not None and microseconds(claim.draining_at) <= at_us:
        return DRAINING
    if claim.ready_at is None or at_us < microseconds(claim.ready_at):
        return STARTING
    return KEPT_WARM if claim.replica_id in warm else SCALE_DOWN_DELAY
