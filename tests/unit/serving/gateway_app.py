"""The gateway's application without Ray: requests in, what it sent out; the engine's answers are given."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from serving.cluster import wire
from serving.cluster.gateway import GatewayApp
from serving.cluster.limits import Limiter
from serving.cluster.spool import Spool
from serving.cluster.table import read_table
from serving.cluster.usage import UsageRecorder
from serving.keys import digest_of

PEPPER = "pepper"
META = {
    "status": 200,
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "cached_tokens": 2,
    "queue_s": 0.001,
    "prefill_s": 0.002,
    "decode_s": 0.003,
    "replica": "replica-1",
    "finish_reason": "stop",
}
EVENT = b'data: {"choices": []}\n\n'


class FakeEngine:
    """Answers at once; with `hold` set, only when it is released."""

    def __init__(self) -> None:
        self.asked = 0
        self.release: asyncio.Event | None = None
        self.unary = SimpleNamespace(remote=self._unary)
        self.stream = SimpleNamespace(remote=self._stream)
        self.usage_of = SimpleNamespace(remote=self._usage_of)

    def of(self, entry: Any) -> "FakeEngine":
        """As `Handles` does."""
        return self

    def note_answer(self, entry: Any) -> None:
        """As `Handles` does; nothing is remembered."""

    def _unary(self, path: str, request_id: str, body: bytes) -> Any:
        self.asked += 1
        return asyncio.ensure_future(self._answer())

    async def _answer(self) -> bytes:
        if self.release is not None:
            await self.release.wait()
        return wire.pack(META, b'{"choices": []}')

    async def _usage_of(self, request_id: str) -> bytes:
        return json.dumps(META).encode()

    def _stream(self, path: str, request_id: str, body: bytes) -> AsyncIterator[bytes]:
        self.asked += 1
        return self._events()

    async def _events(self) -> AsyncIterator[bytes]:
        for item in (EVENT, EVENT, wire.closing(META), wire.DONE):
            yield item


class Answer:
    """What the application sent for one request."""

    def __init__(self, sent: list[dict[str, Any]]) -> None:
        self.status = int(sent[0]["status"])
        self.headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        self.body = b"".join(message.get("body", b"") for message in sent[1:])

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's form."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        assert set(found) == {"message", "type", "param", "code"}
        return found


class App:
    """One gateway replica with a table of keys and models."""

    def __init__(self, folder: Path, *, redis_url: str | None = None) -> None:
        self.engine = FakeEngine()
        self.recorder = UsageRecorder(redis_url=None, spool=Spool(folder, writer="w"))
        self.limiter = Limiter(redis_url=redis_url)
        handles: Any = self.engine
        self.app = GatewayApp(pepper=PEPPER, recorder=self.recorder, handles=handles, limiter=self.limiter)

    def configure(self, *, keys: dict[str, dict[str, Any]], models: dict[str, dict[str, Any]]) -> None:
        """Keys by their plaintext, models by their name."""
        basis = {"app": "model-x", "revision": 2, "created": 1}
        digests = {
            digest_of(key=plaintext, pepper=PEPPER): {"id": place, "name": plaintext, **entry}
            for place, (plaintext, entry) in enumerate(keys.items(), 1)
        }
        given = {name: {**basis, **entry} for name, entry in models.items()}
        self.app.table = read_table({"keys": digests, "models": given})

    @property
    def records(self) -> list[dict[str, Any]]:
        """Usage records so far; the recorder is not started."""
        return [json.loads(text) for text in self.recorder._queue]

    async def ask(
        self,
        body: bytes | dict[str, Any] | None = None,
        *,
        key: str | None = "rd-one",
        path: str = "/v1/chat/completions",
        method: str = "POST",
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> Answer:
        """One request, answered."""
        sent: list[dict[str, Any]] = []
        raw = body if isinstance(body, bytes) else json.dumps(body or {"model": "demo"}).encode()
        messages = [{"type": "http.request", "body": raw, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(dict(message))

        own = ((b"authorization", f"Bearer {key}".encode("utf-8", "surrogatepass")),) if key else ()
        scope = {"type": "http", "method": method, "path": path, "headers": [*own, *headers]}
        await self.app(scope, receive, send)
        return Answer(sent)
