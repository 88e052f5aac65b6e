"""Limits over random histories: several replicas, a real Redis, replicas that die, cut connections, outages.

The claims, checked against an exact model of what was admitted:
- with Redis there, never more than the limit in any 60 s, and never a refusal below it;
- a replica that is killed loses nobody's count; one that starts anew continues the count;
- while Redis cannot be asked: beyond the limit at most one burst of each replica that could not ask.
Time is Redis's own: the clock of the script is set through its text, so that an hour passes in seconds.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving import limit_store as store
from serving.cluster.limit_values import IN_FLIGHT, REQUESTS, TOKENS, Limits
from serving.cluster.limits import Limiter
from tests.services import redis_server

WINDOW_US = 60_000_000
CLOCK = "raydeck:{limits}:test-clock"
"""Where a test keeps the time that the scripts read."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with redis_server() as address:
        yield address


class Scripts:
    """The two scripts on a clock that the test moves."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)
        self.now_us = 1_800_000_000_000_000
        self.born = b"b"

    def begin(self) -> None:
        """Nothing counted yet."""
        self.client.flushall()
        self.client.set(store.BORN, self.born)
        self.pass_s(0.0)

    def pass_s(self, seconds: float) -> None:
        """Time goes on."""
        self.now_us += int(seconds * 1e6)
        self.client.set(CLOCK, self.now_us)

    def _run(self, text: str, keys: list[str], args: list[str | bytes | int]) -> object:
        own = "local t = redis.call('TIME')\nlocal now = t[1] * 1000000 + t[2]"
        assert own in text
        moved = text.replace(own, f"local now = tonumber(redis.call('GET', '{CLOCK}'))")
        # Expiry follows the server's real clock; within a test nothing lives long enough for it.
        return self.client.eval(moved, len(keys), *keys, *args)

    def admit(self, request_id: str, *limits: Limits) -> object:
        """What ADMIT answers."""
        keys = [store.BORN, *(key for one in limits for key in store.keys_of(one.scope))]
        args: list[str | bytes | int] = [self.born]
        for one in limits:
            args += [one.requests_per_minute, one.tokens_per_minute, one.requests_in_flight]
        return self._run(store.ADMIT, keys, [*args, store.LEASE_S * 1_000_000, request_id])

    def note(self, scope: str, *notes: tuple[str, str, int, int]) -> None:
        """NOTE of one scope: what, request id, value, age in microseconds."""
        args: list[str | bytes | int] = [store.LEASE_S * 1_000_000]
        for what, request_id, value, age_us in notes:
            args += [what, 0, request_id, value, age_us]
        self._run(store.NOTE, list(store.keys_of(scope)), args)


@pytest.fixture(scope="module")
def scripts(url: str) -> Scripts:
    return Scripts(url)


class Model:
    """One scope as it should be, kept as plainly as possible."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.admitted: list[int] = []
        self.tokens: list[tuple[int, int]] = []
        self.flight: dict[str, int] = {}

    def refuses(self, now: int) -> int | None:
        """Which limit refuses now."""
        limits = self.limits
        requests = sum(at > now - WINDOW_US for at in self.admitted)
        tokens = sum(n for at, n in self.tokens if at > now - WINDOW_US)
        flying = sum(until > now for until in self.flight.values())
        if limits.requests_per_minute and requests >= limits.requests_per_minute:
            return REQUESTS
        if limits.tokens_per_minute and tokens >= limits.tokens_per_minute:
            return TOKENS
        if limits.requests_in_flight and flying >= limits.requests_in_flight:
            return IN_FLIGHT
        return None


STEP = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(("key", "deployment", "both"))),
    st.tuples(st.just("end"), st.integers(0, 120)),
    st.tuples(st.just("again"), st.integers(0, 120)),
    st.tuples(st.just("wait"), st.sampled_from((0.0, 0.2, 1.0, 7.0, 16.0, 59.9, 60.0))),
)
LIMIT = st.builds(
    Limits,
    st.just("k:1"),
    st.just("x"),
    requests_per_minute=st.sampled_from((0, 1, 3, 6)),
    tokens_per_minute=st.sampled_from((0, 50, 200)),
    requests_in_flight=st.sampled_from((0, 1, 3)),
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=LIMIT, other=LIMIT, steps=st.lists(STEP, max_size=50))
def test_the_scripts_answer_as_an_exact_count_would(
    scripts: Scripts, key: Limits, other: Limits, steps: list[tuple[str, object]]
) -> None:
    deployment = Limits("d:x", "y", *(getattr(other, name) for name in COUNTS))
    scripts.begin()
    models = {"key": [Model(key)], "deployment": [Model(deployment)]}
    models["both"] = models["key"] + models["deployment"]
    running: dict[str, tuple[list[Model], bool]] = {}
    for number, (what, value) in enumerate(steps):
        if what == "wait":
            scripts.pass_s(float(value))  # type: ignore[arg-type]
        elif what == "ask":
            asked, name = models[str(value)], f"r{number}"
            expected = next((why for model in asked if (why := model.refuses(scripts.now_us))), None)
            answer = scripts.admit(name, *(model.limits for model in asked))
            assert (answer if answer == 1 else answer[0]) == (expected or 1)  # type: ignore[index]
            if answer == 1:
                running[name] = (asked, False)
                for model in asked:
                    model.admitted.append(scripts.now_us)
                    model.flight[name] = scripts.now_us + store.LEASE_S * 1_000_000
            else:
                place, wait_us = answer[1], answer[2]  # type: ignore[index]
                assert 0 <= place < len(asked) and 0 < wait_us <= WINDOW_US
        elif running:
            _end(scripts, running, int(str(value)), told_twice=what == "again")


COUNTS = ("requests_per_minute", "tokens_per_minute", "requests_in_flight")


def _end(
    scripts: Scripts, running: dict[str, tuple[list[Model], bool]], tokens: int, *, told_twice: bool
) -> None:
    """The oldest request ends; after a break its replica may tell so twice."""
    name = next(iter(running))
    for model in running.pop(name)[0]:
        notes = [("x", name, 0, 0), *([("t", name, tokens, 0)] if tokens else [])]
        for _ in range(2 if told_twice else 1):
            scripts.note(model.limits.scope, *notes)
        model.flight.pop(name, None)
        model.tokens += [(scripts.now_us, tokens)] if tokens else []


@pytest.mark.parametrize("seed", range(4))
async def test_replicas_that_are_killed_started_and_cut_off_keep_to_the_limit(url: str, seed: int) -> None:
    """Real replicas against a real Redis, all within one window: some are killed, all lose the connection."""
    chance = random.Random(seed)
    limits = (Limits("k:9", "x", requests_per_minute=40),)
    with redis.Redis.from_url(url) as client:
        client.flushall()
        replicas = [started(url), started(url)]
        admitted, refused_below, lives, cuts = 0, 0, 2, 0
        began = time.monotonic()
        for number in range(160):
            event = chance.random()
            if event < 0.03:  # killed: nothing is told, nothing is closed
                replicas.append(killed(replicas.pop(0), url))
                lives += 1
            elif event < 0.06:
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                cuts += 1
            batch = [chance.choice(replicas) for _ in range(chance.randint(1, 4))]
            asked = (one.admit(f"{seed}-{number}-{i}", limits) for i, one in enumerate(batch))
            refused = sum(answer is not None for answer in await asyncio.gather(*asked))
            admitted += len(batch) - refused
            refused_below += refused if admitted < 40 else 0
        assert time.monotonic() - began < 55, "the window must hold the whole history"
        # Who cannot ask decides by its own memory: beyond the limit at most one burst of each such replica.
        assert 40 <= admitted <= 40 + (40 * lives if cuts else 0)
        assert refused_below == 0
        for one in replicas:
            await one.close()


def started(url: str) -> Limiter:
    made = Limiter(redis_url=url)
    made.start()
    return made


def killed(one: Limiter, url: str) -> Limiter:
    """As a crash does, and the replica that Serve starts instead."""
    assert one._link._task is not None
    one._link._task.cancel()
    return started(url)


async def test_a_replica_that_knows_a_scope_is_full_does_not_open_it_when_redis_goes(url: str) -> None:
    limits = (Limits("k:7", "x", requests_per_minute=5),)
    with redis.Redis.from_url(url) as client:
        client.flushall()
        one, two = started(url), started(url)
        assert [await one.admit(str(n), limits) is None for n in range(5)] == [True] * 5
        assert await two.admit("a", limits) is not None
        client.execute_command("CLIENT", "PAUSE", "900", "ALL")
        refusal = await two.admit("b", limits)
        assert refusal is not None and 50 < refusal.wait_s <= 60
        await asyncio.gather(one.close(), two.close())


@pytest.mark.parametrize("replicas", [1, 3])
async def test_an_outage_lets_pass_one_burst_per_replica_and_is_counted_afterwards(
    url: str, replicas: int
) -> None:
    limits = (Limits("k:8", "x", requests_per_minute=10),)
    with redis.Redis.from_url(url) as client:
        client.flushall()
        cut = [started(url) for _ in range(replicas)]
        names = range(replicas)
        assert await asyncio.gather(*(cut[n].admit(f"first-{n}", limits) for n in names)) == [None] * replicas
        client.execute_command("CLIENT", "PAUSE", "1500", "ALL")
        admitted = replicas
        for number in range(15):
            answers = await asyncio.gather(*(cut[n].admit(f"{n}-{number}", limits) for n in names))
            admitted += sum(answer is None for answer in answers)
        # What a replica had admitted before is part of its own burst.
        assert admitted == 10 * replicas
        deadline = time.monotonic() + 10
        while any(one.state()["redis"] != "ok" for one in cut):  # noqa: ASYNC110
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert client.zcard(store.keys_of("k:8")[0]) == admitted
        assert await cut[0].admit("after", limits) is not None
        await asyncio.gather(*(one.close() for one in cut))
