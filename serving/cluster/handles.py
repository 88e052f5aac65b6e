"""Ways to the engines: deployment handles, made when first needed, and the waking of sleeping deployments.

Nothing here raises for a deployment that does not exist: its handle simply has no replicas, and callers wait
and are refused in words. `replicas_known` reads private parts of Ray's router; where they look different it
answers None and requests are sent without asking.
"""

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ray import serve

from serving.cluster.table import ModelEntry

log = logging.getLogger("ray.serve")
# A cold start longer than this is Serve's own failure to report.
WAKE_CALL_S = 1800.0
# First answer to "when to come back", before this gateway has seen the model start: the demo model's cold
# start on 2 cores took 25 to 35 s.
UNKNOWN_COLD_START_S = 30.0
DIED = -1


@dataclass(frozen=True)
class EngineHandle:
    """The calls one deployment answers; bytes in, bytes out."""

    base: Any
    unary: Any
    stream: Any
    ping: Any
    usage_of: Any


class Handles:
    """Handles and wake calls of one gateway replica."""

    def __init__(self) -> None:
        self._handles: dict[tuple[str, str], EngineHandle] = {}
        self._wakes: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._held: Counter[tuple[str, str]] = Counter()
        self._answered: dict[tuple[str, str], int] = {}
        self._cold_start_s: dict[tuple[str, str], float] = {}

    def of(self, entry: ModelEntry) -> EngineHandle:
        """The handle of a model, made without asking the controller."""
        key = (entry.app, entry.deployment)
        handle = self._handles.get(key)
        if handle is None:
            base = serve.get_deployment_handle(entry.deployment, app_name=entry.app, _check_exists=False)
            # One routing table for all four: options() copies share it only once it is there.
            base._init()
            # Not "noop": Serve passes its own exceptions through the same serializer.
            call = {
                "request_serialization": "pickle",
                "response_serialization": "pickle",
                "_by_reference": False,
            }
            handle = self._handles[key] = EngineHandle(
                base=base,
                unary=base.options(method_name="unary", **call),
                stream=base.options(method_name="stream", stream=True, **call),
                ping=base.options(method_name="ping", **call),
                usage_of=base.options(method_name="usage_of", **call),
            )
        return handle

    async def wait_for_replica(self, entry: ModelEntry, *, timeout_s: float) -> bool:
        """Wakes a deployment without replicas and waits; True when one answers in time.

        The wake call goes on after the time is up, so that the next caller finds the model further on.
        Raises what Serve raises for a deployment that failed to deploy.
        """
        key = (entry.app, entry.deployment)
        wake = self._wakes.get(key)
        if wake is None or wake.done():
            wake = self._wakes[key] = asyncio.create_task(self._wake(entry))
            wake.add_done_callback(_retrieve)
        self._held[key] += 1
        try:
            await asyncio.wait({wake}, timeout=timeout_s)
        finally:
            self._held[key] -= 1
        if not wake.done():
            return False
        wake.result()
        return True

    def waiting(self, entry: ModelEntry) -> int:
        """Callers of this model who wait now: held here, or queued in Serve. The wake call is nobody's."""
        key = (entry.app, entry.deployment)
        handle, wake = self._handles.get(key), self._wakes.get(key)
        queued = 0 if handle is None else _queued_in_serve(handle)
        is_waking = wake is not None and not wake.done()
        return self._held[key] + max(0, queued - is_waking)

    def note_answer(self, entry: ModelEntry) -> None:
        """A replica of this revision answers here."""
        self._answered[(entry.app, entry.deployment)] = entry.revision

    def note_death(self, entry: ModelEntry) -> None:
        """The last replica did not fall asleep, it died."""
        self._answered[(entry.app, entry.deployment)] = DIED

    def may_have_slept(self, entry: ModelEntry) -> bool:
        """Whether a model without replicas sleeps, as far as this gateway knows: it may, and it was neither
        changed nor lost its engine since it last answered."""
        last = self._answered.get((entry.app, entry.deployment), entry.revision)
        return entry.sleeps and last == entry.revision

    def retry_after_s(self, entry: ModelEntry) -> int:
        """Seconds after which a refused caller should come back, from this model's own last start."""
        key = (entry.app, entry.deployment)
        return max(1, round(self._cold_start_s.get(key, UNKNOWN_COLD_START_S) / 2))

    async def _wake(self, entry: ModelEntry) -> None:
        started = time.monotonic()
        async with asyncio.timeout(WAKE_CALL_S):
            await self.of(entry).ping.remote()
        took_s = time.monotonic() - started
        if took_s > 1.0:  # less is only the routing table on its way
            self._cold_start_s[(entry.app, entry.deployment)] = took_s
            log.info("woke deployment=%s took_s=%.1f", entry.name, took_s)


def replicas_known(handle: EngineHandle) -> int | None:
    """Replicas the handle could send a request to right now; None where this Ray cannot be asked."""
    router = getattr(getattr(handle.base, "_router", None), "_asyncio_router", None)
    if router is None:
        return None
    try:
        replicas = router._active_request_router.curr_replicas
    except AssertionError:  # Ray's word for "no routing table yet"
        return 0
    except AttributeError:
        return None
    return len(replicas)


def _queued_in_serve(handle: EngineHandle) -> int:
    router = getattr(getattr(handle.base, "_router", None), "_asyncio_router", None)
    return int(getattr(getattr(router, "_metrics_manager", None), "num_queued_requests", 0))


def drop_replica(handle: EngineHandle, replica: str) -> None:
    """Ask this replica nothing more: its engine is dead, which Serve will find out some seconds later."""
    router = getattr(getattr(handle.base, "_router", None), "_asyncio_router", None)
    if router is None:
        return
    try:
        active = router._active_request_router
        for replica_id in [one for one in active.curr_replicas if one.unique_id == replica]:
            active.on_replica_actor_died(replica_id)
    except (AssertionError, AttributeError):  # no routing table, or another Ray: it is asked once more
        return


def _retrieve(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.warning("wake call ended: %s", type(task.exception()).__name__)
