"""True cost: shares out what replicas cost among requests and idle time, step by step, exactly once.

A step reckons without a transaction and writes in one: ledger rows, requests' shares, how far each replica is
accounted for, and how far all are. The write is guarded by the lease's token and by the step's number, so a
worker that was killed, stalled or overtaken leaves nothing half done, and nothing is written twice.

Time is shared out up to the newest minute that is over for good: SETTLE_S ago, so that most records are
here, and seen by the reconciler, so that no life's end can still move behind it. A record that comes later
(a long answer, a gateway that spooled) is charged by a correction: see workers/cost_shares.py.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid

from django.db import close_old_connections, transaction
from django.db.models import Min, Q

from console.models import ClusterStatus, CostAccounting, Replica, RequestRecord
from workers import cost_facts, cost_ledger, cost_shares, lease
from workers.cost_ledger import HOUR_S, hour_of
from workers.cost_shares import MOST_SHARE, Step

log = logging.getLogger(__name__)

LEASE = "accounting"
LEASE_TTL_S = 120.0
SETTLE_S = 60
STEP_S = 60
SEEN_MARGIN_S = 10
"""A pass stores when it looked before it stores what it saw."""
MOST_RECORDS = 5_000
"""Records without a share that one step takes on; the next one continues."""
MOST_REQUESTS = 20_000
"""Requests that one step shares time among, unless a single minute has more: its transaction stays short.
A minute at 100 requests/s takes 1.5 s of one core."""
RUN_FOR_S = 20.0


class Overtaken(RuntimeError):
    """Another worker has taken over; nothing of this step is written."""


def share_out(now: float | None = None) -> int:
    """The task: step after step up to where costs are final, then fold old rows. The steps written."""
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    token = lease.acquire(LEASE, holder=holder, ttl_s=LEASE_TTL_S, now=time.time())
    if token is None:
        return 0
    deadline, written = time.monotonic() + RUN_FOR_S, 0
    try:
        while time.monotonic() < deadline and take_step(time.time() if now is None else now, token=token):
            written += 1
            lease.renew(LEASE, token=token, ttl_s=LEASE_TTL_S, now=time.time())
        _fold(deadline)
    except Overtaken:
        log.warning("accounting lease=lost holder=%s", holder)
    finally:
        lease.release(LEASE, token=token)
        close_old_connections()
    return written


def take_step(now: float, *, token: int) -> bool:
    """One step of at most an hour; whether anything was written. Raises Overtaken."""
    state, _ = CostAccounting.objects.get_or_create(pk=1)
    end = final_until(now)
    if state.until is None:
        state.until = _beginning()
    if state.until is None or end is None:
        return False
    start = state.until
    end = max(start, min(end, hour_of(start) + HOUR_S, _after_most_requests(start)))
    replicas = _open_replicas(end)
    step = _reckoned(replicas, end=end)
    accounted = [row for row in replicas if row.accounted_until is None or row.accounted_until < end]
    if end == start and step.is_empty() and not accounted:
        return False
    _write(step, state, accounted, end=end, token=token, now=now)
    return True


def final_until(now: float) -> int | None:
    """The epoch second, a whole minute, up to which lives and most records are known; None: not at all."""
    observed_at = ClusterStatus.objects.filter(pk=1).values_list("observed_at", flat=True).first()
    if observed_at is None:
        return None
    seen_at = Replica.objects.filter(ended_at=None).aggregate(first=Min("last_seen_at"))["first"]
    limit = min(now - SETTLE_S, observed_at - SEEN_MARGIN_S)
    limit = limit if seen_at is None else min(limit, seen_at)
    return int(limit // STEP_S * STEP_S)


def _after_most_requests(start: int) -> int:
    """The minute at which a step from `start` on has enough requests; far away where there are few."""
    later = RequestRecord.objects.filter(started_at__gte=start).order_by("started_at")
    last = later.values_list("started_at", flat=True)[MOST_REQUESTS : MOST_REQUESTS + 1].first()
    return start + HOUR_S if last is None else max(start + STEP_S, int(last // STEP_S * STEP_S))


def _beginning() -> int | None:
    """The hour of the first life there ever was."""
    first = Replica.objects.filter(deployment__isnull=False).aggregate(first=Min("started_at"))["first"]
    return None if first is None else hour_of(first)


def _open_replicas(end: int) -> list[Replica]:
    """Replicas whose time before `end` may not be shared out yet."""
    return list(Replica.objects.filter(settled=False, deployment__isnull=False, started_at__lt=end))


def _reckoned(replicas: list[Replica], *, end: int) -> Step:
    waiting = cost_facts.unallocated(end, most=MOST_RECORDS)
    named = {record.replica for record in waiting} - {row.replica_id for row in replicas}
    known = {row.replica_id: row for row in replicas}
    known |= {
        row.replica_id: row
        for row in Replica.objects.filter(replica_id__in=named, deployment__isnull=False, started_at__lt=end)
    }
    found = cost_shares.sort_out(waiting, known, end=end)
    spans = {name: cost_shares.spans_of(known[name], late) for name, late in found.late.items()}
    concerned = [*replicas, *(known[name] for name in found.late)]
    starts = [_start_of(row) for row in replicas] + [own[0][0] for own in spans.values()]
    facts = cost_facts.load(
        {row.deployment_id or 0 for row in concerned}, start=min(starts, default=end), end=end
    )
    step = Step(facts)
    for record in found.nowhere:
        step.shares[record.pk] = 0
    for name, late in found.late.items():
        for span in spans[name]:
            others = cost_facts.records_within([name], start=span[0], end=span[1])
            step.correct(known[name], late, list(others.exclude(cost_units=None)), span)
    _go_forward(step, replicas, found.late, end=end)
    return step


def _go_forward(
    step: Step, replicas: list[Replica], late: dict[str, list[RequestRecord]], *, end: int
) -> None:
    starts = {row.replica_id: _start_of(row) for row in replicas if _start_of(row) < end}
    if not starts:
        return
    corrected = {record.pk for records in late.values() for record in records}
    records: dict[str, list[RequestRecord]] = {}
    for record in cost_facts.records_within(starts.keys(), start=min(starts.values()), end=end):
        records.setdefault(record.replica, []).append(record)
    for row in replicas:
        if row.replica_id in starts:
            own = [
                record
                for record in records.get(row.replica_id, ())
                if record.cost_units is not None or record.pk in corrected or _is_new(row, record)
            ]
            step.forward(row, own, start=starts[row.replica_id], end=end)


def _is_new(replica: Replica, record: RequestRecord) -> bool:
    """Whether going forward charges the whole of a record that has no share yet: one that came in between,
    and is late, waits for the next step."""
    work = cost_facts.work_on(replica, record)
    return work is not None and cost_shares.is_in_time(replica, work)


def _start_of(replica: Replica) -> int:
    return int(replica.started_at) if replica.accounted_until is None else replica.accounted_until


def _write(
    step: Step, state: CostAccounting, accounted: list[Replica], *, end: int, token: int, now: float
) -> None:
    with transaction.atomic():
        if not lease.holds(LEASE, token=token, now=time.time()):
            raise Overtaken("the accounting's lease was lost")
        number = state.version + 1
        claimed = CostAccounting.objects.filter(pk=1, version=state.version)
        if claimed.update(version=number, until=end, stepped_at=now) != 1:
            raise Overtaken("the step was taken already")
        _check_ends(accounted, end=end)
        cost_ledger.append(step.amounts, step=number)
        shares = [
            RequestRecord(pk=pk, cost_units=min(units, MOST_SHARE)) for pk, units in step.shares.items()
        ]
        RequestRecord.objects.bulk_update(shares, ["cost_units"], batch_size=300)
        rows = Replica.objects.filter(pk__in=[row.pk for row in accounted])
        rows.update(accounted_until=end)
        rows.filter(Q(ended_at__lte=end)).update(settled=True)
    log.info("accounting until=%d rows=%d requests=%d", end, len(step.amounts), len(shares))


def _check_ends(accounted: list[Replica], *, end: int) -> None:
    """Raise Overtaken when a life that was reckoned to its end lives on by now (workers/observe.py)."""
    reckoned = {row.pk: row.ended_at for row in accounted if row.ended_at is not None and row.ended_at < end}
    rows = Replica.objects.select_for_update().filter(pk__in=reckoned)
    if dict(rows.values_list("pk", "ended_at")) != reckoned:
        raise Overtaken("a replica that had ended lives on")


def _fold(deadline: float) -> None:
    until = CostAccounting.objects.filter(pk=1).values_list("until", flat=True).first()
    while until is not None and time.monotonic() < deadline and cost_ledger.fold(until):
        continue
