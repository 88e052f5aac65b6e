"""A replica whose engine has died ends, with its children, and says so."""

import asyncio
import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from serving.cluster import watch


async def test_a_replica_ends_once_its_engine_is_dead(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "ERRORS_WITHIN_S", 0.0)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # noqa: ASYNC220
    monkeypatch.setattr(watch, "descendants", lambda pid: [child.pid])
    client: Any = SimpleNamespace(errored=False)
    ended: list[int] = []
    watching = asyncio.create_task(watch.end_with_engine(client, end=ended.append))
    await asyncio.sleep(3 * watch.LOOK_EVERY_S)
    assert not watching.done() and child.poll() is None
    client.errored = True
    with caplog.at_level(logging.ERROR, logger="ray.serve"):
        logging.getLogger("ray.serve").propagate = True
        await asyncio.wait_for(watching, timeout=5)
    assert ended == [watch.ENGINE_DIED_EXIT] and child.wait(timeout=5) == -9
    assert "raydeck-engine-died" in caplog.text
