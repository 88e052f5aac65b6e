"""Usage records: built per request, delivered in batches off the request path.

Order of delivery: memory → Redis stream; while Redis is away, memory → spool on disk → Redis. Both the queue
and the spool are bounded; what fits nowhere is counted and the gateway goes on serving. A record can be
delivered twice (a spool drained again after a crash) but never with another id: readers keep the first.
No prompt, answer or key is ever part of a record.
"""

import asyncio
import json
import logging
import time
from collections import deque
from typing import Any

from serving.cluster.spool import Spool

log = logging.getLogger("ray.serve")
STREAM = "raydeck:usage"
# About 400 bytes each; a collector that is away for long loses the oldest first, never our memory.
STREAM_LENGTH = 1_000_000
QUEUE_LENGTH = 100_000
BATCH = 500
FLUSH_EVERY_S = 0.25
REDIS_TIMEOUT_S = 2.0
RETRY_REDIS_AFTER_S = 1.0


class UsageRecorder:
    """Takes records at once, delivers them in the background. One per gateway replica."""

    def __init__(self, *, redis_url: str | None, spool: Spool) -> None:
        self._redis_url = redis_url
        self._spool = spool
        self._queue: deque[str] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._client: Any = None
        self._redis_away_until = 0.0
        self.unrecorded = 0

    def start(self) -> None:
        """Begins delivering; needs a running event loop."""
        self._task = asyncio.create_task(self._deliver_for_ever())

    def add(self, record: dict[str, Any]) -> None:
        """Queues one record; never waits, never raises."""
        if len(self._queue) >= QUEUE_LENGTH:
            self.unrecorded += 1
            return
        self._queue.append(json.dumps(record, separators=(",", ":")))
        if len(self._queue) >= BATCH:
            self._wake.set()

    def state(self) -> dict[str, Any]:
        """What an operator wants to know about delivery."""
        return {
            "queued": len(self._queue),
            "spooled_bytes": self._spool.size_bytes(),
            "unrecorded": self.unrecorded,
            "redis": "off" if not self._redis_url else "away" if self._redis_away_until else "ok",
        }

    async def close(self) -> None:
        """Delivers what is left, then lets go of Redis."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._flush()
        if self._client is not None:
            await self._client.aclose()

    async def _deliver_for_ever(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), FLUSH_EVERY_S)
            except TimeoutError:  # the usual case: nothing urgent, flush what came in
                log.debug("usage: flush")
            self._wake.clear()
            try:
                await self._flush()
                await self._drain_spool()
            except Exception:
                # Delivery must outlive any surprise; the records concerned are counted in _keep.
                log.exception("usage: delivery failed, going on")

    async def _flush(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            try:
                if not await self._send(batch):
                    await self._keep(batch)
            except asyncio.CancelledError:
                # Ended in the middle: close() sends them again, readers keep the first of each id.
                self._queue.extendleft(reversed(batch))
                raise

    async def _keep(self, batch: list[str]) -> None:
        try:
            kept = await asyncio.to_thread(self._spool.append, batch)
        except OSError as error:
            log.warning("usage: spool not writable: %s", error)
            kept = 0
        self.unrecorded += len(batch) - kept

    async def _drain_spool(self) -> None:
        if self._redis_away_until and not await self._send([]):
            return
        while (claim := await asyncio.to_thread(self._spool.claim)) is not None:
            for start in range(0, len(claim.records), BATCH):
                if not await self._send(claim.records[start : start + BATCH]):
                    await asyncio.to_thread(claim.give_back)
                    return
            await asyncio.to_thread(claim.done)

    async def _send(self, batch: list[str]) -> bool:
        """Appends a batch to the stream (an empty one only asks whether Redis is there)."""
        if not self._redis_url or (self._redis_away_until and time.monotonic() < self._redis_away_until):
            return False
        try:
            await self._append(batch)
        except Exception as error:  # whatever the client raises, Redis counts as away for a moment
            if not self._redis_away_until:
                log.warning("usage: Redis is away (%s), records go to the spool", type(error).__name__)
            self._redis_away_until = time.monotonic() + RETRY_REDIS_AFTER_S
            return False
        if self._redis_away_until:
            log.info("usage: Redis is back")
        self._redis_away_until = 0.0
        return True

    async def _append(self, batch: list[str]) -> None:
        if self._client is None:
            from redis.asyncio import Redis  # 60 ms; not at import, so that a replica answers sooner

            self._client = Redis.from_url(
                str(self._redis_url),
                socket_timeout=REDIS_TIMEOUT_S,
                socket_connect_timeout=REDIS_TIMEOUT_S,
            )
        if not batch:
            await self._client.ping()
            return
        async with self._client.pipeline(transaction=False) as pipeline:
            for record in batch:
                pipeline.xadd(STREAM, {"r": record}, maxlen=STREAM_LENGTH, approximate=True)
            await pipeline.execute()
