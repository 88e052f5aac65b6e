"""Sends ASGI answers: JSON, errors in OpenAI's form, the head of an event stream. Pure ASGI, no framework."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serving.cluster.openai_errors import INVALID_REQUEST, SERVER_ERROR, error_body

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Scope = MutableMapping[str, Any]
Headers = tuple[tuple[bytes, bytes], ...]
JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"


async def send_json(send: Send, value: Any, *, status: int = 200) -> None:
    """A whole JSON answer."""
    await send_body(send, json.dumps(value).encode(), status=status)


async def send_body(
    send: Send,
    body: bytes,
    *,
    status: int = 200,
    retry_after_s: int | None = None,
    extra: Headers = (),
) -> None:
    """A whole answer whose body is JSON already."""
    headers = [(b"content-type", JSON), (b"content-length", str(len(body)).encode()), *extra]
    if retry_after_s is not None:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(
    send: Send,
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    retry_after_s: int | None = None,
    type_: str | None = None,
    extra: Headers = (),
) -> None:
    """An error in OpenAI's form; the type follows from the status where none is given."""
    type_ = type_ or (INVALID_REQUEST if status < 500 else SERVER_ERROR)
    if status == 401:
        extra = (*extra, (b"www-authenticate", b"Bearer"))
    await send_body(
        send,
        error_body(message, type_=type_, code=code, param=param),
        status=status,
        retry_after_s=retry_after_s,
        extra=extra,
    )


async def start_events(send: Send, extra: Headers = ()) -> None:
    """The head of an event stream; proxies on the way are asked not to collect it."""
    headers = [
        (b"content-type", EVENTS),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
        *extra,
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def send_event(send: Send, event: bytes) -> None:
    """One event, on its own."""
    await send({"type": "http.response.body", "body": event, "more_body": True})


async def end_events(send: Send) -> None:
    """The end of the stream."""
    await send({"type": "http.response.body", "body": b"", "more_body": False})
