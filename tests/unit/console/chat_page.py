"""A browser tab at the chat socket, for tests: sends and reads frames, against the real consumer."""

from __future__ import annotations

import json
from typing import Any

from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import AnonymousUser

from console.chat import ChatConsumer
from console.models import User
from tests.unit.console.logged_in import session_of

PATIENCE_S = 5


class ChatPage:
    """One socket; `user` None is an anonymous visitor."""

    def __init__(
        self, user: User | None, *, origin: str = "http://testserver", host: str = "testserver"
    ) -> None:
        scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/ws/chat/",
            "headers": [(b"host", host.encode()), (b"origin", origin.encode())],
            "user": user or AnonymousUser(),
        }
        self.user = user
        self.scope = scope
        self.socket = ApplicationCommunicator(ChatConsumer.as_asgi(), scope)

    async def connect(self) -> bool:
        """Whether the socket was accepted."""
        if self.user is not None:
            self.scope["session"] = await sync_to_async(session_of)(self.user)
        await self.socket.send_input({"type": "websocket.connect"})
        answer = await self.socket.receive_output(PATIENCE_S)
        return bool(answer["type"] == "websocket.accept")

    async def send(self, frame: Any) -> None:
        """Send a frame, or text as it is."""
        text = frame if isinstance(frame, str) else json.dumps(frame)
        await self.socket.send_input({"type": "websocket.receive", "text": text})

    async def ask(self, question: str, **more: Any) -> None:
        """Send a one-message conversation."""
        request = {"deployment": "demo", "messages": [{"role": "user", "content": question}], **more}
        await self.send({"send": request})

    async def frame(self) -> dict[str, Any]:
        """The next frame."""
        answer = await self.socket.receive_output(PATIENCE_S)
        assert answer["type"] == "websocket.send", answer
        frame: dict[str, Any] = json.loads(answer["text"])
        return frame

    async def until(self, *kinds: str) -> list[dict[str, Any]]:
        """Frames up to and including the first of one of these kinds."""
        frames = [await self.frame()]
        while frames[-1]["t"] not in kinds:
            frames.append(await self.frame())
        return frames

    async def close(self) -> None:
        """The tab closes; returns when the consumer has cleaned up."""
        await self.socket.send_input({"type": "websocket.disconnect", "code": 1001})
        await self.socket.wait(PATIENCE_S)
