"""One id per request, chosen by us, in the usage record and in the `x-request-id` of the answer.

Serve takes a caller's own `x-request-id` as its id and always adds it to the answer. A caller who repeats one
would have all but the first request dropped from the ledger, so this middleware, outermost in Serve's HTTP
server (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH), replaces it before Serve looks.
"""

import uuid

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

SCOPE_KEY = "raydeck.request_id"
HEADER = b"x-request-id"


class OwnRequestIds:
    """ASGI middleware: a fresh id in the scope and in place of the request's header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "http":
            request_id = uuid.uuid4().hex
            headers = [pair for pair in scope["headers"] if pair[0].lower() != HEADER]
            headers.append((HEADER, request_id.encode()))
            scope = {**scope, "headers": headers, SCOPE_KEY: request_id}
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """What Serve's callback wants."""
    return [Middleware(OwnRequestIds)]
