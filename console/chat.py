"""The playground's WebSocket: one reply at a time, from the gateway straight to the browser.

Per token there is one hop and nothing else: no database, no Celery, no channel layer. Stop, Esc and a closed
tab cancel the task that reads the gateway, which closes the HTTP stream and so aborts the request in the
engine; what had come is kept, marked "stopped". Never logs what people write or models answer.

In:  {"send": {ChatRequest}} · {"stop": true}
Out: {"t": "started", "conversation_id", "title", "kept"} · {"t": "token", "text"} ·
     {"t": "done", "state": "complete"|"stopped", "stats", "message_id"} ·
     {"t": "error", "code", "message", "field"?, "status"?, "retry_after_s"?, "stats"?, "message_id"?}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import httpx
from asgiref.sync import sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import DatabaseError

from console import chat_gateway, conversations, secrets
from console.chat_request import ChatRequest, read_request
from console.chat_stats import ReplicaPrice, ReplyClock, stats_of
from console.models import Deployment
from console.open_sessions import person_of
from console.origin import same_origin
from serving import keys

log = logging.getLogger(__name__)

CLOSE_NOT_ALLOWED = 4403
CLOSE_LOGIN = 4401
FRAME_CHARACTERS = 2_000_000


@dataclass
class Reply:
    """One answer while it comes."""

    request: ChatRequest
    clock: ReplyClock
    parts: list[str] = field(default_factory=list)
    request_id: str = ""
    finished: chat_gateway.Finished | None = None
    error: chat_gateway.ChatError | None = None
    stopped: bool = False

    @property
    def state(self) -> str:
        """complete, stopped or error."""
        if self.error:
            return "error"
        return "stopped" if self.stopped else "complete"


class ChatConsumer(AsyncWebsocketConsumer):
    """One browser tab's chat. Every role may chat; anonymous people and other origins may not."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.client: httpx.AsyncClient | None = None
        self.turn: asyncio.Task[None] | None = None
        self.reading: asyncio.Task[None] | None = None
        self.is_open = False
        self.stop_wanted = False

    async def connect(self) -> None:
        """Accept a logged-in person's page of this very site."""
        if not same_origin(self.scope):
            await self.close(code=CLOSE_NOT_ALLOWED)
            return
        user = self.scope.get("user")
        if user is None or not user.is_authenticated:
            await self.close(code=CLOSE_LOGIN)
            return
        self.client = httpx.AsyncClient(verify=_tls(), trust_env=False)
        self.is_open = True
        await self.accept()

    async def disconnect(self, code: int) -> None:
        """The tab is gone: abort upstream, and wait until the partial reply is stored."""
        self.is_open = False
        self._stop()
        if self.turn:
            await self.turn
        if self.client:
            await self.client.aclose()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Start a reply or stop the one that is coming."""
        frame = _parsed(text_data)
        if frame is None:
            await self._refuse(field="", message="This was not understood: send a JSON object.")
        elif frame.get("stop"):
            self._stop()
        elif "send" not in frame:
            await self._refuse(field="", message="This was not understood: neither “send” nor “stop”.")
        elif self.turn and not self.turn.done():
            await self._refuse(field="", message="A reply is still coming; stop it first.", code="busy")
        else:
            request, where, why = read_request(frame["send"])
            if request is None:
                await self._refuse(field=where, message=f"{where or 'Request'}: {why}")
                return
            self.stop_wanted = False
            self.turn = asyncio.create_task(self._answer(request))

    async def _answer(self, request: ChatRequest) -> None:
        session_key = self.scope["session"].session_key
        user = await sync_to_async(person_of)(session_key, user_id=self.scope["user"].pk)
        if user is None:
            await self._refuse(field="", message="You are no longer logged in.", code="unauthorised")
            await self.close(code=CLOSE_LOGIN)
            return
        conversation = await _stored(conversations.begin_turn, user=user, request=request)
        price = await _stored(price_of, name=request.deployment)
        await self._tell(
            {
                "t": "started",
                "conversation_id": conversation.pk if conversation else None,
                "title": conversation.title if conversation else "",
                "kept": conversation is not None,
            }
        )
        reply = Reply(request=request, clock=ReplyClock(started_at=time.monotonic()))
        # A task of its own, so that stopping it can never interrupt the storing that follows.
        self.reading = asyncio.create_task(self._read(reply, user.username))
        if self.stop_wanted:
            self._stop()
        await asyncio.wait({self.reading})
        reply.clock.end(time.monotonic())
        if self.reading.cancelled():
            reply.stopped = True
        elif failure := self.reading.exception():
            log.error("chat broke deployment=%s", request.deployment, exc_info=failure)
            reply.error = chat_gateway.ChatError(
                code="console_error", message="The console failed; see its log."
            )
        await self._finish(reply, conversation_id=conversation.pk if conversation else None, price=price)

    async def _read(self, reply: Reply, username: str) -> None:
        """Read the whole reply. Only the engine knows how many tokens a prompt has; where the context cannot
        hold it and all the output that was allowed, the reply may take what is left."""
        body = reply.request.body()
        await self._read_once(reply, username, body)
        too_much = reply.error is not None and reply.error.code == "context_overflow"
        if too_much and body.pop("max_tokens", None) is not None:
            reply.error = None
            await self._read_once(reply, username, body)

    async def _read_once(self, reply: Reply, username: str, body: dict[str, Any]) -> None:
        assert self.client is not None
        pieces = chat_gateway.stream_chat(
            client=self.client,
            base_url=settings.GATEWAY_URL.rstrip("/"),
            key=keys.internal_key(pepper=secrets.key_pepper(), purpose="playground"),
            user=username,
            body=body,
        )
        try:
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    if isinstance(piece, chat_gateway.Text):
                        reply.clock.piece(time.monotonic())
                        reply.parts.append(piece.text)
                        await self._tell({"t": "token", "text": piece.text})
                    elif isinstance(piece, chat_gateway.Started):
                        reply.request_id = piece.request_id
                    else:
                        reply.finished = piece
        except chat_gateway.ChatError as error:
            reply.error = error
            log.info("chat failed deployment=%s code=%s", reply.request.deployment, error.code)

    async def _finish(self, reply: Reply, *, conversation_id: int | None, price: ReplicaPrice | None) -> None:
        done = reply.finished
        stats = stats_of(
            clock=reply.clock,
            prompt_tokens=done.prompt_tokens if done else None,
            completion_tokens=done.completion_tokens if done else None,
            price=price,
        )
        stats["request_id"] = reply.request_id
        stats["finish_reason"] = done.finish_reason if done else None
        stats["deployment"] = reply.request.deployment
        frame: dict[str, Any] = {"t": "done", "state": reply.state}
        if reply.error:
            stats["error"] = {
                "code": reply.error.code,
                "message": reply.error.message,
                "retry_after_s": reply.error.retry_after_s,
            }
            frame |= {"t": "error", "status": reply.error.status, **stats["error"]}
        message = None
        if conversation_id is not None:
            message = await _stored(
                conversations.add_reply,
                conversation_id=conversation_id,
                content="".join(reply.parts),
                state=reply.state,
                stats=stats,
            )
        await self._tell(frame | {"stats": stats, "message_id": message.pk if message else None})

    def _stop(self) -> None:
        self.stop_wanted = True
        if self.reading and not self.reading.done():
            self.reading.cancel()

    async def _refuse(self, *, field: str, message: str, code: str = "bad_request") -> None:
        await self._tell({"t": "error", "code": code, "field": field, "message": message, "refused": True})

    async def _tell(self, frame: dict[str, Any]) -> None:
        if not self.is_open:
            return
        try:
            await self.send(text_data=json.dumps(frame))
        except OSError:
            # The browser went between two frames; the server says so a moment later through disconnect().
            self.is_open = False
            self._stop()


def price_of(*, name: str) -> ReplicaPrice | None:
    """What a replica of the deployment with this name costs now; None when there is no such deployment."""
    deployment = Deployment.objects.select_related("current_revision").filter(name=name).first()
    if deployment is None or deployment.current_revision is None:
        return None
    engine = deployment.current_revision.engine
    return ReplicaPrice(
        per_accelerator_hour_usd=deployment.price_per_accelerator_hour_usd,
        accelerators=int(engine.get("tensor_parallel_size", 1))
        * int(engine.get("pipeline_parallel_size", 1)),
    )


async def _stored(function: Any, /, **arguments: Any) -> Any:
    """Call a database function; a database in trouble costs the history of this turn, never the reply."""
    try:
        return await sync_to_async(function)(**arguments)
    except DatabaseError as error:
        log.warning("chat not stored step=%s error=%s", function.__name__, type(error).__name__)
        return None


def _parsed(text: str | None) -> dict[str, Any] | None:
    if not text or len(text) > FRAME_CHARACTERS:
        return None
    try:
        frame = json.loads(text)
    except ValueError:
        return None
    return frame if isinstance(frame, dict) else None


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """One context for all sockets: making it reads the certificate store, some 20 ms each time."""
    return ssl.create_default_context()
