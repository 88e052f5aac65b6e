"""Serves one completion: reach the engine, pass its answer on, account for it. Part of the gateway.

Holds the caller while a deployment wakes, turns what Serve raises into words for callers, aborts in the
engine when the caller goes away, and sees that exactly one usage record is made per request.
"""

import asyncio
import json
import logging
import time
from collections.abc import Coroutine
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from serving.cluster import openai_errors, wire
from serving.cluster.handles import EngineHandle, Handles, drop_replica, replicas_known
from serving.cluster.limits import Limiter
from serving.cluster.replies import (
    Send,
    end_events,
    send_body,
    send_error,
    send_event,
    start_events,
)
from serving.cluster.routes import Attempt, Route, attempts
from serving.cluster.table import KeyEntry, ModelEntry
from serving.cluster.timeline import Timeline
from serving.cluster.usage import UsageRecorder

log = logging.getLogger("ray.serve")
BUSY_RETRY_S = 2
USAGE_AFTER_ABORT_S = 2.0
ASK_AGAIN_S = 0.1
HELD_S = 1.0
"""Shorter waits are only the routing table on its way."""
REPLICAS_TRIED = 3
CLIENT_CLOSED_REQUEST = 499
ENGINE_FAILED_CODE = "engine_failed"
# When a caller leaves, Serve may cancel the engine's work a moment before this task.
OWN_CANCELLATION_WITHIN_S = 0.1


class Unavailable(Exception):
    """The model cannot answer now; words and headers for the caller."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int = 503,
        retry_after_s: int | None = None,
        type_: str | None = None,
        is_final: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.retry_after_s = retry_after_s
        self.type = type_
        self.is_final = is_final
        """Whether no other engine could answer either."""


class EngineGone(Exception):
    """A replica's engine is dead and the caller has been sent nothing: another replica may be asked."""

    def __init__(self, replica: str = "") -> None:
        super().__init__(replica)
        self.replica = replica


class Completions:
    """Serves completions of one gateway replica."""

    def __init__(self, *, handles: Handles, recorder: UsageRecorder, limiter: Limiter) -> None:
        self._handles = handles
        self._recorder = recorder
        self._limiter = limiter
        self._afterwards: set[asyncio.Task[None]] = set()

    async def serve(self, route: Route, key: KeyEntry, line: Timeline, body: bytes, send: Send) -> None:
        """Answers the caller and makes the usage record, whatever happens.

        An engine that cannot answer is followed by the route's next, as long as no byte has gone out.
        """
        line.alias, line.adapter = route.alias, route.adapter
        for attempt in attempts(route):
            line.deployment, line.revision = attempt.entry.name, attempt.entry.revision
            try:
                await self._admit(attempt.entry, key, line)
                await self._serve_one(attempt, line, body, send)
                return
            except Unavailable as error:
                if attempt.is_last or error.is_final:
                    await self._give_up(error, line, send)
                    return
                log.info("alias=%s passes by deployment=%s: %s", line.alias, line.deployment, error.code)
                self._leave(attempt.entry, line)

    async def _admit(self, entry: ModelEntry, key: KeyEntry, line: Timeline) -> None:
        """Counts the request under the key's limits, once, and under this deployment's, both or none.

        Raises Unavailable for the limit that is reached; only a deployment's leaves the turn to the next.
        """
        if entry.state != "serve":
            return
        wanted = tuple(one for one in key.limits_with(entry) if one not in line.limits)
        if not wanted:
            return
        try:
            refusal = await self._limiter.admit(line.request_id, wanted)
        except BaseException:  # the caller left; Redis may have counted it
            self._limiter.finish(line.request_id, wanted, tokens=0)
            raise
        if refusal is not None:
            raise Unavailable(
                refusal.message,
                code=refusal.code,
                status=429,
                retry_after_s=refusal.retry_after_s,
                type_=refusal.type,
                is_final=refusal.limits is key.limits,
            )
        line.limits += wanted

    def _leave(self, entry: ModelEntry, line: Timeline) -> None:
        """The turn goes to the next: this deployment's limits are free of the request."""
        own = tuple(one for one in line.limits if one is entry.limits)
        line.limits = tuple(one for one in line.limits if one is not entry.limits)
        if own:
            self._limiter.finish(line.request_id, own, tokens=0)
        line.meta = {}

    async def _serve_one(self, attempt: Attempt, line: Timeline, body: bytes, send: Send) -> None:
        """Raises Unavailable while nothing was sent."""
        handle = await self._ready_handle(attempt.entry, line)
        line.handed_over = time.monotonic()
        await self._answer(attempt, handle, line, body, send)

    async def _give_up(self, error: Unavailable, line: Timeline, send: Send) -> None:
        # An engine that broke off is not a refusal: the request had been taken.
        outcome = "error" if error.code in (ENGINE_FAILED_CODE, wire.ENGINE_DIED) else "refused"
        self._finish(line, status=error.status, outcome=outcome, error_class=error.code)
        await send_error(
            send,
            error.status,
            error.message,
            code=error.code,
            type_=error.type,
            retry_after_s=error.retry_after_s,
            extra=line.headers(time.monotonic(), whole=True),
        )

    def account_for_lost(self, line: Timeline, error: BaseException) -> None:
        """The record of a request that ended where nothing else makes one: its caller left while its limits
        were asked for, or something unexpected went wrong."""
        if line.is_accounted or line.is_left:
            return
        if isinstance(error, asyncio.CancelledError):
            self._finish(
                line, status=CLIENT_CLOSED_REQUEST, outcome="aborted", error_class="client_disconnected"
            )
        else:
            self._finish(line, status=500, outcome="error", error_class="internal_error")

    async def finish(self) -> None:
        """Waits for the records of requests that were aborted a moment ago."""
        if self._afterwards:
            await asyncio.wait(self._afterwards, timeout=USAGE_AFTER_ABORT_S)

    async def _ready_handle(self, entry: ModelEntry, line: Timeline) -> EngineHandle:
        """The handle of a model with at least one replica. Raises Unavailable."""
        if entry.state != "serve":
            raise _not_serving(entry)
        handle = self._handles.of(entry)
        if replicas_known(handle) != 0:
            self._handles.note_answer(entry)
            return handle
        slept = self._handles.may_have_slept(entry)
        began = time.monotonic()
        held_s = line.held_s  # by deployments tried before this one: all together get one waiting time
        try:
            is_up = await self._handles.wait_for_replica(entry, timeout_s=max(0.0, entry.hold_s - held_s))
        except (asyncio.CancelledError, Exception) as error:
            line.held_s = held_s + time.monotonic() - began
            if not await _caller_left(error):
                raise self._translated(error, entry) from None
            self._finish(
                line, status=CLIENT_CLOSED_REQUEST, outcome="aborted", error_class="client_disconnected"
            )
            raise asyncio.CancelledError from None
        line.held_s = held_s + time.monotonic() - began
        line.woke = line.held_s > HELD_S and slept
        if not is_up:
            back_in_s = self._handles.retry_after_s(entry)
            raise Unavailable(
                f"The model `{entry.name}` is starting. Try again in {back_in_s} seconds.",
                code="model_starting",
                retry_after_s=back_in_s,
            )
        return handle

    async def _answer(
        self, attempt: Attempt, handle: EngineHandle, line: Timeline, body: bytes, send: Send
    ) -> None:
        """Asks one replica, and another one where the first has lost its engine. Raises Unavailable."""
        entry = attempt.entry
        ask = self._stream if line.stream else self._unary
        for _ in range(REPLICAS_TRIED):
            try:
                return await ask(attempt, handle, line, body, send)
            except EngineGone as gone:
                log.warning("engine is gone: deployment=%s replica=%s", entry.name, gone.replica)
                drop_replica(handle, gone.replica)
                line.meta = {}  # the dead one's: who answers now has figures of its own
            if not replicas_known(handle):
                self._handles.note_death(entry)
                break
        back_in_s = self._handles.retry_after_s(entry)
        raise Unavailable(
            f"The engine of `{entry.name}` has stopped and is being started again."
            f" Try again in {back_in_s} seconds.",
            code=wire.ENGINE_DIED,
            retry_after_s=back_in_s,
        )

    async def _unary(
        self, attempt: Attempt, handle: EngineHandle, line: Timeline, body: bytes, send: Send
    ) -> None:
        response = handle.unary.remote(line.path, line.request_id, body, *attempt.served_as)
        try:
            line.meta, answer = wire.unpack(await response)
        except (asyncio.CancelledError, Exception) as error:
            if await _caller_left(error):
                self._abort(response, handle, line)
                raise asyncio.CancelledError from None
            raise self._before_anything_was_sent(error, line) from None
        _raise_if_gone(line.meta)
        status = int(line.meta.get("status") or 200)
        if attempt.passes_by(status):
            raise _cannot_answer()
        outcome = "ok" if status < 400 else "refused" if status < 500 else "error"
        self._finish(line, status=status, outcome=outcome, error_class=line.meta.get("error_class"))
        await send_body(send, answer, status=status, extra=line.headers(time.monotonic(), whole=True))

    async def _stream(
        self, attempt: Attempt, handle: EngineHandle, line: Timeline, body: bytes, send: Send
    ) -> None:
        items = handle.stream.remote(line.path, line.request_id, body, *attempt.served_as)
        started = cut_off = complete = False
        error_class = None
        try:
            async for item in items:
                kind = item[0]
                if kind == wire.META:
                    line.meta = json.loads(item[1:])
                    continue
                if kind == wire.REFUSAL:
                    if not started:
                        await self._refused(attempt, item, line, send)
                        return
                    (line.meta, _), cut_off, error_class = wire.unpack(item[1:]), True, ENGINE_FAILED_CODE
                    continue
                if not started:
                    _pass_by_if_failed(attempt, item)
                    started = True
                    await start_events(send, line.headers(time.monotonic(), whole=False))
                if openai_errors.is_error_event(item):
                    error_class = ENGINE_FAILED_CODE
                elif item == wire.DONE:
                    # Accounted for before it is sent: who hangs up on seeing it has had the whole answer.
                    complete = True
                    self._finish_stream(line, error_class)
                else:
                    line.event(time.monotonic())
                await send_event(send, item)
        except Unavailable:
            raise
        except (asyncio.CancelledError, Exception) as error:
            if await _caller_left(error):
                if not complete:
                    self._abort(items, handle, line)
                raise asyncio.CancelledError from None
            if not complete:
                if not started:
                    raise self._before_anything_was_sent(error, line) from None
                cut_off, error_class = True, self._translated(error, line).code
        if not complete:
            self._finish_stream(line, error_class)
        if cut_off:
            await send_event(send, _engine_stopped())
            await send_event(send, wire.DONE)
        await end_events(send)

    def _finish_stream(self, line: Timeline, error_class: str | None) -> None:
        outcome = "error" if error_class else "ok"
        self._finish(line, status=500 if error_class else 200, outcome=outcome, error_class=error_class)

    async def _refused(self, attempt: Attempt, item: bytes, line: Timeline, send: Send) -> None:
        line.meta, answer = wire.unpack(item[1:])
        _raise_if_gone(line.meta)
        status = int(line.meta.get("status") or 500)
        if attempt.passes_by(status):
            raise _cannot_answer()
        outcome = "refused" if status < 500 else "error"
        self._finish(line, status=status, outcome=outcome, error_class=line.meta.get("error_class"))
        await send_body(send, answer, status=status, extra=line.headers(time.monotonic(), whole=True))

    def _abort(self, response: Any, handle: EngineHandle, line: Timeline) -> None:
        """The caller is gone: stop the engine's work now, account for it afterwards."""
        response.cancel()
        line.is_left = True
        self._later(self._record_aborted(handle, line))

    async def _record_aborted(self, handle: EngineHandle, line: Timeline) -> None:
        ended = time.monotonic()
        try:
            async with asyncio.timeout(USAGE_AFTER_ABORT_S):
                # The question can overtake the cancellation on its way to the replica.
                while not line.meta:
                    line.meta = json.loads(await handle.usage_of.remote(line.request_id))
                    await asyncio.sleep(0 if line.meta else ASK_AGAIN_S)
        except Exception as error:  # the record is made all the same, without token counts
            log.info("no figures for an aborted request: %s", type(error).__name__)
        self._account(
            line,
            line.record(
                ended, status=CLIENT_CLOSED_REQUEST, outcome="aborted", error_class="client_disconnected"
            ),
        )

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._afterwards.add(task)
        task.add_done_callback(self._afterwards.discard)

    def _finish(self, line: Timeline, *, status: int, outcome: str, error_class: str | None) -> None:
        self._account(
            line, line.record(time.monotonic(), status=status, outcome=outcome, error_class=error_class)
        )

    def _account(self, line: Timeline, record: dict[str, Any]) -> None:
        """The usage record, and what it means for limits: before the caller has the last of the answer, so
        that who waits for it is not refused for it."""
        self._recorder.add(record)
        line.is_accounted = True
        limits, line.limits = line.limits, ()
        if limits:
            self._limiter.finish(line.request_id, limits, tokens=line.tokens)

    def _before_anything_was_sent(self, error: BaseException, line: Timeline) -> Exception:
        if isinstance(error, EngineGone):
            return error
        return EngineGone() if isinstance(error, RayActorError) else self._translated(error, line)

    def _translated(self, error: BaseException, about: ModelEntry | Timeline) -> Unavailable:
        """What Serve or Ray raised, in words for callers; the original goes to the log by class only."""
        name = about.name if isinstance(about, ModelEntry) else about.deployment
        if isinstance(error, BackPressureError):
            return Unavailable(
                f"The model `{name}` has too many requests waiting. Try again in a moment.",
                code="rate_limit_exceeded",
                status=429,
                retry_after_s=BUSY_RETRY_S,
            )
        if isinstance(error, DeploymentUnavailableError):
            return Unavailable(f"The model `{name}` failed to start.", code="model_failed")
        log.warning("engine call failed: deployment=%s error=%s", name, type(error).__name__)
        return Unavailable(openai_errors.ENGINE_STOPPED, code=ENGINE_FAILED_CODE, retry_after_s=BUSY_RETRY_S)


async def _caller_left(error: BaseException) -> bool:
    """Whether an engine call ended because our caller went away, and not on the engine's side: only then is
    this very task being cancelled as well."""
    if not isinstance(error, (asyncio.CancelledError, RequestCancelledError)):
        return False
    task = asyncio.current_task()
    if task is not None and task.cancelling() > 0:
        return True
    try:
        await asyncio.sleep(OWN_CANCELLATION_WITHIN_S)
    except asyncio.CancelledError:
        return True
    return False


def _raise_if_gone(meta: wire.Meta) -> None:
    if meta.get("error_class") == wire.ENGINE_DIED:
        raise EngineGone(str(meta.get("replica") or ""))


def _not_serving(entry: ModelEntry) -> Unavailable:
    what = "has failed to start" if entry.state == "failed" else "is stopped"
    reason = entry.public_reason()
    message = f"The model `{entry.name}` {what}{': ' + reason if reason else '.'}"
    return Unavailable(message, code="model_failed" if entry.state == "failed" else "model_stopped")


def _cannot_answer() -> Unavailable:
    """An engine's own failure where another deployment can be asked; no caller sees these words."""
    return Unavailable(openai_errors.ENGINE_FAILED, code=ENGINE_FAILED_CODE)


def _pass_by_if_failed(attempt: Attempt, first: bytes) -> None:
    """Raises Unavailable where a stream would begin with an error and another deployment can be asked."""
    if openai_errors.is_error_event(first) and not attempt.is_last:
        raise _cannot_answer()


def _engine_stopped() -> bytes:
    return openai_errors.error_event(openai_errors.ENGINE_STOPPED, code=ENGINE_FAILED_CODE)
