"""One connection of the gateway to Redis for limits: many questions at once, none waits long.

Everything asked within one turn of the event loop goes out in one write, and answers come back in order. A
question that is not answered in ANSWER_WITHIN_S means that Redis is away: all that wait get None at once, and
until it is back everybody gets None without waiting. Reconnects by itself and says `hello` each time. Written
on redis-py's Connection, since its pipelines cost five times the CPU for one short command.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

log = logging.getLogger("ray.serve")
ANSWER_WITHIN_S = 0.5
# A turn of this very event loop that took long is not Redis's: answers that have come get read first.
GRACE_S = 0.05
CONNECT_WITHIN_S = 1.0
HELLO_WITHIN_S = 10.0
RETRY_AFTER_S = 0.5
BEAT_EVERY_S = 1.0


class LinkBroken(Exception):
    """The connection is of no use any more; the words say why."""


def packed(*parts: str | bytes | int) -> bytes:
    """One command in Redis's protocol."""
    out = [b"*%d\r\n" % len(parts)]
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode()
        out += (b"$%d\r\n" % len(raw), raw, b"\r\n")
    return b"".join(out)


class Link:
    """Asks and tells. `hello` runs on each new connection before anybody else may ask; `beat` every second;
    either may raise LinkBroken to have a new connection made."""

    def __init__(
        self,
        url: str | None,
        *,
        hello: Callable[[], Awaitable[None]],
        beat: Callable[[], Awaitable[None]],
    ) -> None:
        self.state = "off" if not url else "away"
        self._url = url
        self._hello, self._beat = hello, beat
        self._out: list[bytes] = []
        self._wake = asyncio.Event()
        self._waiting: deque[tuple[float, asyncio.Future[Any] | None]] = deque()
        self._settled = asyncio.Event()
        self._watch: asyncio.TimerHandle | None = None
        self._was_up = False
        self._task: asyncio.Task[None] | None = None
        self._session_task: asyncio.Task[None] | None = None
        self.since = time.monotonic()

    def start(self) -> None:
        """Connects and stays connected, in the background."""
        if self._url and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._stay_connected())

    async def close(self) -> None:
        """Lets go of Redis after what was told has gone out."""
        if self._task is None:
            return
        if self.state == "ok":
            await self.put(packed("PING"))
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def settled(self) -> bool:
        """Whether Redis can be asked; waits for a first or a repeated connection, but not for long."""
        if self.state == "ok":
            return True
        if self._task is not None and not self._settled.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), ANSWER_WITHIN_S)
        return self.state == "ok"

    def put(self, command: bytes) -> "asyncio.Future[Any]":
        """Sends a command; the future becomes its answer, None when there will be none."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._enqueue(command, future)
        return future

    def tell(self, command: bytes) -> None:
        """Sends a command whose answer nobody waits for; dropped while Redis is away."""
        if self.state == "ok":
            self._enqueue(command, None)

    def renew(self) -> None:
        """Has a new connection made: what this one knows is out of date."""
        if self.state == "ok":
            self._lost("renewed")
            if self._session_task is not None:
                self._session_task.cancel()

    def _enqueue(self, command: bytes, future: "asyncio.Future[Any] | None") -> None:
        self._out.append(command)
        self._waiting.append((time.monotonic(), future))
        self._wake.set()
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(ANSWER_WITHIN_S, self._look_at_oldest)

    def _look_at_oldest(self, given_grace: bool = False) -> None:
        self._watch = None
        if not self._waiting:
            return
        left_s = self._waiting[0][0] + ANSWER_WITHIN_S - time.monotonic()
        if left_s > 0 or not given_grace:
            wait_s = max(left_s, GRACE_S)
            self._watch = asyncio.get_running_loop().call_later(wait_s, self._look_at_oldest, left_s <= 0)
            return
        self._lost("no answer in time")
        self._settled.set()  # the next connection may take as long: nobody waits for it
        if self._session_task is not None:
            self._session_task.cancel()

    async def _stay_connected(self) -> None:
        while True:
            self._was_up = False
            session = self._session_task = asyncio.get_running_loop().create_task(self._session())
            try:
                await asyncio.wait({session})
            finally:
                session.cancel()
            self._lost(_reason(None if session.cancelled() else session.exception()))
            if not self._was_up:  # it never came up: do not hammer
                self._settled.set()
                await asyncio.sleep(RETRY_AFTER_S)

    async def _session(self) -> None:
        connection = await self._connected()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(connection))
                tasks.create_task(self._read(connection))
                async with asyncio.timeout(HELLO_WITHIN_S):
                    await self._hello()
                self._is_up()
                while True:
                    await asyncio.sleep(BEAT_EVERY_S)
                    await self._beat()
        finally:
            await connection.disconnect(nowait=True)

    def _is_up(self) -> None:
        self._was_up = True
        if self.state != "ok":
            log.info("limits: shared through Redis after %.1f s", time.monotonic() - self.since)
            self.state, self.since = "ok", time.monotonic()
        self._settled.set()

    def _lost(self, why: str) -> None:
        if self.state == "ok":
            log.warning("limits: Redis is away (%s), limits hold per gateway replica", why)
            self.state, self.since = "away", time.monotonic()
            self._settled.clear()
        self._out.clear()
        waiting, self._waiting = self._waiting, deque()
        for _, future in waiting:
            if future is not None and not future.done():
                future.set_result(None)

    async def _connected(self) -> Any:
        from redis.asyncio import ConnectionPool  # 60 ms; not at import, so that a replica answers sooner
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        pool = ConnectionPool.from_url(str(self._url), protocol=2, retry=Retry(NoBackoff(), 0))
        connection = pool.make_connection()
        async with asyncio.timeout(CONNECT_WITHIN_S):
            await connection.connect()
        # Deadlines are kept here, for all at once; redis-py's cost a timer for every command.
        connection.socket_timeout = None
        return connection

    async def _write(self, connection: Any) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._out:
                data, self._out = b"".join(self._out), []
                await connection.send_packed_command(data, check_health=False)

    async def _read(self, connection: Any) -> None:
        while True:
            answer = await connection.read_response(timeout=math.inf)
            if not self._waiting:
                raise LinkBroken("an answer nobody asked for")
            _, future = self._waiting.popleft()
            if future is not None and not future.done():
                future.set_result(answer)


def _reason(error: BaseException | None) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__ if error else "connection renewed"
