"""The live WebSocket, /ws/live/: samples and "something changed", by topic. Never HTML, prompts or answers.

In:  {"subscribe": ["deployment:demo", "overview"]} · {"unsubscribe": ["overview"]} · {"ping": …}
Out: {"t": "hello", "server_time"} · {"t": "sample", "topic", "data"} · {"t": "changed", "topic", "what"} ·
     {"t": "pong", "ping", "server_time"} · {"t": "error", "topic"?, "message"}
After subscribing a page fetches history itself; nothing is replayed. Whoever is logged out or loses the
role meanwhile is disconnected within RECHECK_S.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from redis.exceptions import RedisError

from console import live
from console.auth import role_allows
from console.models import Role, User
from console.open_sessions import person_of
from console.origin import same_origin
from console.outbox import Outbox

log = logging.getLogger(__name__)

TOPICS_MAX = 20
FRAME_CHARACTERS = 10_000
RECHECK_S = 60.0
CLOSE_LOGIN = 4401
CLOSE_NOT_ALLOWED = 4403
CLOSE_TRY_AGAIN = 1013

TOPIC_ROLES: dict[str, str] = {}
"""Role a topic takes, by the part before its colon; viewer where nothing is said."""


def may_follow(user: User, topic: str) -> bool:
    """Whether the user may follow a topic. The one place for permissions per topic."""
    needed = TOPIC_ROLES.get(topic.partition(":")[0], Role.VIEWER.value)
    return role_allows(user.role, needed)


class LiveConsumer(AsyncWebsocketConsumer):
    """One page's socket. What it sends waits in a bounded outbox, so that a slow page slows nobody else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outbox = Outbox()
        self.topics: set[str] = set()
        self.user: User | None = None
        self.tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        """Accept a logged-in viewer's page of this very site."""
        if not same_origin(self.scope):
            await self.close(code=CLOSE_NOT_ALLOWED)
            return
        user = self.scope.get("user")
        if user is None or not user.is_authenticated:
            await self.close(code=CLOSE_LOGIN)
            return
        if not role_allows(user.role, Role.VIEWER.value):
            await self.close(code=CLOSE_NOT_ALLOWED)
            return
        self.user = user
        await self.accept()
        self.outbox.put({"t": "hello", "server_time": time.time()})
        self.tasks = [asyncio.create_task(self._send_on()), asyncio.create_task(self._recheck())]

    async def disconnect(self, code: int) -> None:
        """Leave every topic and stop sending."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for topic in list(self.topics):
            await self._leave(topic)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Follow and leave topics; answer pings; say what was not understood."""
        frame = _parsed(text_data)
        if frame is None:
            self._say("This was not understood: send a JSON object.")
            return
        if "ping" in frame:
            ping = frame["ping"] if isinstance(frame["ping"], int | float | str) else None
            self.outbox.put({"t": "pong", "ping": ping, "server_time": time.time()})
        for topic in _topics(frame.get("unsubscribe")):
            await self._leave(topic)
        for topic in _topics(frame.get("subscribe")):
            await self._follow(topic)

    async def push(self, event: dict[str, Any]) -> None:
        """A message of the channel layer; only queued here, so that the layer never waits for a browser."""
        if event["message"].get("topic") in self.topics:
            self.outbox.put(event["message"])

    async def _follow(self, topic: str) -> None:
        if topic in self.topics:
            return
        if not live.TOPIC.fullmatch(topic):
            self._say("There is no such topic.", topic)
        elif self.user is None or not may_follow(self.user, topic):
            self._say("Your role may not follow this.", topic)
        elif len(self.topics) >= TOPICS_MAX:
            self._say(f"At most {TOPICS_MAX} topics at once.", topic)
        else:
            try:
                await self.channel_layer.group_add(live.group_of(topic), self.channel_name)
            except (RedisError, OSError) as error:
                log.warning("live subscribe=failed error=%s", type(error).__name__)
                await self.close(code=CLOSE_TRY_AGAIN)
                return
            self.topics.add(topic)

    async def _leave(self, topic: str) -> None:
        if topic not in self.topics:
            return
        self.topics.discard(topic)
        try:
            await self.channel_layer.group_discard(live.group_of(topic), self.channel_name)
        except (RedisError, OSError) as error:
            # The layer has forgotten the channel by itself already; only the subscription in Redis stays.
            log.info("live unsubscribe=failed error=%s", type(error).__name__)

    async def _send_on(self) -> None:
        """Send what waits; `send` waits itself while the browser does not read."""
        while True:
            message = await self.outbox.take()
            await self.send(text_data=json.dumps(message, separators=(",", ":")))

    async def _recheck(self) -> None:
        """A logged-out session, a new password, a disabled person or a lost role ends the socket too."""
        while self.user is not None:
            await asyncio.sleep(RECHECK_S)
            session_key = self.scope["session"].session_key
            user = await database_sync_to_async(person_of)(session_key, user_id=self.user.pk)
            if user is None:
                await self.close(code=CLOSE_LOGIN)
                return
            self.user = user
            for topic in [topic for topic in self.topics if not may_follow(user, topic)]:
                await self._leave(topic)

    def _say(self, message: str, topic: str | None = None) -> None:
        answer = {"t": "error", "message": message}
        self.outbox.put(answer if topic is None else {**answer, "topic": topic[:80]})


def _parsed(text: str | None) -> dict[str, Any] | None:
    if text is None or len(text) > FRAME_CHARACTERS:
        return None
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return frame if isinstance(frame, dict) else None


def _topics(value: Any) -> list[str]:
    return [topic for topic in value if isinstance(topic, str)] if isinstance(value, list) else []
