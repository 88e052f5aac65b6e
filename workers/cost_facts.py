"""What the accounting of costs reads: replicas' lives, prices, minimums, usage records. Reads only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from django.db.models import Q, QuerySet

from console import costs
from console.models import MinReplicasChange, Replica, RequestRecord
from serving.cost import MICROSECONDS, CostCurve, Life, Price
from serving.idle import Claim, IdleCauses, Minimum
from serving.work import LONGEST_REQUEST_S, Served, Work, work_of

SERVED_FIELDS = tuple(Served.__dataclass_fields__)
RECORD_FIELDS = (*SERVED_FIELDS, "replica", "key_id", "user_name", "cost_units")


@dataclass
class Facts:
    """All that decides what the replicas of some deployments cost within [start, end) and who used them."""

    start: int
    end: int
    claims: dict[int, list[Claim]] = field(default_factory=dict)
    prices: dict[int, list[Price]] = field(default_factory=dict)
    minimums: dict[int, list[Minimum]] = field(default_factory=dict)
    _causes: dict[tuple[int, int, int], IdleCauses] = field(default_factory=dict)

    def curve(self, replica: Replica) -> CostCurve:
        """What the replica costs over time."""
        return CostCurve(claim_of(replica).life, self.prices.get(replica.deployment_id or 0, ()))

    def causes(self, deployment_id: int, start: int, end: int) -> IdleCauses:
        """Why replicas of a deployment were idle, over a part of the window; kept, as all of them ask."""
        wanted = (deployment_id, start, end)
        if wanted not in self._causes:
            self._causes[wanted] = IdleCauses(
                self.claims.get(deployment_id, ()),
                self.minimums.get(deployment_id, ()),
                start_us=start * MICROSECONDS,
                end_us=end * MICROSECONDS,
            )
        return self._causes[wanted]


def load(deployment_ids: Collection[int], *, start: int, end: int) -> Facts:
    """The facts of these deployments. Three queries."""
    facts = Facts(start, end, prices=costs.prices_by_deployment())
    lives = Replica.objects.filter(deployment_id__in=deployment_ids, started_at__lt=end)
    for replica in lives.filter(Q(ended_at=None) | Q(ended_at__gt=start)):
        facts.claims.setdefault(replica.deployment_id or 0, []).append(claim_of(replica))
    changes = MinReplicasChange.objects.filter(deployment_id__in=deployment_ids).order_by("from_at", "pk")
    for pk, from_at, fewest in changes.values_list("deployment_id", "from_at", "min_replicas"):
        facts.minimums.setdefault(pk, []).append(Minimum(from_at, fewest))
    return facts


def claim_of(replica: Replica) -> Claim:
    """The replica as the domain knows it."""
    life = Life(replica.started_at, replica.ended_at, replica.accelerators)
    return Claim(replica.replica_id, life, replica.ready_at, replica.draining_at)


def unallocated(before: float, *, most: int) -> list[RequestRecord]:
    """Usage records without a share that began before a moment, the first to finish first."""
    rows = RequestRecord.objects.filter(cost_units=None, started_at__lt=before)
    return list(rows.only(*RECORD_FIELDS).order_by("finished_at")[:most])


def records_within(replica_ids: Collection[str], *, start: int, end: int) -> QuerySet[RequestRecord]:
    """Usage records of these replicas that may have been alive within [start, end)."""
    return RequestRecord.objects.only(*RECORD_FIELDS).filter(
        replica__in=replica_ids,
        started_at__lt=end,
        finished_at__gt=start,
        # Nobody is alive for longer; the second bound is what lets the index be used for past windows.
        finished_at__lt=end + LONGEST_REQUEST_S,
    )


def work_on(replica: Replica, record: RequestRecord) -> Work | None:
    """The record's time and work on its replica; None when the replica did not live then."""
    served = Served(**{name: getattr(record, name) for name in SERVED_FIELDS})
    work = work_of(served, ready_at=replica.ready_at)
    if work is None or work.end_us <= replica.started_at * MICROSECONDS:
        return None
    if replica.ended_at is not None and work.begin_us >= replica.ended_at * MICROSECONDS:
        return None
    return work
