"""The collector's ticks against a real Redis and real HTTP pages, with a clock that the test turns."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async
from channels.layers import get_channel_layer
from django.db import OperationalError, connections
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from console import history, live
from console.models import ApiKey, Deployment, Lease, Replica, RequestRecord, Sample
from serving.client import RayClient
from serving.usage import DEAD_STREAM, STREAM
from tests.unit.workers.fake_pages import FakePages
from tests.unit.workers.fleet import make_deployment, make_key, make_replica, page_text, text_of
from tests.unit.workers.redis_process import RedisProcess
from workers import collect, lease, retention, samples
from workers.ray_pages import RayPages

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def redis_process() -> Iterator[RedisProcess]:
    process = RedisProcess()
    yield process
    process.close()


@pytest.fixture
def pages() -> Iterator[FakePages]:
    fake = FakePages()
    yield fake
    fake.close()


class Clock:
    """Runs with the real one, from a round second on, and can be turned forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead

    def turn(self) -> int:
        """The end of the present second, reached at once."""
        turn = int(self()) + 1
        self.ahead += turn + collect.GRACE_S - self()
        return turn


class Bench:
    """A collector with everything around it."""

    def __init__(self, redis_process: RedisProcess, pages: FakePages) -> None:
        self.server, self.pages, self.clock = redis_process, pages, Clock()
        self.redis: Any = Redis.from_url(
            redis_process.url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
        )
        self.client = RayClient(pages.url, timeout_s=1.0)
        self.collector = self.another("test")

    def another(self, holder: str) -> collect.Collector:
        return collect.Collector(
            redis=self.redis, pages=RayPages(self.client), holder=holder, clock=self.clock
        )

    async def tick(self, *, pages_come: bool = True) -> int:
        """One second, in which the pages come in time (however busy this machine is) or not; the epoch second
        that was stored."""
        turn = self.clock.turn()
        if pages_come:
            if self.collector._scraping is None:
                self.collector._scraping = asyncio.create_task(
                    self.pages_of(self.collector).scrape(self.clock())
                )
            await self.collector._scraping
        await self.collector.tick(turn)
        return turn - 1

    @staticmethod
    def pages_of(collector: collect.Collector) -> RayPages:
        return collector._pages

    async def add(self, **values: Any) -> None:
        """One record into the stream, of a request that finished in the present second."""
        values = {"started_at": int(self.clock()) + 0.001, "e2e_s": 0.01, **values}
        await self.redis.xadd(STREAM, {"r": text_of(**values)})

    async def waiting(self) -> int:
        return await self.redis.xlen(STREAM)


@pytest.fixture
async def bench(redis_process: RedisProcess, pages: FakePages, db: None) -> AsyncIterator[Bench]:
    if redis_process.process is None or redis_process.process.poll() is not None:
        redis_process.start()
    one = Bench(redis_process, pages)
    await one.redis.flushall()
    yield one
    await one.redis.aclose()
    one.client.close()
    await sync_to_async(connections.close_all)()


def in_database(function: Any) -> Any:
    return database_sync_to_async(function)


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    """Wait for a condition, ten seconds at most."""
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110  (the code under test has no event for it)
            await asyncio.sleep(0.05)


def sample(second: int) -> Sample:
    return Sample.objects.get(resolution_s=1, at=second)


async def test_a_second_becomes_a_row_with_its_engine_figures_and_latencies(bench: Bench):
    deployment = await in_database(make_deployment)()
    key: ApiKey = await in_database(make_key)()
    await in_database(make_replica)(deployment, "a")
    bench.pages.text = page_text("a", requests_running=2, completion_tokens=100)
    await bench.tick()
    bench.pages.text = page_text("a", requests_running=3, completion_tokens=150)
    await bench.add(id="one", key_id=key.pk)
    second = await bench.tick()
    row = await in_database(sample)(second)
    assert (row.requests_running, row.completion_tokens, row.requests_ok) == (3, 50, 1)
    assert sum(row.ttft.values()) == sum(row.e2e.values()) == 1
    stored = await in_database(RequestRecord.objects.get)(pk="one")
    assert (stored.key_id, stored.deployment_id) == (key.pk, deployment.pk)
    assert (await in_database(ApiKey.objects.get)(pk=key.pk)).last_used_at is not None
    assert await bench.waiting() == 0


async def test_a_deployment_without_traffic_has_zero_rates_and_no_latencies(bench: Bench):
    deployment = await in_database(make_deployment)()
    await in_database(make_replica)(deployment, "a")
    bench.pages.text = page_text("a", requests_running=0, requests_waiting=0)
    await bench.tick()
    row = await in_database(sample)(await bench.tick())
    assert (row.requests_running, row.completion_tokens, row.requests_ok) == (0, 0, 0)
    assert (row.ttft, row.tpot, row.e2e) == ({}, {}, {})


async def test_pages_get_the_same_json_as_history(bench: Bench):
    deployment = await in_database(make_deployment)(price="3.6")
    await in_database(make_replica)(deployment, "a", started_at=bench.clock() - 100)
    bench.pages.text = page_text("a", requests_running=1, completion_tokens=10)
    layer = get_channel_layer()
    channel = await layer.new_channel()
    for topic in ("deployment:demo", "overview"):
        await layer.group_add(live.group_of(topic), channel)
    await bench.add()
    second = await bench.tick()
    messages = [(await asyncio.wait_for(layer.receive(channel), 2))["message"] for _ in range(2)]
    answer = await in_database(history.points)(deployment=deployment, window_s=60, now=second + 1.4)
    (point,) = [point for point in answer["points"] if point["t"] == second]
    assert [message["topic"] for message in messages] == ["deployment:demo", "overview"]
    for message in messages:
        assert message["t"] == "sample"
        assert message["data"] == point
    assert point["requests"] == 1
    assert float(point["cost_usd"]) > 0.09


async def test_a_record_that_finishes_in_the_next_second_waits_for_its_row(bench: Bench):
    await in_database(make_deployment)()
    await bench.add(id="later", started_at=bench.clock() + 1.2)
    first = await bench.tick()
    assert await bench.waiting() == 1
    rows = [await in_database(sample)(second) for second in (first, await bench.tick())]
    if await bench.waiting():
        rows.append(await in_database(sample)(await bench.tick()))
    stored = await in_database(RequestRecord.objects.get)(pk="later")
    finished = int(stored.started_at + stored.e2e_s)
    assert [row.at for row in rows if row.requests_ok] == [finished]


async def test_a_record_from_a_clock_far_ahead_does_not_wait_for_ever(bench: Bench):
    await in_database(make_deployment)()
    await bench.add(started_at=bench.clock() + 3600)
    await bench.tick()
    assert await bench.waiting() == 1
    bench.clock.ahead += collect.HELD_BACK_S
    second = await bench.tick()
    assert await bench.waiting() == 0
    assert (await in_database(sample)(second)).requests_ok == 1


async def test_a_late_record_is_added_to_its_own_second(bench: Bench):
    await in_database(make_deployment)()
    first = await bench.tick()
    for _ in range(3):
        await bench.tick()
    await bench.add(started_at=first + 0.2)
    await bench.tick()
    assert (await in_database(sample)(first)).requests_ok == 1
    assert await in_database(Sample.objects.filter(requests_ok__gt=0).count)() == 1


async def test_entries_left_behind_by_a_crash_after_the_commit_are_not_counted_twice(
    bench: Bench, monkeypatch
):
    await in_database(make_deployment)()

    async def crash(entries: Any) -> bool:
        raise RuntimeError("killed between the commit and the deletion")

    await bench.tick()
    await bench.add(id="one")
    with monkeypatch.context() as patched:
        patched.setattr(bench.collector, "_take_out", crash)
        with pytest.raises(RuntimeError, match="killed"):
            await bench.tick()
    assert await bench.waiting() == 1
    bench.collector = bench.another("next")
    bench.clock.ahead += collect.LEASE_TTL_S
    await bench.tick()
    assert await bench.waiting() == 0
    assert await in_database(RequestRecord.objects.count)() == 1
    rows = await in_database(lambda: list(Sample.objects.filter(resolution_s=1)))()
    assert sum(row.requests_ok for row in rows) == 1


async def test_a_bad_record_is_set_aside_with_its_error_and_the_rest_is_stored(bench: Bench, caplog):
    await in_database(make_deployment)()
    await bench.add(id="good-1")
    await bench.redis.xadd(STREAM, {"r": "{broken"})
    await bench.redis.xadd(STREAM, {"other": "field"})
    await bench.add(id="negative", completion_tokens=-1)
    await bench.add(id="good-2")
    await bench.tick()
    await bench.tick()
    assert await bench.waiting() == 0
    assert set(await in_database(lambda: set(RequestRecord.objects.values_list("pk", flat=True)))()) == {
        "good-1",
        "good-2",
    }
    dead = await bench.redis.xrange(DEAD_STREAM)
    assert [fields[b"error"] for _, fields in dead] == [b"not JSON", b"not JSON", b"completion_tokens"]
    assert "bad_records=3" in caplog.text


async def test_a_record_that_the_database_refuses_does_not_hold_up_the_others(bench: Bench, monkeypatch):
    await in_database(make_deployment)()
    plain = RequestRecord.objects.bulk_create

    def picky(rows: Any, **options: Any) -> Any:
        if any(row.id == "poison" for row in rows):
            raise ValueError("a value this database cannot hold")
        return plain(rows, **options)

    monkeypatch.setattr(RequestRecord.objects, "bulk_create", picky)
    for name in ("one", "poison", "two"):
        await bench.add(id=name)
    await bench.tick()
    await bench.tick()
    assert await in_database(RequestRecord.objects.count)() == 2
    assert await bench.redis.xlen(DEAD_STREAM) == 1
    assert await bench.waiting() == 0


async def test_a_backlog_is_worked_off_without_losing_seconds(bench: Bench):
    await in_database(make_deployment)()
    total = 3 * collect.PAGE_ENTRIES
    async with bench.redis.pipeline() as pipeline:
        for number in range(total):
            pipeline.xadd(STREAM, {"r": text_of(id=f"r{number}", started_at=bench.clock() - 100)})
        await pipeline.execute()
    ticks = 0
    while await bench.waiting():
        await bench.tick()
        ticks += 1
        assert ticks < 20
    assert await in_database(RequestRecord.objects.count)() == total
    assert await in_database(Sample.objects.filter(replicas__isnull=False).count)() == ticks
    counted = await in_database(lambda: list(Sample.objects.filter(requests_ok__gt=0)))()
    assert sum(row.requests_ok for row in counted if row.resolution_s == 1) == total


async def test_with_ray_away_there_is_a_gap_and_the_ledger_goes_on(bench: Bench, caplog):
    await in_database(make_deployment)()
    caplog.set_level(logging.INFO)
    seen = [await bench.tick()]
    bench.pages.broken = True
    bench.clock.ahead += samples.KEPT_S
    await bench.tick()
    await bench.add(id="while-away")
    for _ in range(3):
        await bench.tick()
    bench.pages.broken = False
    bench.clock.ahead += 3
    seen.append(await bench.tick())
    observed = Sample.objects.filter(replicas__isnull=False).order_by("at")
    assert await in_database(lambda: list(observed.values_list("at", flat=True)))() == seen
    # The request of the gap is in no gauge, but in no percentile missing either.
    rows = await in_database(lambda: list(Sample.objects.filter(replicas=None)))()
    assert [(row.requests_ok, row.requests_running, sum(row.ttft.values())) for row in rows] == [(1, None, 1)]
    assert await in_database(RequestRecord.objects.count)() == 1
    assert caplog.text.count("ray=away") == 1
    assert caplog.text.count("ray=back") == 1


async def test_one_failed_reading_is_not_a_gap_but_its_tokens_are_not_known(bench: Bench):
    deployment = await in_database(make_deployment)()
    await in_database(make_replica)(deployment, "a")
    bench.pages.text = page_text("a", requests_running=2, completion_tokens=100)
    await bench.tick()
    await bench.tick()
    bench.pages.broken = True
    missed = await bench.tick()
    bench.pages.broken = False
    bench.pages.text = page_text("a", requests_running=2, completion_tokens=160)
    after = await bench.tick()
    rows = [await in_database(sample)(second) for second in (missed, after)]
    assert [row.requests_running for row in rows] == [2, 2]
    assert [row.completion_tokens for row in rows] == [None, 30]


async def test_a_slow_page_delays_no_second_and_is_taken_in_when_it_comes(bench: Bench, monkeypatch):
    deployment = await in_database(make_deployment)()
    await in_database(make_replica)(deployment, "a")
    bench.pages.text = page_text("a", requests_running=1, completion_tokens=100)
    await bench.tick()
    answer = asyncio.Event()
    plain = bench.collector._pages.scrape

    async def slow(now: float) -> Any:
        await answer.wait()
        return await plain(now)

    bench.pages.text = page_text("a", requests_running=7, completion_tokens=180)
    monkeypatch.setattr(bench.collector._pages, "scrape", slow)
    waiting = await bench.tick(pages_come=False)
    answer.set()
    came = await bench.tick()
    rows = [await in_database(sample)(second) for second in (waiting, came)]
    assert [row.requests_running for row in rows] == [1, 7]
    assert [row.completion_tokens for row in rows] == [None, 40]


async def test_with_redis_away_samples_go_on_and_it_is_said_once(bench: Bench, caplog):
    await in_database(make_deployment)()
    caplog.set_level(logging.INFO)
    await bench.tick()
    bench.server.kill()
    seconds = [await bench.tick() for _ in range(3)]
    bench.server.start()
    await bench.add(id="after")
    await bench.tick()
    await bench.tick()
    assert await in_database(Sample.objects.filter(at__in=seconds).count)() == 3
    assert await in_database(RequestRecord.objects.count)() == 1
    assert caplog.text.count("redis=away") == 1
    assert caplog.text.count("redis=back") == 1


async def test_with_the_database_away_records_wait_in_the_stream(bench: Bench, monkeypatch, caplog):
    await in_database(make_deployment)()
    caplog.set_level(logging.INFO)
    stop = asyncio.Event()
    calls = 0

    async def nothing_waits() -> bool:
        return not await bench.waiting()

    def locked(rows: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        raise OperationalError("database is locked")

    await bench.add(id="kept", started_at=bench.clock() - 5)
    with monkeypatch.context() as patched:
        patched.setattr(RequestRecord.objects, "bulk_create", locked)
        running = asyncio.create_task(bench.collector.run(stop))
        await until(lambda: asyncio.sleep(0, calls >= 2))
        assert await bench.waiting() == 1
    await until(nothing_waits)
    stop.set()
    await asyncio.wait_for(running, 10)
    assert await in_database(RequestRecord.objects.count)() == 1
    assert caplog.text.count("database=away") == 1
    assert caplog.text.count("database=back") == 1


async def test_only_the_holder_of_the_lease_writes(bench: Bench):
    await in_database(make_deployment)()
    await bench.tick()
    rows = await in_database(Sample.objects.count)()
    turn = bench.clock.turn()
    await bench.another("second").tick(turn)
    assert await in_database(Sample.objects.count)() == rows


async def test_a_collector_that_lost_its_lease_in_mid_tick_writes_nothing(bench: Bench):
    await in_database(make_deployment)()
    await bench.tick()
    rows = await in_database(Sample.objects.count)()
    await in_database(Lease.objects.filter(name=collect.LEASE).update)(token=99, holder="other")
    await bench.add(id="for-the-other")
    with pytest.raises(collect.LeaseLost):
        await bench.tick()
    assert await in_database(Sample.objects.count)() == rows
    assert await in_database(RequestRecord.objects.count)() == 0


async def test_the_lease_is_given_back_at_the_end_so_that_the_next_one_starts_at_once(bench: Bench):
    stop = asyncio.Event()
    running = asyncio.create_task(bench.collector.run(stop))
    await until(in_database(Lease.objects.filter(expires_at__gt=0).exists))
    stop.set()
    await asyncio.wait_for(running, 5)
    token = await in_database(lambda: lease.acquire(collect.LEASE, holder="next", ttl_s=5, now=time.time()))()
    assert token is not None


async def test_an_unexpected_fault_costs_its_second_and_not_the_loop(bench: Bench, monkeypatch, caplog):
    await in_database(make_deployment)()
    faults = 0

    def fault(*args: Any, **kwargs: Any) -> Any:
        nonlocal faults
        faults += 1
        raise KeyError("surprise")

    stop = asyncio.Event()
    running = asyncio.create_task(bench.collector.run(stop))
    with monkeypatch.context() as patched:
        patched.setattr(collect.samples, "build", fault)
        await until(lambda: asyncio.sleep(0, faults > 0))
    await until(in_database(Sample.objects.exists))
    stop.set()
    await asyncio.wait_for(running, 5)
    assert "tick=failed" in caplog.text


async def test_seconds_are_rolled_up_as_they_settle(bench: Bench):
    await in_database(make_deployment)()
    bench.clock.ahead += 10 - (bench.clock() % 10) + 0.1
    first = await bench.tick()
    for _ in range(9):
        await bench.tick()
    bench.clock.ahead += retention.SETTLE_S
    for _ in range(10):
        await bench.tick()
    rows = await in_database(lambda: list(Sample.objects.filter(resolution_s=10)))()
    assert first // 10 * 10 in {row.at for row in rows}


async def test_a_deployment_made_meanwhile_is_in_the_next_second(bench: Bench):
    await in_database(make_deployment)("one")
    await bench.tick()
    await in_database(make_deployment)("two")
    second = await bench.tick()
    assert await in_database(Sample.objects.filter(at=second).count)() == 2
    await in_database(Replica.objects.all().delete)()
    await in_database(Deployment.objects.filter(name="one").update)(desired_state="stopped")
    assert await in_database(Sample.objects.filter(at=await bench.tick()).count)() == 1
