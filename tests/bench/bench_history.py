"""Thirty days of 50 deployments in SQLite: `python -m tests.bench.bench_history [--days 30]`.

Fills a real file with every row that the retention of serving/resolutions.py leaves after that time, in the
order of time in which the collector writes them: nothing is extrapolated. The buckets of a row are drawn from
a pool of simulated intervals (arrivals at 0.05 to 10 requests a second that follow the time of day,
log-normal latencies). Prints the file's size, bytes per row, and how long charts and percentiles take.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RATES = (0.05, 0.2, 0.5, 1.0, 3.0, 10.0)
"""Requests per second of the busiest hour; deployments take turns."""
POOL_ROWS = 60
OBSERVED_MAX = 3_000
"""Of a row with more requests than this so many are drawn and counted several times over."""
CHUNK_S = 3600
REPEATS = 7
Row = tuple[Any, ...]


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--deployments", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rdb-", dir="/tmp") as folder:
        os.environ.update(
            RAYDECK_DATA_DIR=folder, RAYDECK_TESTING="1", DJANGO_SETTINGS_MODULE="console.settings"
        )
        os.environ.pop("DATABASE_URL", None)
        prepare(options.deployments)
        now = int(time.time())
        started = time.monotonic()
        rows = fill(Path(folder) / "raydeck.sqlite3", now=now, days=options.days)
        took_s = time.monotonic() - started
        print(f"{options.deployments} deployments, {options.days} days, filled in {took_s:.0f} s")
        report_size(Path(folder) / "raydeck.sqlite3", rows)
        report_times(now)


def prepare(deployments: int) -> None:
    """Tables and deployments."""
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    from tests.unit.workers.fleet import make_deployment

    for number in range(deployments):
        make_deployment(f"d{number}")


def fill(path: Path, *, now: int, days: int) -> dict[int, int]:
    """Write all rows; how many of each resolution. The marks say that all is rolled up."""
    from console.models import Deployment, SampleMark
    from serving.resolutions import RETENTION_S

    ids = list(Deployment.objects.order_by("pk").values_list("pk", flat=True))
    begin = (now - days * 86_400) // 86_400 * 86_400
    pools = {size: make_pool(size) for size in RETENTION_S}
    written = dict.fromkeys(RETENTION_S, 0)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    for chunk in range(begin, now, CHUNK_S):
        connection.execute("BEGIN")
        for size, kept_s in RETENTION_S.items():
            first = max(chunk, now - min(kept_s, days * 86_400))
            starts = range(-(-first // size) * size, min(chunk + CHUNK_S, now - size), size)
            rows = list(rows_of(size, starts, ids, pools[size]))
            connection.executemany(INSERT, rows)
            written[size] += len(rows)
        connection.execute("COMMIT")
    connection.close()
    SampleMark.objects.bulk_create(
        SampleMark(resolution_s=size, complete_to=now // size * size) for size in RETENTION_S if size > 1
    )
    return written


COLUMNS = (
    "deployment_id, resolution_s, at, requests_running, requests_waiting, kv_cache_usage, prompt_tokens, "
    "completion_tokens, requests_ok, requests_failed, replicas, weights_bytes, kv_cache_bytes, rest_bytes, "
    "cost_per_hour_usd, ttft, tpot, e2e, queue"
)
INSERT = f"INSERT INTO console_sample ({COLUMNS}) VALUES ({', '.join('?' * 19)})"  # noqa: S608  (constants)


def rows_of(size: int, starts: range, ids: list[int], pool: dict[float, list[Row]]) -> Iterator[Row]:
    """Rows of one resolution, deployment by deployment within each interval."""
    for at in starts:
        daily = 0.55 + 0.45 * math.sin(at / 86_400 * 2 * math.pi)
        for pk in ids:
            rate = RATES[pk % len(RATES)] * daily
            level = min(RATES, key=lambda one: abs(one - rate))
            requests, buckets = random.choice(pool[level])
            load = (level * 4.1 * random.random(), 0.0, 0.3 * random.random())
            tokens = (requests * 410, requests * 187, requests, int(requests * 0.003))
            sizes = (2.0, 16_060_522_496 * 2, 41_234_567_168, None, 4.36)
            yield (pk, size, at, *load, *tokens, *sizes, *buckets)


def make_pool(size: int) -> dict[float, list[Row]]:
    """Rate -> simulated intervals of this length: requests and the encoded buckets of four latencies."""
    rows = 6 if size >= 3600 else POOL_ROWS
    return {rate: [simulate(rate * size, rate) for _ in range(rows)] for rate in RATES}


def simulate(expected: float, rate: float) -> Row:
    """One interval: log-normal TTFT (median 0.25 s) and TPOT (22 ms), 20 to 800 output tokens, a queue that
    most requests never see."""
    from serving import histogram

    requests = max(0, round(random.gauss(expected, math.sqrt(expected))))
    times = -(-requests // OBSERVED_MAX)
    found: list[histogram.Counts] = [{}, {}, {}, {}]
    for _ in range(requests // times if times else 0):
        queue_s = random.expovariate(4 / rate) if random.random() < 0.2 else random.expovariate(3000)
        ttft_s = queue_s + random.lognormvariate(math.log(0.25), 0.45)
        tpot_s = random.lognormvariate(math.log(0.022), 0.25)
        e2e_s = ttft_s + tpot_s * min(800, max(20, random.lognormvariate(math.log(180), 0.8)))
        for counts, value in zip(found, (ttft_s, tpot_s, e2e_s, queue_s), strict=True):
            histogram.observe(counts, value)
    several = ({index: count * times for index, count in counts.items()} for counts in found)
    return requests, [histogram.encode(counts) for counts in several]


def report_size(path: Path, rows: dict[int, int]) -> None:
    """Size of the file, and of the samples alone as SQLite counts their pages."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    total = sum(rows.values())
    for size, count in rows.items():
        found = connection.execute(
            "SELECT avg(length(ttft) + length(tpot) + length(e2e) + length(queue)) FROM (SELECT * FROM "
            "console_sample WHERE resolution_s = ? LIMIT 20000)",
            (size,),
        ).fetchone()[0]
        print(f"rows of {size:>6} s            {count:>9,}, {found or 0:.0f} bytes of buckets each")
    connection.close()
    size_bytes = path.stat().st_size
    print(f"rows in all                {total:>9,}, {size_bytes / total:.0f} bytes each with index")
    print(f"file                       {size_bytes / 1e9:.2f} GB ({size_bytes / (1 << 30):.2f} GiB)")


def report_times(now: int) -> None:
    """How long the questions of the pages take, on a connection of their own."""
    from django.db import connection

    from console import history, percentiles
    from console.models import Deployment

    one = Deployment.objects.get(name="d4")

    def chart(deployment: Deployment | None, window_s: int) -> Callable[[], Any]:
        return lambda: history.points(deployment=deployment, window_s=window_s, now=now)

    def summary(window_s: int) -> Callable[[], Any]:
        return lambda: percentiles.summary(one, start=now - window_s, end=now, now=now)

    questions = {
        "chart, one deployment, 24 h": chart(one, 86_400),
        "chart, one deployment, 7 d": chart(one, 7 * 86_400),
        "chart, one deployment, 30 d": chart(one, 30 * 86_400),
        "chart, all deployments, 24 h": chart(None, 86_400),
        "percentiles, 1 h": summary(3600),
        "percentiles, 30 d": summary(30 * 86_400),
    }
    print(f"load average {os.getloadavg()[0]:.1f}")
    for words, ask in questions.items():
        connection.close()
        took = [measured(ask) for _ in range(REPEATS)]
        wall = [wall_s * 1000 for wall_s, _ in took]
        cpu = statistics.median(cpu_s for _, cpu_s in took) * 1000
        print(
            f"{words:<29} first {wall[0]:.0f} ms · median {statistics.median(wall):.0f} ms · "
            f"processor {cpu:.0f} ms"
        )


def measured(ask: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the clock and of processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    ask()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
