"""The gateway: OpenAI's API in front of every deployment, as one Serve application of its own.

Raw ASGI; a request's JSON is parsed once and its bytes are handed to the engine's replica; every piece of the
answer goes to the caller on its own, as it comes. Keys and models come from the document's `user_config`; the
pepper, the usage stream and the spool from the environment. Works without console, database and Redis.
Must stay light (no pydantic, no FastAPI, no ray.serve.llm): a replica starts in seconds and its first line of
defence is being up. Design and figures: docs/decisions/0001-gateway.md.
"""

import asyncio
import logging
import os
import time
import uuid
from typing import Any
from urllib.parse import unquote

from ray import serve
from ray.serve import Application

from serving.cluster.completions import Completions
from serving.cluster.handles import Handles
from serving.cluster.limits import Limiter
from serving.cluster.listing import card, cards
from serving.cluster.loopback import bind_replica_port_to_node_address
from serving.cluster.replies import Receive, Scope, Send, send_error, send_json
from serving.cluster.request_ids import HEADER as REQUEST_ID_HEADER
from serving.cluster.request_ids import SCOPE_KEY
from serving.cluster.requests import MAX_BODY_BYTES, BadRequest, bearer_key, headers_of, read_body
from serving.cluster.routes import Route, route_of
from serving.cluster.spool import Spool, folder_for
from serving.cluster.table import KeyEntry, Table, read_table
from serving.cluster.timeline import Timeline
from serving.cluster.usage import UsageRecorder
from serving.cluster.waiting import publish_for_ever
from serving.gateway_paths import POSTED, STREAMED

log = logging.getLogger("ray.serve")
MODELS_PATH = "/v1/models"
HEALTH_PATH = "/healthz"
BODY_WITHIN_S = 60.0
LONGEST_USER = 128


class GatewayApp:
    """The ASGI application. `table` is replaced as a whole when the configuration changes."""

    def __init__(self, *, pepper: str, recorder: UsageRecorder, handles: Handles, limiter: Limiter) -> None:
        self.table = Table()
        self._pepper = pepper
        self._recorder = recorder
        self._limiter = limiter
        self._completions = Completions(handles=handles, recorder=recorder, limiter=limiter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        if SCOPE_KEY not in scope:  # a cluster that was started without our middleware
            scope[SCOPE_KEY] = uuid.uuid4().hex
            send = _with_request_id(send, scope[SCOPE_KEY])
        path = scope["path"].rstrip("/") or "/"
        try:
            await self._route(scope, receive, send, path)
        except Exception:
            # Callers get words of ours, never Serve's page with a traceback.
            log.exception("gateway: unexpected error")
            await send_error(send, 500, "The gateway failed on this request.", code="internal_error")

    async def _route(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        if path in POSTED:
            await self._complete(scope, receive, send, POSTED[path])
        elif path == HEALTH_PATH:
            await self._health(send)
        elif path == MODELS_PATH or path.startswith(MODELS_PATH + "/"):
            await self._models(scope, send, path)
        else:
            await send_error(
                send, 404, f"Unknown address: {scope['method']} {_printable(path)}", code="unknown_url"
            )

    async def _complete(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        line = Timeline(
            request_id=scope[SCOPE_KEY], path=path, started_at=time.time(), started=time.monotonic()
        )
        headers = headers_of(scope["headers"])
        key = self._key(headers)
        if key is None:
            await _unauthorised(send, has_key=bearer_key(headers) is not None)
            return
        line.key_id = key.id
        if key.is_internal:
            line.user = headers.get("x-raydeck-user", "")[:LONGEST_USER] or None
        try:
            if key.expires_at is not None and line.started_at >= key.expires_at:
                raise BadRequest("This API key has expired.", status=401, code="invalid_api_key")
            if scope["method"] != "POST":
                raise BadRequest(f"Use POST for {path}.", status=405, code="method_not_allowed")
            body = await _read(receive, headers)
            asked = read_body(body)
            line.stream = asked.stream and path in STREAMED
            line.deployment = asked.model[:LONGEST_USER]
            route = self._routed(asked.model, key)
        except BadRequest as error:
            await self._refuse(send, line, error)
            return
        try:
            await self._completions.serve(route, key, line, body, send)
        except BaseException as error:
            self._completions.account_for_lost(line, error)
            raise
        finally:
            if line.limits and not line.is_left:  # nothing accounted for it: a surprise on the way
                self._limiter.finish(line.request_id, line.limits, tokens=0)

    def _key(self, headers: dict[str, str]) -> KeyEntry | None:
        plaintext = bearer_key(headers)
        return None if plaintext is None else self.table.key_for(plaintext, pepper=self._pepper)

    def _routed(self, model: str, key: KeyEntry) -> Route:
        route = route_of(self.table, model, may_use=key.may_use)
        if route is None:
            raise BadRequest(
                f"The model `{_printable(model)}` does not exist or you do not have access to it.",
                status=404,
                code="model_not_found",
                param="model",
            )
        return route

    async def _refuse(self, send: Send, line: Timeline, error: BadRequest) -> None:
        record = line.record(
            time.monotonic(),
            status=error.status,
            outcome="refused",
            error_class=error.code or "invalid_request",
        )
        self._recorder.add(record)
        await send_error(
            send,
            error.status,
            error.message,
            code=error.code,
            param=error.param,
            type_=error.type,
            retry_after_s=error.retry_after_s,
            extra=line.headers(time.monotonic(), whole=True),
        )

    async def _models(self, scope: Scope, send: Send, path: str) -> None:
        headers = headers_of(scope["headers"])
        key = self._key(headers)
        if key is None:
            await _unauthorised(send, has_key=bearer_key(headers) is not None)
            return
        if key.expires_at is not None and time.time() >= key.expires_at:
            await send_error(send, 401, "This API key has expired.", code="invalid_api_key")
            return
        if scope["method"] != "GET":
            await send_error(send, 405, "Use GET here.", code="method_not_allowed")
            return
        if path == MODELS_PATH:
            await send_json(send, {"object": "list", "data": cards(self.table, may_use=key.may_use)})
            return
        try:
            name = unquote(path.removeprefix(MODELS_PATH + "/"))
            await send_json(send, card(self.table, name, self._routed(name, key)))
        except BadRequest as error:
            await send_error(send, error.status, error.message, code=error.code, param=error.param)

    async def _health(self, send: Send) -> None:
        state = {
            "status": "ok",
            "models": len(self.table.models),
            "usage": self._recorder.state(),
            "limits": self._limiter.state(),
        }
        await send_json(send, state)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._recorder.start()
                self._limiter.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._completions.finish()
                await self._recorder.close()
                await self._limiter.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


class Gateway:
    """The Serve deployment around `GatewayApp`."""

    def __init__(self) -> None:
        bind_replica_port_to_node_address()
        replica = serve.get_replica_context().replica_id.unique_id
        pepper = os.environ.get("RAYDECK_KEY_PEPPER", "")
        redis_url = os.environ.get("RAYDECK_USAGE_REDIS_URL") or None
        folder = folder_for(given=os.environ.get("RAYDECK_SPOOL_DIR"), pepper=pepper, redis_url=redis_url)
        recorder = UsageRecorder(redis_url=redis_url, spool=Spool(folder, writer=replica))
        if not pepper:
            log.error("gateway: RAYDECK_KEY_PEPPER is not set, every key will be refused")
        limiter = Limiter(redis_url=redis_url)
        self._handles = Handles()
        self._app = GatewayApp(pepper=pepper, recorder=recorder, handles=self._handles, limiter=limiter)

    async def __serve_build_asgi_app__(self) -> GatewayApp:
        """Serve's hook: the ASGI application of this replica."""
        self._publishing = asyncio.create_task(
            publish_for_ever(self._handles, lambda: self._app.table.models.values())
        )
        return self._app

    async def reconfigure(self, user_config: Any) -> None:
        """Serve's hook: a new table, in place. Must never raise, or every model would be gone."""
        table = read_table(user_config)
        if table.unreadable:
            log.error("gateway: %d entries of the configuration cannot be read", table.unreadable)
        self._app.table = table
        log.info("gateway: models=%d keys=%d", len(table.models), len(table.keys))


def build_gateway(args: dict[str, Any]) -> Application:
    """The application `gateway`; `args` is empty, everything comes through `user_config`."""
    deployment = serve.deployment(
        serve.ingress()(Gateway),
        name="Gateway",
        # Takes no share of the cluster's counted CPUs: those are for engines.
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=10_000,
        max_queued_requests=-1,
        health_check_period_s=5,
        graceful_shutdown_timeout_s=120,
        # One usage record per request says more than Serve's access log, at less cost.
        logging_config={"enable_access_log": False},
    )
    return deployment.bind()


async def _read(receive: Receive, headers: dict[str, str]) -> bytes:
    """The whole body. Raises BadRequest for one that is too long or too slow."""
    length = headers.get("content-length", "")
    too_long = BadRequest(
        f"The body is longer than {MAX_BODY_BYTES} bytes.", status=413, code="request_too_large"
    )
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        raise too_long
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise BadRequest("The body did not arrive.", status=400)
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > MAX_BODY_BYTES:
                    raise too_long
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise BadRequest("The body did not arrive in time.", status=408, code="request_timeout") from None


def _with_request_id(send: Send, request_id: str) -> Send:
    async def send_with_id(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (REQUEST_ID_HEADER, request_id.encode())]
        await send(message)

    return send_with_id


async def _unauthorised(send: Send, *, has_key: bool) -> None:
    message = "Incorrect API key provided." if has_key else "Send an API key: `Authorization: Bearer …`."
    await send_error(send, 401, message, code="invalid_api_key")


def _printable(text: str) -> str:
    """A caller's own words, given back safely: short and without control characters."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:120])
