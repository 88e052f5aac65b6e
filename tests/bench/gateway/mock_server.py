"""The engine of no cost as an OpenAI server of its own: what "direct" asks, and what LiteLLM passes on to.

`python -m tests.bench.gateway.mock_server PORT`
"""

import asyncio
import json
import sys
from typing import Any

import uvicorn

from tests.bench.gateway import answers


async def app(scope: Any, receive: Any, send: Any) -> None:
    """ASGI: any POST is a completion."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    is_stream = bool(body) and json.loads(body).get("stream") is True
    kind = b"text/event-stream; charset=utf-8" if is_stream else b"application/json"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    if not is_stream:
        await send({"type": "http.response.body", "body": answers.UNARY})
        return
    for index in range(answers.CHUNKS):
        await send({"type": "http.response.body", "body": answers.event(index), "more_body": True})
        await asyncio.sleep(answers.INTERVAL_S)
    await send({"type": "http.response.body", "body": answers.DONE})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False)
