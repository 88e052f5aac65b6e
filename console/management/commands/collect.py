"""`python manage.py collect`: runs the collector until SIGINT or SIGTERM."""

import asyncio
import logging
import os
import signal
import socket
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from serving.client import RayClient
from workers.collect import Collector
from workers.ray_pages import RayPages

log = logging.getLogger(__name__)

REDIS_TIMEOUT_S = 1.0
PAGE_TIMEOUT_S = 4.0


class Command(BaseCommand):
    """Samples every second, and the usage ledger. Only one collector acts at a time; others wait."""

    help = "Collect metrics and usage records once a second (a lease lets only one collector act)."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the loop; returns after SIGINT or SIGTERM."""
        asyncio.run(_collect())


async def _collect() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    redis = Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        # The loop itself is the retry: the next second tries again.
        retry=Retry(NoBackoff(), 0),
    )
    client = RayClient.from_token_file(
        settings.RAY_DASHBOARD_URL, settings.RAY_TOKEN_FILE, timeout_s=PAGE_TIMEOUT_S
    )
    pages = RayPages(client)
    log.info("collector start pid=%d", os.getpid())
    try:
        await Collector(redis=redis, pages=pages, holder=f"{socket.gethostname()}:{os.getpid()}").run(stop)
    finally:
        pages.close()
        client.close()
        await redis.aclose()
    log.info("collector stop pid=%d", os.getpid())
