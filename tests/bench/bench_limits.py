"""What a limited request pays for its limits: the gateway's CPU, and the wait for Redis.

`python -m tests.bench.bench_limits`. Each request is admitted under a key's three limits and a deployment's
two, and finished with its tokens; nothing else is done. CPU is that of the gateway's process. Redis as the
product runs it (append-only file, written out at every step), and one that keeps nothing on disk.
"""

from __future__ import annotations

import asyncio
import time

import redis

from serving.cluster.limit_values import Limits
from serving.cluster.limits import Limiter
from tests.unit.workers.redis_process import RedisProcess

REQUESTS = 10_000
IN_FLIGHT = (1, 16, 64)
LIMITS = (
    Limits("k:1", "this API key", requests_per_minute=10**6, tokens_per_minute=10**9, requests_in_flight=500),
    Limits("d:demo", "the model", requests_per_minute=10**6, requests_in_flight=500),
)


async def measure(url: str, in_flight: int) -> dict[str, float]:
    """Microseconds of CPU per request, milliseconds of waiting."""
    limiter = Limiter(redis_url=url)
    limiter.start()
    await limiter.admit("first", LIMITS)
    waits: list[float] = []

    async def caller(number: int) -> None:
        for turn in range(REQUESTS // in_flight):
            name = f"{number:016x}{turn:016x}"
            began = time.perf_counter()
            assert await limiter.admit(name, LIMITS) is None
            waits.append(time.perf_counter() - began)
            limiter.finish(name, LIMITS, tokens=100)

    cpu = time.process_time()
    await asyncio.gather(*(caller(number) for number in range(in_flight)))
    cpu = time.process_time() - cpu
    await limiter.close()
    waits.sort()
    return {
        "cpu_us": 1e6 * cpu / len(waits),
        "p50_ms": 1e3 * waits[len(waits) // 2],
        "p99_ms": 1e3 * waits[len(waits) * 99 // 100],
    }


def main() -> None:
    """Print the table."""
    server = RedisProcess()
    try:
        print("redis     in flight   gateway CPU/request   wait p50    wait p99   redis CPU/request")
        for durable in (True, False):
            client: redis.Redis = server.client()
            client.config_set("appendonly", "yes" if durable else "no")
            for in_flight in IN_FLIGHT:
                client.flushall()
                before = _redis_cpu_s(client)
                found = asyncio.run(measure(server.url, in_flight))
                spent = 1e6 * (_redis_cpu_s(client) - before) / REQUESTS
                word = "on disk" if durable else "memory"
                print(
                    f"{word:9} {in_flight:9}   {found['cpu_us']:16.0f} us {found['p50_ms']:7.2f} ms"
                    f" {found['p99_ms']:8.2f} ms {spent:14.0f} us"
                )
    finally:
        server.close()


def _redis_cpu_s(client: redis.Redis) -> float:
    info = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


if __name__ == "__main__":
    main()
