"""The collector: once a second, engine metrics and usage records in, samples and ledger rows out.

One asyncio loop. At the turn of each second it scrapes the metrics pages; GRACE_S later, when the gateways
have delivered what finished in that second, it stores the second's samples and the ledger in one
transaction, publishes the samples, and only then takes the entries out of the stream.

What it survives: Redis away (samples go on, records wait in the gateways' spools), the database away or
locked (records wait in the stream, the second stays a gap), Ray away or slow (its last figures stand for
5 s, then there are no samples; the ledger goes on), a bad record (set aside in a stream of its own). Each is
logged once when it begins and once when it ends. Its lease lets one collector act; the lease's expiry is its
heartbeat. Must keep nothing of value in memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import DataError, InterfaceError, OperationalError, close_old_connections, transaction
from redis.exceptions import RedisError

from console import costs, history, live
from console.models import Deployment, Replica, Sample
from console.settled_costs import SettledCosts, SpentBook
from serving.metrics import CounterDeltas
from serving.usage import DEAD_STREAM, STREAM, UsageRecord
from workers import lease, retention, samples, totals, usage
from workers.ray_pages import RayPages, Scrape

log = logging.getLogger(__name__)

LEASE = "collector"
LEASE_TTL_S = 4.0
"""Renewed with every second's transaction; a killed collector is followed after this long at the latest."""

GRACE_S = 0.45
"""How long after its end a second is stored; gateways deliver records every 0.25 s."""

PAGE_ENTRIES = 500
DRAIN_FOR_S = 0.4
"""A backlog is worked off in many ticks, so that samples stay on time."""

HELD_BACK_S = 3.0
"""A record that seems to finish in the future is held back this long, then counted where it arrived."""

ROLL_UP_EVERY_S = 10
DEAD_LENGTH = 10_000
DATABASE_AWAY = (OperationalError, InterfaceError)

T = TypeVar("T")


class LeaseLost(RuntimeError):
    """Another collector has taken over; nothing of this tick is written."""


class Condition:
    """Logs when a part goes away and when it comes back, not in between."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.away_since: float | None = None

    def failed(self, error: object, now: float) -> None:
        """The part did not answer."""
        if self.away_since is None:
            self.away_since = now
            log.warning("collector %s=away error=%s", self.part, error)

    def worked(self, now: float) -> None:
        """The part answered."""
        if self.away_since is not None:
            log.info("collector %s=back away_s=%.1f", self.part, now - self.away_since)
            self.away_since = None


@dataclass
class Loaded:
    """What the database says of one second: which deployments and replicas there are, and what they cost."""

    deployments: list[Deployment]
    replicas: list[Replica]
    book: SpentBook


@dataclass
class Tick:
    """The second being stored: its end, its rows once they are, and what was learnt on the way."""

    second: int
    observed: bool
    loaded: Loaded | None = None
    rows: list[Sample] = field(default_factory=list)
    stored: bool = False


class Collector:
    """One process's collector. `redis` is an asyncio client with short timeouts and no retries."""

    def __init__(
        self, *, redis: Any, pages: RayPages, holder: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._redis = redis
        self._pages = pages
        self._holder = holder
        self._clock = clock
        self._board = samples.Board()
        self._deltas = CounterDeltas()
        self._costs = SettledCosts()
        self._token: int | None = None
        self._seen_at = 0.0
        self._scraping: asyncio.Task[Scrape] | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._conditions = {part: Condition(part) for part in ("redis", "database", "ray", "lease")}

    async def run(self, stop: asyncio.Event) -> None:
        """Collect until `stop` is set; then give the lease back."""
        while not stop.is_set():
            turn = int(self._clock()) + 1
            if await _stopped_within(stop, turn - self._clock()):
                break
            try:
                await self.tick(turn)
            except DATABASE_AWAY as error:
                self._conditions["database"].failed(_words(error), self._clock())
            except LeaseLost:
                self._token = None
            except Exception:
                # The loop is the last thing to give up: a fault costs its second, never the next one.
                log.exception("collector tick=failed second=%d", turn - 1)
        await self._give_back()

    async def tick(self, turn: int) -> None:
        """Everything for the second that ends at `turn`. Raises LeaseLost and the database's errors."""
        if not await self._has_lease():
            return
        observed = await self._observe(turn + GRACE_S)
        await asyncio.sleep(max(0.0, turn + GRACE_S - self._clock()))
        tick = Tick(second=turn - 1, observed=observed)
        await self._drain(tick)
        self._conditions["database"].worked(self._clock())
        self._publish(tick)
        if turn % ROLL_UP_EVERY_S == 0:
            await self._in_database(retention.roll_up, self._clock())

    async def _has_lease(self) -> bool:
        """Whether this is the acting collector; every write proves it again."""
        if self._token is not None:
            return True
        now = self._clock()
        self._token = await self._in_database(
            lambda: lease.acquire(LEASE, holder=self._holder, ttl_s=LEASE_TTL_S, now=now)
        )
        if self._token is None:
            self._conditions["lease"].failed("another collector is active", now)
            return False
        self._conditions["lease"].worked(now)
        return True

    async def _observe(self, until: float) -> bool:
        """Scrape, waiting for the pages no longer than `until`; what comes later counts in the next second.
        Whether anything was seen, now or within the time that figures are kept."""
        if self._scraping is None:
            self._scraping = asyncio.create_task(self._pages.scrape(self._clock()))
        await asyncio.wait({self._scraping}, timeout=max(0.0, until - self._clock()))
        now = self._clock()
        self._board.begin(now)
        error = "no answer yet"
        if self._scraping.done():
            error = self._take_in(self._scraping.result(), now)
            self._scraping = None
        if not error:
            self._seen_at = now
            self._conditions["ray"].worked(now)
        elif now - self._seen_at > samples.KEPT_S:
            self._conditions["ray"].failed(error, now)
        return now - self._seen_at <= samples.KEPT_S

    def _take_in(self, found: Scrape, now: float) -> str:
        """Put all pages on the board; what went wrong, or nothing."""
        self._deltas.forget_except(self._pages.targets)
        for target, page in found.pages.items():
            grown = self._deltas.grown(target=target, page=page, now=now)
            self._board.add(page, target=target, grown=grown, now=now)
        return found.error

    async def _drain(self, tick: Tick) -> None:
        """Store the rows and what the stream holds, page by page; the first page brings the rows along."""
        deadline = time.monotonic() + DRAIN_FOR_S
        after = "-"
        while True:
            entries = await self._read(after)
            due = [entry for entry in entries if self._is_due(entry, tick.second)]
            done = await self._store(tick, due)
            if done and not await self._take_out(done):
                return
            if len(entries) < PAGE_ENTRIES or time.monotonic() >= deadline:
                return
            after = f"({entries[-1].entry_id}"

    async def _read(self, after: str) -> list[usage.Entry]:
        try:
            raw = await self._redis.xrange(STREAM, min=after, count=PAGE_ENTRIES)
        except (RedisError, OSError) as error:
            self._conditions["redis"].failed(type(error).__name__, self._clock())
            return []
        self._conditions["redis"].worked(self._clock())
        return usage.read_entries(raw)

    def _is_due(self, entry: usage.Entry, second: int) -> bool:
        """Whether the second in which the request finished has its row now; bad records are due at once."""
        if entry.record is None or int(entry.record.finished_at) <= second:
            return True
        return self._clock() - entry.arrived_at > HELD_BACK_S

    async def _store(self, tick: Tick, entries: list[usage.Entry]) -> list[usage.Entry]:
        """One transaction; the entries that may leave the stream. A batch that the database refuses is
        searched for the records at fault, which become bad records."""
        records = [entry.record for entry in entries if entry.record is not None]
        if not records and tick.stored:
            return entries
        try:
            await self._in_database(self._write, tick, records)
        except (DataError, OverflowError, ValueError):
            at_fault = {record.id for record in await self._in_database(usage.refused, records)}
            if not at_fault:
                raise
            entries = [_without(entry, at_fault) for entry in entries]
            kept = [entry.record for entry in entries if entry.record is not None]
            await self._in_database(self._write, tick, kept)
        return entries

    def _write(self, tick: Tick, records: list[UsageRecord]) -> None:
        with transaction.atomic():
            self._prove_lease()
            loaded = tick.loaded or self._load(tick.second)
            names = {deployment.name: deployment.pk for deployment in loaded.deployments}
            fresh = usage.store(records)
            callers, probes = usage.without_probes(fresh)
            self._board.note_probes(probes, deployments=names, now=self._clock())
            rows = [] if tick.stored or not tick.observed else self._rows(loaded, tick.second)
            found = samples.finished_by_second(callers, deployments=names, newest=tick.second)
            totals.add(callers, found, known=names)
            for row in rows:
                finished = found.pop((row.deployment_id, row.at), None)
                if finished is not None:
                    samples.add_to_row(row, finished)
            samples.add_to_stored_rows(found)
            Sample.objects.bulk_create(rows)
        # Only now: a transaction that failed is tried again from the start.
        tick.loaded, tick.stored = loaded, True
        tick.rows += rows

    def _load(self, second: int) -> Loaded:
        return Loaded(
            deployments=list(Deployment.objects.select_related("current_revision", "status")),
            replicas=list(Replica.objects.filter(ended_at=None)),
            # The second's points say what has been spent up to its end.
            book=self._costs.book(until=second + 1.0),
        )

    def _prove_lease(self) -> None:
        """Renew the lease in the writing transaction: heartbeat, and fence against a second writer."""
        token, now = self._token, self._clock()
        if token is None or not lease.renew(LEASE, token=token, ttl_s=LEASE_TTL_S, now=now):
            raise LeaseLost("the collector's lease was lost")

    def _rows(self, loaded: Loaded, second: int) -> list[Sample]:
        rows = samples.build(
            deployments=loaded.deployments, replicas=loaded.replicas, board=self._board, second=second
        )
        # A collector that ended within this second may have written it already; then its rows are the ones.
        taken = set(
            Sample.objects.filter(
                deployment_id__in=[row.deployment_id for row in rows], resolution_s=1, at=second
            ).values_list("deployment_id", flat=True)
        )
        return [row for row in rows if row.deployment_id not in taken]

    async def _take_out(self, entries: list[usage.Entry]) -> bool:
        """Delete stored entries; bad ones move to the dead-letter stream in the same step."""
        bad = [entry for entry in entries if entry.record is None]
        try:
            async with self._redis.pipeline(transaction=True) as pipeline:
                for entry in bad:
                    fields = {"r": entry.text[:4000], "error": entry.error, "entry": entry.entry_id}
                    pipeline.xadd(DEAD_STREAM, fields, maxlen=DEAD_LENGTH, approximate=True)
                pipeline.xdel(STREAM, *(entry.entry_id for entry in entries))
                await pipeline.execute()
        except (RedisError, OSError) as error:
            # They are read again next time, found known, and deleted then.
            self._conditions["redis"].failed(type(error).__name__, self._clock())
            return False
        if bad:
            log.warning("collector bad_records=%d error=%s stream=%s", len(bad), bad[0].error, DEAD_STREAM)
        return True

    def _publish(self, tick: Tick) -> None:
        """Push the second's points without waiting: a slow Redis must not hold up the next second."""
        if not tick.rows or tick.loaded is None:
            return
        if self._publishing is not None and not self._publishing.done():
            return
        self._publishing = asyncio.create_task(live.apublish_samples(points_of(tick.rows, tick.loaded)))
        self._publishing.add_done_callback(_log_failure)

    async def _in_database(self, work: Callable[..., T], *args: Any) -> T:
        return await sync_to_async(_with_fresh_connection)(work, *args)

    async def _give_back(self) -> None:
        if self._scraping is not None:
            self._scraping.cancel()
        if self._publishing is not None:
            await asyncio.wait([self._publishing], timeout=1.0)
        if self._token is None:
            return
        token = self._token
        try:
            await self._in_database(lambda: lease.release(LEASE, token=token))
        except DATABASE_AWAY as error:
            log.warning("collector lease=kept error=%s", _words(error))


def points_of(rows: list[Sample], loaded: Loaded) -> list[tuple[str, dict[str, Any]]]:
    """(topic, point) of each deployment's row, and of all together on `overview`."""
    names = {deployment.pk: deployment.name for deployment in loaded.deployments}
    end = rows[0].at + 1.0
    spent = loaded.book.units_by_deployment(end=end)
    plain = [history.row_of(row) for row in rows]
    found = [
        (
            f"deployment:{names[row.deployment_id]}",
            history.point(row.at, [row], cost_usd=costs.in_usd(spent.get(row.deployment_id, 0))),
        )
        for row in plain
    ]
    total = costs.in_usd(sum(spent.values()))
    return [*found, ("overview", history.point(rows[0].at, plain, cost_usd=total))]


def _with_fresh_connection(work: Callable[..., T], *args: Any) -> T:
    # A database that was restarted leaves a dead connection behind; this lets it go.
    close_old_connections()
    return work(*args)


def _without(entry: usage.Entry, at_fault: set[str]) -> usage.Entry:
    if entry.record is None or entry.record.id not in at_fault:
        return entry
    return usage.Entry(entry.entry_id, entry.text, None, "refused by the database")


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("collector publish=failed", exc_info=task.exception())


def _words(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(stop.wait(), max(0.0, seconds))
    except TimeoutError:
        return False
    return True
