"""kill -9 of the collector and of Redis in the middle of a stream: the ledger equals what was written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import connection

from console.models import RequestRecord, Sample
from serving.usage import STREAM
from tests.unit.workers.fake_pages import FakePages
from tests.unit.workers.fleet import make_deployment, make_key, make_replica, page_text, text_of
from tests.unit.workers.redis_process import RedisProcess

pytestmark = pytest.mark.django_db(transaction=True)
RECORDS = 2000
BATCH = 25
PROJECT = Path(settings.BASE_DIR)


@pytest.fixture
def redis_process() -> Iterator[RedisProcess]:
    process = RedisProcess()
    yield process
    process.close()


@pytest.fixture
def pages() -> Iterator[FakePages]:
    fake = FakePages()
    yield fake
    fake.close()


class CollectorProcess:
    """`manage.py collect` on the test's database, killed and started at will."""

    def __init__(self, redis_url: str, ray_url: str, log: Path) -> None:
        self.log = log
        self.environment = {
            **os.environ,
            "DATABASE_URL": database_url(),
            "REDIS_URL": redis_url,
            "RAYDECK_RAY_DASHBOARD_URL": ray_url,
        }
        self.process = self._start()

    def kill_and_restart(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = self._start()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=15) == 0

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "manage.py", "collect"],
                cwd=PROJECT,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


def database_url() -> str:
    given: dict[str, Any] = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{given['NAME']}"
    user = f"{given['USER']}:{given['PASSWORD']}@" if given["USER"] else ""
    return f"postgresql://{user}{given['HOST']}:{given['PORT']}/{given['NAME']}"


class Writer(threading.Thread):
    """Writes records as a gateway does: in batches, each sent again until Redis has acknowledged it."""

    def __init__(self, url: str, key_id: int) -> None:
        super().__init__(daemon=True)
        self.client = redis.Redis.from_url(url, socket_timeout=1)
        self.key_id = key_id
        self.written: set[str] = set()

    def run(self) -> None:
        for start in range(0, RECORDS, BATCH):
            batch = {
                f"r{number}": text_of(
                    id=f"r{number}", key_id=self.key_id, started_at=time.time() - 0.2, e2e_s=0.2
                )
                for number in range(start, start + BATCH)
            }
            while not self._sent(list(batch.values())):
                time.sleep(0.1)
            self.written |= set(batch)
            time.sleep(0.15)

    def _sent(self, texts: list[str]) -> bool:
        try:
            with self.client.pipeline(transaction=False) as pipeline:
                for text in texts:
                    pipeline.xadd(STREAM, {"r": text})
                pipeline.execute()
        except redis.RedisError:
            return False
        return True


def wait_until(condition: Any, *, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_nothing_is_lost_or_doubled_when_collector_and_redis_are_killed(
    redis_process: RedisProcess, pages: FakePages, tmp_path: Path
) -> None:
    deployment, key = make_deployment(), make_key()
    make_replica(deployment, "a")
    pages.text = page_text("a", requests_running=1, completion_tokens=10)
    collector = CollectorProcess(redis_process.url, pages.url, tmp_path / "collect.log")
    try:
        wait_until(Sample.objects.exists, seconds=30, what="the collector never wrote a sample")
        writer = Writer(redis_process.url, key.pk)
        writer.start()
        for written, kill in (
            (500, collector.kill_and_restart),
            (800, redis_process.kill),
            (800, redis_process.start),
            (1600, collector.kill_and_restart),
            (1800, redis_process.kill),
            (1800, redis_process.start),
        ):
            wait_until(lambda n=written: len(writer.written) >= n, seconds=60, what="the writer stopped")
            kill()
        writer.join(60)
        assert len(writer.written) == RECORDS
        client = redis_process.client()
        wait_until(lambda: client.xlen(STREAM) == 0, seconds=60, what=collector.log.read_text()[-2000:])
    finally:
        collector.stop()

    stored = list(RequestRecord.objects.values_list("pk", "key_id"))
    assert len(stored) == RECORDS
    assert {pk for pk, _ in stored} == writer.written
    assert {key_id for _, key_id in stored} == {key.pk}
    assert_rows_count_what_finished_in_their_second()
    assert "Traceback" not in collector.log.read_text()


def assert_rows_count_what_finished_in_their_second() -> None:
    """Every second that has a row counts exactly the requests that finished in it, whenever they came."""
    finished = Counter(
        int(started_at + e2e_s)
        for started_at, e2e_s in RequestRecord.objects.values_list("started_at", "e2e_s")
    )
    rows = list(Sample.objects.filter(resolution_s=1))
    assert len(rows) == len({row.at for row in rows})
    counted = {row.at: (row.requests_ok, sum(row.e2e.values())) for row in rows}
    assert counted == {at: (finished.get(at, 0), finished.get(at, 0)) for at in counted}
    assert sum(count for count, _ in counted.values()) > RECORDS / 10
