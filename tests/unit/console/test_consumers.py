"""The live socket: who gets in, which topics, and what a slow page misses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async
from django.contrib.auth.models import AnonymousUser
from django.db import connections
from django.test import override_settings

from console import consumers, live
from console.models import User
from console.outbox import SAMPLES_MAX, Outbox
from tests.unit.console.logged_in import session_of
from tests.unit.console.socket_client import SocketClient

pytestmark = pytest.mark.django_db(transaction=True)
HERE = [(b"host", b"raydeck.test:8080"), (b"origin", b"http://raydeck.test:8080")]


@pytest.fixture(autouse=True)
async def _connections_closed() -> AsyncIterator[None]:
    """The consumer's database thread outlives the test; its connection must not."""
    yield
    await sync_to_async(connections.close_all)()


async def socket(user: Any, headers: list[tuple[bytes, bytes]] | None = None) -> SocketClient:
    communicator = SocketClient(
        consumers.LiveConsumer.as_asgi(), "/ws/live/", headers=HERE if headers is None else headers
    )
    communicator.scope["user"] = user
    if user.is_authenticated:
        communicator.scope["session"] = await database_sync_to_async(session_of)(user)
    return communicator


async def opened(user: Any) -> SocketClient:
    communicator = await socket(user)
    connected, _ = await communicator.connect()
    assert connected
    assert (await communicator.receive_json())["t"] == "hello"
    return communicator


async def settled(communicator: SocketClient) -> None:
    """Everything sent so far has been acted on."""
    await communicator.send_json({"ping": "settled"})
    answer = await communicator.receive_json()
    assert (answer["t"], answer["ping"]) == ("pong", "settled")


async def test_a_viewer_follows_a_topic_and_gets_its_samples_and_changes(viewer: User):
    communicator = await opened(viewer)
    await communicator.send_json({"subscribe": ["deployment:demo", "overview"]})
    await settled(communicator)
    await live.apublish_samples([("deployment:demo", {"t": 1}), ("deployment:other", {"t": 1})])
    assert await communicator.receive_json() == {
        "t": "sample",
        "topic": "deployment:demo",
        "data": {"t": 1},
    }
    await database_sync_to_async(live.publish_changed)(["overview"], "events")
    assert await communicator.receive_json() == {"t": "changed", "topic": "overview", "what": "events"}
    await communicator.send_json({"unsubscribe": ["deployment:demo"]})
    await settled(communicator)
    await live.apublish_samples([("deployment:demo", {"t": 2})])
    assert await communicator.receive_nothing()
    await communicator.disconnect()


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"raydeck.test:8080")],
        [(b"host", b"raydeck.test:8080"), (b"origin", b"http://evil.test")],
        [(b"host", b"raydeck.test:8080"), (b"origin", b"http://raydeck.test:9999")],
        [(b"host", b"raydeck.test:8080"), (b"origin", b"null")],
    ],
)
async def test_a_page_of_another_site_or_port_is_refused(viewer: User, headers):
    connected, code = await (await socket(viewer, headers)).connect()
    assert not connected
    assert code == consumers.CLOSE_NOT_ALLOWED


@override_settings(CSRF_TRUSTED_ORIGINS=["https://console.example"])
async def test_an_origin_that_the_operator_trusts_is_accepted(viewer: User):
    headers = [(b"host", b"10.0.0.1:8080"), (b"origin", b"https://console.example")]
    communicator = await socket(viewer, headers)
    connected, _ = await communicator.connect()
    assert connected
    await communicator.disconnect()


async def test_nobody_gets_in_without_a_login():
    connected, code = await (await socket(AnonymousUser())).connect()
    assert not connected
    assert code == consumers.CLOSE_LOGIN


async def test_a_person_without_a_role_is_refused(viewer: User):
    viewer.role = "none"
    connected, code = await (await socket(viewer)).connect()
    assert not connected
    assert code == consumers.CLOSE_NOT_ALLOWED


@pytest.mark.parametrize(
    "topic", ["deployment:../x", "everything", "", "deployment:", "overview\n", "x" * 500]
)
async def test_a_topic_that_does_not_exist_is_refused(viewer: User, topic):
    communicator = await opened(viewer)
    await communicator.send_json({"subscribe": [topic]})
    assert (await communicator.receive_json())["t"] == "error"
    await communicator.disconnect()


async def test_at_most_twenty_topics(viewer: User):
    communicator = await opened(viewer)
    await communicator.send_json({"subscribe": [f"deployment:d{i}" for i in range(21)]})
    answer = await communicator.receive_json()
    assert (answer["t"], answer["topic"]) == ("error", "deployment:d20")
    await communicator.send_json({"unsubscribe": ["deployment:d0"], "subscribe": ["deployment:d20"]})
    await settled(communicator)
    await communicator.disconnect()


async def test_a_topic_that_takes_a_higher_role_is_refused(viewer: User, monkeypatch):
    monkeypatch.setitem(consumers.TOPIC_ROLES, "keys", "admin")
    communicator = await opened(viewer)
    await communicator.send_json({"subscribe": ["keys"]})
    assert (await communicator.receive_json())["topic"] == "keys"
    await live.apublish_samples([("keys", {})])
    assert await communicator.receive_nothing()
    await communicator.disconnect()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"x"', "[" * 9000, '{"a": ' + '"' + "x" * 20_000 + '"}']
)
async def test_what_is_not_understood_is_said_and_the_socket_lives_on(viewer: User, text):
    communicator = await opened(viewer)
    await communicator.send_text(text)
    assert (await communicator.receive_json())["t"] == "error"
    await settled(communicator)
    await communicator.disconnect()


@pytest.mark.parametrize(
    "frame", [{"subscribe": "overview"}, {"subscribe": [1, None, {}]}, {"unsubscribe": 5}, {}]
)
async def test_odd_frames_change_nothing(viewer: User, frame):
    communicator = await opened(viewer)
    await communicator.send_json(frame)
    await settled(communicator)
    await communicator.disconnect()


async def test_bytes_are_not_understood(viewer: User):
    communicator = await opened(viewer)
    await communicator.send_input({"type": "websocket.receive", "bytes": b"\x00"})
    assert (await communicator.receive_json())["t"] == "error"
    await communicator.disconnect()


async def test_whoever_logs_out_or_is_disabled_is_disconnected(viewer: User, monkeypatch):
    monkeypatch.setattr(consumers, "RECHECK_S", 0.05)
    communicator = await opened(viewer)
    await asyncio.sleep(0.2)
    await settled(communicator)
    await database_sync_to_async(User.objects.filter(pk=viewer.pk).update)(is_active=False)
    assert (await communicator.receive_output(timeout=5))["code"] == consumers.CLOSE_LOGIN

    other = await database_sync_to_async(User.objects.create_user)(
        "other", password="long enough", role="viewer"
    )
    communicator = await opened(other)
    await database_sync_to_async(communicator.scope["session"].flush)()
    assert (await communicator.receive_output(timeout=5))["code"] == consumers.CLOSE_LOGIN


async def test_a_new_password_ends_the_sockets_opened_with_the_old_one(viewer: User, monkeypatch):
    monkeypatch.setattr(consumers, "RECHECK_S", 0.05)
    communicator = await opened(viewer)
    viewer.set_password("another long one")
    await database_sync_to_async(viewer.save)()
    assert (await communicator.receive_output(timeout=5))["code"] == consumers.CLOSE_LOGIN


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, five seconds at most."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  (a condition of the code under test, which has no event)
            await asyncio.sleep(0.01)


class TestOutbox:
    def sample(self, number: int) -> dict[str, Any]:
        return {"t": "sample", "topic": "overview", "data": {"t": number}}

    async def taken(self, outbox: Outbox) -> list[dict[str, Any]]:
        return [await outbox.take() for _ in range(len(outbox))]

    async def test_a_slow_page_misses_the_oldest_samples_and_never_a_change(self):
        outbox = Outbox()
        outbox.put({"t": "changed", "topic": "overview", "what": "status"})
        for number in range(SAMPLES_MAX + 30):
            outbox.put(self.sample(number))
        outbox.put({"t": "changed", "topic": "overview", "what": "events"})
        messages = await self.taken(outbox)
        assert [message["what"] for message in messages[:2]] == ["status", "events"]
        assert [message["data"]["t"] for message in messages[2:]] == list(range(30, SAMPLES_MAX + 30))
        assert outbox.dropped == 30

    async def test_the_same_change_waits_once(self):
        outbox = Outbox()
        for _ in range(1000):
            outbox.put({"t": "changed", "topic": "overview", "what": "status"})
        assert len(outbox) == 1

    async def test_taking_waits_for_something_to_send(self):
        outbox = Outbox()
        taker = asyncio.create_task(outbox.take())
        await asyncio.sleep(0)
        assert not taker.done()
        outbox.put(self.sample(1))
        assert (await asyncio.wait_for(taker, 1))["data"] == {"t": 1}


async def test_a_page_that_does_not_read_costs_bounded_memory_and_still_hears_of_changes(viewer: User):
    """The server's send blocks, as it does when the browser's window is full."""
    communicator = await socket(viewer)
    gate = asyncio.Event()
    sent: list[dict[str, Any]] = []
    consumer = consumers.LiveConsumer()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            await gate.wait()
            sent.append(json.loads(message["text"]))

    inbound: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    running = asyncio.create_task(consumer(communicator.scope, inbound.get, send))
    await inbound.put({"type": "websocket.connect"})
    await inbound.put({"type": "websocket.receive", "text": '{"subscribe": ["overview"]}'})
    await until(lambda: bool(consumer.topics))
    for number in range(500):
        await live.apublish_samples([("overview", {"t": number})])
        await asyncio.sleep(0)
    await consumer.push({"message": {"t": "changed", "topic": "overview", "what": "status"}})
    assert len(consumer.outbox) <= SAMPLES_MAX + 1
    gate.set()
    await until(lambda: {"t": "changed", "topic": "overview", "what": "status"} in sent)
    await until(lambda: len(consumer.outbox) == 0)
    await inbound.put({"type": "websocket.disconnect", "code": 1000})
    await asyncio.wait_for(running, 5)
