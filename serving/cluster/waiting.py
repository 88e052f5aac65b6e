"""How many callers wait for each model at this gateway replica, as a metric anybody can read over HTTP.

  ray_raydeck_callers_waiting{application}  callers held for a replica, and requests queued in Serve
Serve's own count is not it: it has the wake call that goes on after its callers were refused, and lacks the
callers who are held. Every model is set each second, since a gauge that is set once is on the page for one
interval only.
"""

import asyncio
from collections.abc import Callable, Iterable

from ray.util.metrics import Gauge

from serving.cluster.handles import Handles
from serving.cluster.table import ModelEntry

PUBLISH_EVERY_S = 1.0


async def publish_for_ever(handles: Handles, models: Callable[[], Iterable[ModelEntry]]) -> None:
    """Sets the gauge of every model each second; run it as a task."""
    gauge = Gauge("raydeck_callers_waiting", description="Callers waiting", tag_keys=("application",))
    while True:
        for entry in models():
            gauge.set(handles.waiting(entry), tags={"application": entry.app})
        await asyncio.sleep(PUBLISH_EVERY_S)
