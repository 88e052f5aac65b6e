"""Limits of keys and deployments against a real Redis: shared by replicas, atomic, right across breaks."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import redis

from serving import limit_store as store
from serving.cluster import limits as module
from serving.cluster.limit_values import (
    BUDGET_DAY,
    BUDGET_MONTH,
    Limits,
    read_limits,
)
from serving.cluster.limits import Limiter, Spent
from tests.services import redis_server

KEY = Limits("k:1", "this API key", requests_per_minute=3)
SEEN_WITHIN_S = 10.0


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        yield client


@asynccontextmanager
async def limiter(url: str | None) -> AsyncIterator[Limiter]:
    made = Limiter(redis_url=url)
    made.start()
    try:
        yield made
    finally:
        await made.close()


async def admitted(one: Limiter, *names: str, limits: tuple[Limits, ...] = (KEY,)) -> list[bool]:
    return [await one.admit(name, limits) is None for name in names]


async def until(true: object, what: str = "") -> None:
    deadline = time.monotonic() + SEEN_WITHIN_S
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, what or "not in time"
        await asyncio.sleep(0.01)


async def test_requests_per_minute_are_exact_and_shared_by_replicas(
    redis_url: str, server: redis.Redis
) -> None:
    async with limiter(redis_url) as one, limiter(redis_url) as two:
        assert await admitted(one, "a", "b") == [True, True]
        assert await admitted(two, "c", "d") == [True, False]
        refusal = await one.admit("e", (KEY,))
        assert refusal is not None and (refusal.code, refusal.type) == ("rate_limit_exceeded", "requests")
        assert 55 < refusal.retry_after_s <= 60
        assert "3 requests per minute" in refusal.message


async def test_the_window_slides(redis_url: str, server: redis.Redis) -> None:
    async with limiter(redis_url) as one:
        await admitted(one, "a", "b", "c")
        key = store.keys_of("k:1")[0]
        server.zadd(key, {"a": (time.time() - 59.5) * 1e6, "b": (time.time() - 58) * 1e6})
        refusal = await one.admit("d", (KEY,))
        assert refusal is not None and refusal.retry_after_s == 1
        server.zadd(key, {"a": (time.time() - 60.01) * 1e6})
        assert await admitted(one, "d", "e") == [True, False]


async def test_a_limit_that_was_lowered_and_raised_again_has_forgotten_nothing(
    redis_url: str, server: redis.Redis
) -> None:
    many, few = (Limits("k:1", "x", requests_per_minute=5),), (Limits("k:1", "x", requests_per_minute=2),)
    async with limiter(redis_url) as one:
        assert await admitted(one, "a", "b", "c", "d", limits=many) == [True] * 4
        assert await admitted(one, "e", limits=few) == [False]
        assert await admitted(one, "f", "g", limits=many) == [True, False]


async def test_a_refusal_by_one_limit_consumes_none_of_the_other(redis_url: str, server: redis.Redis) -> None:
    deployment = Limits("d:demo", "the model `demo`", requests_per_minute=2)
    async with limiter(redis_url) as one:
        both = (Limits("k:1", "x", requests_per_minute=10, requests_in_flight=9), deployment)
        assert await admitted(one, "a", "b", "c", "d", limits=both) == [True, True, False, False]
        assert server.zcard(store.keys_of("k:1")[0]) == 2
        assert server.zcard(store.keys_of("k:1")[3]) == 2
        refusal = await one.admit("e", both)
        assert refusal is not None and "the model `demo`" in refusal.message


async def test_tokens_count_when_a_request_has_ended(redis_url: str, server: redis.Redis) -> None:
    limits = (Limits("k:1", "x", tokens_per_minute=100),)
    async with limiter(redis_url) as one, limiter(redis_url) as two:
        assert await admitted(one, "a", "b", limits=limits) == [True, True]
        one.finish("a", limits, tokens=60)
        assert await admitted(one, "c", limits=limits) == [True]
        one.finish("b", limits, tokens=60)
        await until(lambda: server.get(store.keys_of("k:1")[2]) == b"120")
        refusal = await two.admit("d", limits)
        assert refusal is not None and refusal.type == "tokens" and 50 < refusal.retry_after_s <= 60
        server.zadd(store.keys_of("k:1")[1], {"a:60": (time.time() - 61) * 1e6})
        assert await admitted(two, "d", limits=limits) == [True]
        assert server.get(store.keys_of("k:1")[2]) == b"60"


async def test_in_flight_is_given_back_at_the_end_and_lapses_with_its_replica(
    redis_url: str, server: redis.Redis
) -> None:
    limits = (Limits("k:1", "x", requests_in_flight=2),)
    async with limiter(redis_url) as one:
        assert await admitted(one, "a", "b", "c", limits=limits) == [True, True, False]
        one.finish("a", limits, tokens=5)
        assert await admitted(one, "c", limits=limits) == [True]
        # A replica that was killed says nothing any more.
        server.zadd(store.keys_of("k:1")[3], {"b": (time.time() - 0.1) * 1e6})
        assert await admitted(one, "d", "e", limits=limits) == [True, False]


async def test_leases_are_renewed_while_a_request_runs(
    redis_url: str, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_EVERY_S", 0.0)
    monkeypatch.setattr("serving.cluster.limit_link.BEAT_EVERY_S", 0.05)
    limits = (Limits("k:1", "x", requests_in_flight=2),)
    async with limiter(redis_url) as one:
        await admitted(one, "a", limits=limits)
        flight = store.keys_of("k:1")[3]
        server.zadd(flight, {"a": (time.time() + 1) * 1e6})
        await until(lambda: float(server.zscore(flight, "a") or 0) > (time.time() + 10) * 1e6)


async def test_a_replica_that_starts_anew_finds_what_was_counted(redis_url: str, server: redis.Redis) -> None:
    async with limiter(redis_url) as one:
        await admitted(one, "a", "b", "c")
    async with limiter(redis_url) as again:
        assert await admitted(again, "d") == [False]


async def test_without_redis_each_replica_keeps_the_limit() -> None:
    async with limiter(None) as one, limiter(None) as two:
        assert await admitted(one, "a", "b", "c", "d") == [True, True, True, False]
        assert await admitted(two, "a") == [True]
        assert one.state()["hold"] == "per replica" and one.state()["redis"] == "off"


async def test_memory_holds_tokens_and_in_flight_too() -> None:
    limits = (Limits("k:1", "x", tokens_per_minute=10, requests_in_flight=1),)
    async with limiter(None) as one:
        assert await admitted(one, "a", "b", limits=limits) == [True, False]
        one.finish("a", limits, tokens=4)
        assert await admitted(one, "b", limits=limits) == [True]
        one.finish("b", limits, tokens=6)
        refusal = await one.admit("c", limits)
        assert refusal is not None and refusal.type == "tokens" and 58 < refusal.wait_s <= 60


async def test_a_redis_that_lost_its_data_is_told_again(redis_url: str, server: redis.Redis) -> None:
    limits = (Limits("k:1", "x", requests_per_minute=3, tokens_per_minute=100, requests_in_flight=3),)
    async with limiter(redis_url) as one:
        await admitted(one, "a", "b", limits=limits)
        one.finish("a", limits, tokens=40)
        server.flushall()
        assert await admitted(one, "c", "d", limits=limits) == [True, False]
        requests, _, tokens, flight = store.keys_of("k:1")
        assert sorted(server.zrange(requests, 0, -1)) == [b"a", b"b", b"c"]
        assert server.get(tokens) == b"40"
        assert sorted(server.zrange(flight, 0, -1)) == [b"b", b"c"]


async def test_what_was_admitted_while_redis_was_away_counts_when_it_is_back() -> None:
    with redis_server() as url:
        async with limiter(url) as one:
            assert await admitted(one, "a") == [True]
            with redis.Redis.from_url(url) as client:
                client.execute_command("CLIENT", "PAUSE", "1500", "WRITE")
                started = time.monotonic()
                assert await admitted(one, "b", "c", "d") == [True, True, False]
                # One request waits for the answer that does not come, the others do not.
                assert time.monotonic() - started < 1.4
                await until(lambda: one.state()["redis"] == "ok")
                requests = store.keys_of("k:1")[0]
                await until(lambda: sorted(client.zrange(requests, 0, -1)) == [b"a", b"b", b"c"])
                assert await admitted(one, "e") == [False]


@pytest.mark.parametrize(
    ("fields", "what", "wait_s"),
    [
        ({"k:1:day": "0.999999", "k:1:month": "19.9"}, None, 0),
        ({"k:1:day": "1.000000"}, BUDGET_DAY, 3600),
        ({"k:1:month": "20"}, BUDGET_MONTH, 3600),
        ({"k:1:day": "5", "day": "2026-12-30"}, None, 0),
        ({"k:2:day": "5"}, None, 0),
        ({"k:1:day": "nonsense"}, None, 0),
    ],
)
def test_budgets_are_compared_with_what_the_console_wrote(
    fields: dict[str, str], what: int | None, wait_s: float
) -> None:
    limits = Limits("k:1", "x", budget_usd_per_day=Decimal(1), budget_usd_per_month=Decimal(20))
    spent = Spent()
    given = {"day": "2026-12-31", "month": "2026-12", **fields}
    spent.take([part.encode() for pair in given.items() for part in pair])
    refusal = spent.refusal(limits, datetime(2026, 12, 31, 23, 0, tzinfo=UTC))
    assert (refusal.what if refusal else None) == what
    if refusal is not None:
        assert (refusal.code, refusal.type) == ("insufficient_quota", "insufficient_quota")
        assert refusal.wait_s == wait_s and "UTC" in refusal.message


async def test_a_budget_is_known_to_a_replica_that_has_just_started(
    redis_url: str, server: redis.Redis
) -> None:
    today = datetime.now(UTC)
    server.hset(
        store.SPENT,
        mapping={"day": today.strftime("%Y-%m-%d"), "month": today.strftime("%Y-%m"), "k:1:day": "2"},
    )
    limits = (Limits("k:1", "x", budget_usd_per_day=Decimal(1)),)
    async with limiter(redis_url) as one:
        refusal = await one.admit("a", limits)
        assert refusal is not None and refusal.what == BUDGET_DAY


@pytest.mark.parametrize(
    "given",
    [
        {"requests_per_minute": 0},
        {"requests_per_minute": True},
        {"tokens_per_minute": "many"},
        {"budget_usd_per_day": "NaN"},
        {"budget_usd_per_day": -1},
        [1],
    ],
)
def test_limits_that_cannot_be_read_are_not_taken_for_none(given: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        read_limits(given, scope="k:1", subject="x")


@pytest.mark.parametrize("given", [None, {}, {"requests_per_minute": None}])
def test_nothing_limited_is_none(given: object) -> None:
    assert read_limits(given, scope="k:1", subject="x") is None
