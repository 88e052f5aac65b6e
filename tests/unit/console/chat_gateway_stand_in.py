"""A gateway at the transport level: a real HTTP server that streams what a test's question asks for.

It speaks the gateway's server-sent events (serving/cluster/replies.py), notes what it was sent, and notices
when the caller goes away in mid-reply. The question chooses the behaviour.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from aiohttp import web

REFUSALS = {
    "busy": (429, "The model `demo` has too many requests waiting. Try again in a moment.", "2"),
    "starting": (503, "The model `demo` is starting. Try again in a moment.", "14"),
    "stopped": (503, "The model `demo` is stopped.", None),
    "too long": (400, "This model's maximum context length is 512 tokens, but 900 were asked for.", None),
    "bad field": (400, "top_k must be positive.", None),
    "bad key": (401, "Incorrect API key provided.", None),
    "unknown": (404, "The model `demo` does not exist or you do not have access to it.", None),
}


class GatewayStandIn:
    """Serves on a free loopback port between `start` and `stop`."""

    def __init__(self, replies: dict[str, str] | None = None) -> None:
        self.replies = replies or {}
        """Question -> a reply of its own, sent word by word."""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.aborted = asyncio.Event()
        self.go_on = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        question = body["messages"][-1]["content"]
        if question == "fill the context" and "max_tokens" in body:
            return _refusal(*REFUSALS["too long"])
        if question in REFUSALS and question not in self.replies:
            return _refusal(*REFUSALS[question])
        response = web.StreamResponse(
            headers={"content-type": "text/event-stream; charset=utf-8", "x-request-id": "request-1"}
        )
        await response.prepare(request)
        try:
            await self._stream(question, request, response)
        except (asyncio.CancelledError, ConnectionResetError):
            self.aborted.set()
            raise
        return response

    async def _stream(self, question: str, request: web.Request, response: web.StreamResponse) -> None:
        await response.write(_event({"choices": [{"delta": {"role": "assistant", "content": ""}}]}))
        if question in self.replies:
            for word in re.findall(r"\s*\S+|\s+$", self.replies[question]):
                await response.write(_text(word))
                await asyncio.sleep(0.002)
        else:
            for word in ("Hel", "lo", " \u2028there"):
                await response.write(_text(word))
        if question == "endless":
            while True:
                await response.write(_text(" more"))
                await asyncio.sleep(0.01)
        if question == "wait":
            await self.go_on.wait()
        if question == "engine dies":
            error = {"message": "The engine stopped while it was answering.", "code": "engine_failed"}
            await response.write(_event({"error": error}))
            await response.write(b"data: [DONE]\n\n")
            return
        if question == "cut":
            assert request.transport is not None
            request.transport.abort()
            return
        if question == "ends early":
            return
        await response.write(_event({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
        await response.write(_event({"choices": [], "usage": {"prompt_tokens": 21, "completion_tokens": 7}}))
        await response.write(b"data: [DONE]\n\n")


def _refusal(status: int, message: str, retry_after: str | None) -> web.Response:
    headers = {"retry-after": retry_after} if retry_after else {}
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return web.json_response({"error": error}, status=status, headers=headers)


def _text(text: str) -> bytes:
    return _event({"choices": [{"delta": {"content": text}}]})


def _event(chunk: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()
