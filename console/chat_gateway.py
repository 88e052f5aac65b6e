"""One chat completion, streamed from the gateway: server-sent events in, typed pieces out.

The caller ends a reply early by closing the iterator (or cancelling its task): the HTTP stream is closed
then, which is what makes the gateway abort the request in the engine. This module keeps no state, touches
neither the database nor the channel layer, and never logs a prompt, an answer or a key.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

TIMEOUT = httpx.Timeout(connect=5.0, read=660.0, write=30.0, pool=5.0)
"""Reading waits longer than Serve itself holds a request (600 s, a sleeping model may need most of it to
wake); the person watching can stop at any time."""

CONTEXT_LENGTH = re.compile(r"maximum context length is (\d+) tokens", re.I)
CONTEXT_OVERFLOW = re.compile(
    r"maximum context length|context[_ ]length[_ ]exceeded|longer than the maximum", re.I
)
MESSAGE_LIMIT_CHARACTERS = 600


@dataclass(frozen=True)
class Started:
    """The gateway accepted the request; `request_id` is its name in the usage records."""

    request_id: str


@dataclass(frozen=True)
class Text:
    """A piece of the reply, as it came."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The stream ended as it should. Token counts are the engine's; None when it sent none."""

    finish_reason: str | None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


Piece = Started | Text | Finished


class ChatError(Exception):
    """Why there is no (further) reply. `code` is one of: unauthorised, not_found, overloaded, unavailable,
    context_overflow, bad_request, engine_error, broken_stream, gateway_down."""

    def __init__(
        self, *, code: str, message: str, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s


async def stream_chat(
    *, client: httpx.AsyncClient, base_url: str, key: str, user: str, body: dict[str, Any]
) -> AsyncGenerator[Piece, None]:
    """Yield Started, then Text pieces, then Finished, for one POST of `body` to /v1/chat/completions.

    `base_url` is the gateway's root without /v1; `user` is the name that usage is counted under. Raises
    ChatError for a refusal, an error chunk (even when [DONE] follows it) and a stream that breaks off.
    """
    request = client.build_request(
        "POST",
        f"{base_url}/v1/chat/completions",
        json={**body, "stream": True, "stream_options": {"include_usage": True}},
        headers={
            "Authorization": f"Bearer {key}",
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "x-raydeck-user": user.encode("ascii", "replace").decode(),
        },
        timeout=TIMEOUT,
    )
    try:
        response = await client.send(request, stream=True)
    except httpx.TransportError as error:
        raise ChatError(
            code="gateway_down",
            message=f"The gateway at {base_url} does not answer ({type(error).__name__}).",
        ) from error
    try:
        if response.status_code != 200:
            raise await _refusal(response)
        yield Started(request_id=response.headers.get("x-request-id", ""))
        async for piece in _pieces(response):
            yield piece
    finally:
        await response.aclose()


async def _pieces(response: httpx.Response) -> AsyncIterator[Piece]:
    finish_reason: str | None = None
    usage: dict[str, Any] = {}
    try:
        async for data in _event_data(response):
            if data == b"[DONE]":
                if finish_reason is None and not usage:
                    break
                yield Finished(
                    finish_reason=finish_reason,
                    prompt_tokens=usage.get("prompt_tokens"),
                    completion_tokens=usage.get("completion_tokens"),
                )
                return
            chunk = _parsed(data)
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices") or []:
                finish_reason = choice.get("finish_reason") or finish_reason
                text = (choice.get("delta") or {}).get("content")
                if text:
                    yield Text(text=text)
    except httpx.TransportError as error:
        raise ChatError(
            code="broken_stream", message="The connection to the engine broke in mid-reply."
        ) from error
    raise ChatError(code="broken_stream", message="The reply broke off before the engine had finished it.")


async def _event_data(response: httpx.Response) -> AsyncIterator[bytes]:
    """The payload of every `data:` line as soon as it is complete. Split at newline bytes only: a reply may
    hold U+2028 and the like, at which text line readers would cut a chunk in two."""
    rest = b""
    async for block in response.aiter_bytes():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _parsed(data: bytes) -> dict[str, Any]:
    """One chunk as a dict; an error chunk is a failure, although HTTP said 200 long before."""
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise ChatError(code="broken_stream", message="The gateway sent an unreadable chunk.") from error
    if not isinstance(chunk, dict):
        raise ChatError(code="broken_stream", message="The gateway sent an unreadable chunk.")
    failure = chunk.get("error")
    if failure:
        raise ChatError(
            code="engine_error", message=_message_of(failure) or "The engine failed in mid-reply."
        )
    return chunk


async def _refusal(response: httpx.Response) -> ChatError:
    try:
        await response.aread()
        body = response.json()
    except (httpx.TransportError, ValueError):
        body = {}
    message = _message_of(body.get("error") if isinstance(body, dict) else None)
    code = _code_of(status=response.status_code, message=message)
    return ChatError(
        code=code,
        message=(_context_words(message) if code == "context_overflow" else message)
        or f"The gateway answered HTTP {response.status_code} without a reason.",
        status=response.status_code,
        retry_after_s=_seconds(response.headers.get("retry-after")),
    )


def _context_words(message: str) -> str:
    """The engine's own words speak of fields that nobody here has filled in."""
    length = CONTEXT_LENGTH.search(message)
    return f"This chat is longer than the context of {int(length[1]):,} tokens." if length else message


def _message_of(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "").strip()[:MESSAGE_LIMIT_CHARACTERS]


def _code_of(*, status: int, message: str) -> str:
    if status == 400 and CONTEXT_OVERFLOW.search(message):
        return "context_overflow"
    codes = {
        401: "unauthorised",
        403: "unauthorised",
        404: "not_found",
        429: "overloaded",
        503: "unavailable",
    }
    if status in codes:
        return codes[status]
    return "bad_request" if status < 500 else "engine_error"


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None
