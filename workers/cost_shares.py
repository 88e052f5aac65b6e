"""One step of the accounting, reckoned and not yet written: who gets what, as changes of the ledger.

Two parts. Forward: the time since a replica was last accounted for is shared among the requests known to have
been alive in it. Late: a record that came after its time had been shared out. The seconds it was alive in are
shared again with it, and the difference between the two is the correction: the late request pays, and what
idle time and its neighbours had paid for it is given back. Each correction adds up to nothing, and whatever
order records come in, everybody ends with the share they would have had if all had come in time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from console.models import Replica, RequestRecord
from serving.allocation import allocate
from serving.cost import MICROSECONDS
from serving.work import Work
from workers import cost_facts
from workers.cost_facts import Facts
from workers.cost_ledger import HOUR_S, REQUEST, Amount, Use, hour_of

MOST_SHARE = 2**63 - 1
"""What the column of one request's share holds: nine million dollars."""


@dataclass
class Sorted:
    """Records without a share, by what is to be done. `late`: their replica's time was shared out already."""

    late: dict[str, list[RequestRecord]] = field(default_factory=dict)
    nowhere: list[RequestRecord] = field(default_factory=list)


@dataclass
class Step:
    """The changes of one step: rows to append, and the shares of requests as they are afterwards."""

    facts: Facts
    amounts: dict[Use, Amount] = field(default_factory=dict)
    shares: dict[str, int] = field(default_factory=dict)

    def is_empty(self) -> bool:
        """Whether nothing has to be written."""
        return not self.shares and all(amount.is_nothing() for amount in self.amounts.values())

    def forward(self, replica: Replica, records: Sequence[RequestRecord], *, start: int, end: int) -> None:
        """Share out the replica's time in [start, end)."""
        for record in records:
            self._include(replica, record)
        self._share(replica, records, start=start, end=end, sign=1)

    def correct(
        self,
        replica: Replica,
        late: Sequence[RequestRecord],
        others: Sequence[RequestRecord],
        span: tuple[int, int],
    ) -> None:
        """Share out a span of accounted seconds once more, with those of the late records alive in it."""
        start, end = span
        alive = [record for record in late if record.finished_at > start and record.started_at < end]
        for record in alive:
            self._include(replica, record)
        self._share(replica, others, start=start, end=end, sign=-1)
        self._share(replica, [*others, *alive], start=start, end=end, sign=1)

    def _include(self, replica: Replica, record: RequestRecord) -> None:
        """Count a request that gets its first share in the hour in which it finished."""
        if record.pk not in self.shares:
            self.shares[record.pk] = record.cost_units or 0
            if record.cost_units is None:
                amount = self._amount(_use(replica, record, hour_of(record.finished_at)))
                amount.requests += 1
                amount.prompt_tokens += record.prompt_tokens or 0
                amount.cached_tokens += record.cached_tokens or 0
                amount.completion_tokens += record.completion_tokens or 0

    def _share(
        self, replica: Replica, records: Sequence[RequestRecord], *, start: int, end: int, sign: int
    ) -> None:
        by_id = {record.pk: record for record in records}
        works = [work for record in records if (work := cost_facts.work_on(replica, record)) is not None]
        claim, curve = cost_facts.claim_of(replica), self.facts.curve(replica)
        deployment_id = replica.deployment_id or 0
        for begin, stop in _hours(start, end):
            causes = self.facts.causes(deployment_id, begin, stop)
            shares = allocate(claim, curve=curve, causes=causes, works=works, start=begin, end=stop)
            for record_id, units in shares.requests.items():
                record = by_id[record_id]
                self.shares.setdefault(record_id, record.cost_units or 0)
                self.shares[record_id] += sign * units
                self._amount(_use(replica, record, hour_of(begin))).units += sign * units
            for cause, units in shares.idle.items():
                idle = Use(deployment_id, replica.deployment_name, hour_of(begin), cause)
                self._amount(idle).units += sign * units

    def _amount(self, use: Use) -> Amount:
        return self.amounts.setdefault(use, Amount())


def sort_out(records: Sequence[RequestRecord], replicas: dict[str, Replica], *, end: int) -> Sorted:
    """What is to be done with records without a share. Those alive only in time that is not shared out yet
    need nothing: going forward finds them."""
    found = Sorted()
    for record in records:
        replica = replicas.get(record.replica)
        work = None if replica is None else cost_facts.work_on(replica, record)
        if replica is None or work is None:
            if record.finished_at < end:
                found.nowhere.append(record)
        elif not is_in_time(replica, work):
            found.late.setdefault(record.replica, []).append(record)
    return found


def is_in_time(replica: Replica, work: Work) -> bool:
    """Whether none of the seconds in which the request was alive is shared out yet."""
    until = replica.accounted_until
    return until is None or work.begin_us // MICROSECONDS >= until


def spans_of(replica: Replica, late: Sequence[RequestRecord]) -> list[tuple[int, int]]:
    """The accounted seconds in which late records were alive, in order and without overlap."""
    until = replica.accounted_until or 0
    spans: list[tuple[int, int]] = []
    works = [work for record in late if (work := cost_facts.work_on(replica, record)) is not None]
    for work in sorted(works, key=lambda work: work.begin_us):
        begin = work.begin_us // MICROSECONDS
        end = min(until, -(-work.end_us // MICROSECONDS))
        if spans and begin <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((begin, end))
    return spans


def _hours(start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        stop = min(end, hour_of(start) + HOUR_S)
        yield start, stop
        start = stop


def _use(replica: Replica, record: RequestRecord, at: int) -> Use:
    return Use(
        deployment_id=replica.deployment_id or 0,
        deployment_name=replica.deployment_name,
        at=at,
        kind=REQUEST,
        key_id=record.key_id or 0,
        user_name=record.user_name,
    )
