"""What limits need from the console's side, every few seconds: the money spent, written to where the gateway
reads it, and what the gateway says of its limits, written down for the pages.

The hash is replaced as a whole, in one transaction; with Redis away the gateway goes on with what it read
last.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import httpx
import redis
from django.conf import settings

from console import budgets
from console.models import ClusterStatus
from serving.limit_store import SPENT

log = logging.getLogger(__name__)
TIMEOUT_S = 2.0
BUSY_SHARE = 20
"""Summing the ledger may take at most 1/20 of the time: a long ledger is summed less often."""

_not_before = 0.0


def publish_limits(now: float | None = None) -> None:
    """One pass of the task."""
    global _not_before
    now = time.time() if now is None else now
    note_gateway(now)
    if now < _not_before:
        return
    began = time.monotonic()
    publish_spent(now)
    _not_before = now + BUSY_SHARE * (time.monotonic() - began)


def publish_spent(now: float) -> bool:
    """Write what has been spent; whether Redis took it."""
    fields = budgets.spent_fields(now)
    try:
        with redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        ) as client:
            with client.pipeline(transaction=True) as pipeline:
                pipeline.delete(SPENT)
                pipeline.hset(SPENT, mapping=dict(fields))
                pipeline.execute()
    except (redis.RedisError, OSError) as error:
        log.warning("limits spent=not written error=%s", type(error).__name__)
        return False
    return True


def note_gateway(now: float) -> None:
    """Write down what the gateway says of its limits; nothing when it does not answer."""
    try:
        said: Any = httpx.get(f"{settings.GATEWAY_URL}/healthz", timeout=TIMEOUT_S).json()["limits"]
        noted = {"redis": str(said["redis"])[:10], "at": now}
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return
    ClusterStatus.objects.filter(pk=1).update(gateway_limits=noted)
