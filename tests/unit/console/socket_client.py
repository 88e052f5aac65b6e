"""One WebSocket against an ASGI application in this process (channels' own client needs another server)."""

from __future__ import annotations

import json
from typing import Any

from asgiref.testing import ApplicationCommunicator


class SocketClient(ApplicationCommunicator):
    """Speaks ASGI's WebSocket messages; `scope` may be filled before `connect`."""

    def __init__(self, application: Any, path: str, headers: list[tuple[bytes, bytes]]) -> None:
        scope = {
            "type": "websocket",
            "path": path,
            "query_string": b"",
            "headers": headers,
            "subprotocols": [],
        }
        super().__init__(application, scope)

    async def connect(self) -> tuple[bool, int | None]:
        """(accepted, None), or (False, close code)."""
        await self.send_input({"type": "websocket.connect"})
        answer = await self.receive_output(timeout=5)
        if answer["type"] == "websocket.accept":
            return True, None
        return False, answer.get("code")

    async def send_text(self, text: str) -> None:
        """One text frame."""
        await self.send_input({"type": "websocket.receive", "text": text})

    async def send_json(self, value: Any) -> None:
        """One frame of JSON."""
        await self.send_text(json.dumps(value))

    async def receive_json(self) -> Any:
        """The next frame's JSON; fails on anything else."""
        answer = await self.receive_output(timeout=5)
        assert answer["type"] == "websocket.send", answer
        return json.loads(answer["text"])

    async def disconnect(self) -> None:
        """Close from the browser's side and wait for the application to end."""
        await self.send_input({"type": "websocket.disconnect", "code": 1000})
        await self.wait(timeout=5)
