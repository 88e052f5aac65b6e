"""Asks every part of a copy how it is: for `manage.py doctor` and for /readyz.

Each probe takes a few seconds at most and never raises: an answer that does not come is an answer. Must not
repair anything, and no secret or internal text reaches what it says.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from django.db import connections

from console.probes.cluster import gateway, metrics_pages, ray_cluster, serve
from console.probes.local import collector, database, disk, redis_server, versions, worker
from console.probes.state import TIMEOUT_S, PartState

__all__ = ["PROBES", "TIMEOUT_S", "PartState", "probe_all"]

PROBES: dict[str, Callable[[], PartState]] = {
    "database": database,
    "redis": redis_server,
    "ray": ray_cluster,
    "serve": serve,
    "gateway": gateway,
    "metrics": metrics_pages,
    "worker": worker,
    "collector": collector,
    "disk": disk,
    "versions": versions,
}


def probe_all(names: Sequence[str] | None = None) -> list[PartState]:
    """Ask the named parts (all of PROBES by default) at the same time; answers in the order of PROBES."""
    wanted = [name for name in PROBES if names is None or name in names]
    with ThreadPoolExecutor(max_workers=len(wanted)) as pool:
        return list(pool.map(_timed, wanted))


def _timed(name: str) -> PartState:
    started = time.monotonic()
    try:
        answer = PROBES[name]()
    finally:
        # Probes run in threads of their own, whose connections nobody else would close.
        connections.close_all()
    return replace(answer, took_s=round(time.monotonic() - started, 3))
