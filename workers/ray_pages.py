"""Reads all metrics pages of the cluster at once, with limited patience. Decides nothing, stores nothing.

The pages come through serving/client.py, the only HTTP to Ray, which is synchronous: it runs in threads here.
A page that is slow or away is missing from the answer; the caller sees which.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from serving.errors import RaydeckError
from serving.metrics import Page, read_page

TARGETS_KEPT_S = 10.0
"""The list of pages is asked for again after this long, or after RETRY_S when nothing could be read."""

RETRY_S = 3.0

OTHER_PAGES_S = 60.0
"""Pages of Ray's own dashboard and autoscaler hold nothing wanted; they are looked at this often."""

PATIENCE_S = 4.0
THREADS = 8
OTHER_MARKS = ("\nautoscaler_", "\nray_dashboard_")
"""What only those pages hold. A node's page has no such mark of its own: its gauges come and go."""

NO_PAGE = "Ray names no metrics page"

T = TypeVar("T")


class MetricsClient(Protocol):
    """The part of serving.client.RayClient that is needed here."""

    def get_metrics_targets(self) -> list[str]:
        """Addresses of all pages."""

    def read_metrics(self, target: str) -> str:
        """The text of one page."""


@dataclass
class Scrape:
    """Pages by target, and why others are missing. `error` is set when not even one node's page was read."""

    pages: dict[str, Page] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    error: str = ""


class RayPages:
    """All metrics pages of one cluster; remembers the targets between scrapes."""

    def __init__(self, client: MetricsClient) -> None:
        self._client = client
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="scrape")
        self._targets: list[str] = []
        self._ask_again_at = 0.0
        self._problem = NO_PAGE
        self._refreshing: asyncio.Task[None] | None = None
        self._quiet_until: dict[str, float] = {}

    @property
    def targets(self) -> set[str]:
        """The pages that exist, as last heard."""
        return set(self._targets)

    async def scrape(self, now: float) -> Scrape:
        """Read all node pages; never raises for a cluster that is away, never takes much longer than
        PATIENCE_S: while there are targets to read, a new list of them comes in beside."""
        if self._refreshing is None and now >= self._ask_again_at:
            self._refreshing = asyncio.create_task(self._refresh_targets(now))
        if self._refreshing is not None and (not self._targets or self._refreshing.done()):
            await self._refreshing
            self._refreshing = None
        if not self._targets:
            return Scrape(error=self._problem)
        due = [target for target in self._targets if self._quiet_until.get(target, 0.0) <= now]
        answers = await asyncio.gather(*(self._read(target, now) for target in due))
        found = Scrape()
        for target, page, trouble in answers:
            if page is not None:
                found.pages[target] = page
            elif trouble:
                found.missing[target] = trouble
        if not found.pages:
            found.error = next(iter(found.missing.values()), self._problem or NO_PAGE)
            self._ask_again_at = min(self._ask_again_at, now + RETRY_S)
        return found

    def close(self) -> None:
        """Lets the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _refresh_targets(self, now: float) -> None:
        """Ask for the list. An old list stays in use while there is no answer."""
        try:
            self._targets = sorted(set(await self._in_thread(self._client.get_metrics_targets)))
        except (RaydeckError, TimeoutError) as error:
            self._ask_again_at = now + RETRY_S
            self._problem = _words(error)
            return
        self._ask_again_at = now + (TARGETS_KEPT_S if self._targets else RETRY_S)
        self._quiet_until = {t: until for t, until in self._quiet_until.items() if t in self._targets}
        self._problem = "" if self._targets else NO_PAGE

    async def _read(self, target: str, now: float) -> tuple[str, Page | None, str]:
        try:
            text = await self._in_thread(self._client.read_metrics, target)
        except (RaydeckError, TimeoutError) as error:
            return target, None, _words(error)
        if any(mark in text for mark in OTHER_MARKS):
            self._quiet_until[target] = now + OTHER_PAGES_S
            return target, None, ""
        return target, read_page(text), ""

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.run_in_executor(self._threads, function, *args), PATIENCE_S)


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {PATIENCE_S} s"
    return str(error) or type(error).__name__
