"""The live socket on the product's own channel layer: Redis goes, comes back, and pages hear again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async
from channels.layers import channel_layers
from django.conf import settings
from django.db import connections

from console import consumers, live
from console.models import User
from tests.unit.console.logged_in import session_of
from tests.unit.console.socket_client import SocketClient
from tests.unit.workers.redis_process import RedisProcess

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
async def _connections_closed() -> AsyncIterator[None]:
    """The consumer's database thread outlives the test; its connection must not."""
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture
def redis_process() -> Iterator[RedisProcess]:
    process = RedisProcess()
    before = settings.CHANNEL_LAYERS
    backend = "channels_redis.pubsub.RedisPubSubChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": {"hosts": [process.url]}}}
    channel_layers.backends.clear()
    yield process
    settings.CHANNEL_LAYERS = before
    channel_layers.backends.clear()
    process.close()


async def heard(client: SocketClient, topic: str) -> Any:
    """Publish until the page hears it; fails after 15 s."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        await live.apublish_samples([(topic, {"t": 1})])
        await asyncio.sleep(0.2)
        while not client.output_queue.empty():
            answer = await client.receive_json()
            if answer["t"] == "sample":
                return answer
    raise AssertionError("nothing was heard")


async def test_pages_hear_again_after_redis_was_killed_and_came_back(
    redis_process: RedisProcess, viewer: User
):
    headers = [(b"host", b"here"), (b"origin", b"http://here")]
    client = SocketClient(consumers.LiveConsumer.as_asgi(), "/ws/live/", headers)
    session = await database_sync_to_async(session_of)(viewer)
    client.scope.update(user=viewer, session=session)
    assert await client.connect() == (True, None)
    await client.send_json({"subscribe": ["overview"]})
    assert (await heard(client, "overview"))["topic"] == "overview"
    redis_process.kill()
    await live.apublish_samples([("overview", {"t": 2})])
    redis_process.start()
    assert (await heard(client, "overview"))["topic"] == "overview"
    await client.disconnect()
