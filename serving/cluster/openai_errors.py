"""Errors in OpenAI's form, as the gateway and the engine's replica send them. Pure.

A message says what the caller can act on and nothing about us: no path, class, actor, address or traceback.
"""

import json
from typing import Any

SERVER_ERROR = "server_error"
INVALID_REQUEST = "invalid_request_error"

ENGINE_STOPPED = "The engine stopped while it was answering. The request was not completed; try again."
ENGINE_FAILED = "The engine could not answer this request."


def error_object(
    message: str, *, type_: str = INVALID_REQUEST, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """`{"error": {…}}` with OpenAI's four fields."""
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def error_body(
    message: str, *, type_: str = INVALID_REQUEST, code: str | None = None, param: str | None = None
) -> bytes:
    """The same as JSON bytes."""
    return json.dumps(error_object(message, type_=type_, code=code, param=param), ensure_ascii=False).encode()


def error_event(message: str, *, code: str) -> bytes:
    """An SSE event that carries an error; clients must look for it, `[DONE]` follows all the same."""
    return b"data: " + error_body(message, type_=SERVER_ERROR, code=code) + b"\n\n"


def is_error_event(event: bytes) -> bool:
    """Whether an SSE event carries an error instead of a chunk."""
    return event.startswith((b'data: {"error"', b'data: {"object":"error"'))
