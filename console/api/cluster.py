"""/cluster: the Ray cluster as last seen. Reads only."""

from __future__ import annotations

import time
from typing import Any

from django.http import HttpRequest
from ninja import Router

from console import costs, states
from console.api.outputs import ClusterOut
from console.api.routing import operation

router = Router(tags=["cluster"])


@operation(router, "GET", "", role="viewer", answer=ClusterOut)
def get_cluster(request: HttpRequest) -> dict[str, Any]:
    """Nodes, accelerators, the gateway's state and address, and what runs up in cost.

    These are observations: `age_s` says how old, `stale` that they say nothing about now.
    """
    now = time.time()
    return {
        **states.cluster_state(now),
        "cost_per_hour_usd": costs.running_cost_per_hour_usd(None),
        "month_to_date_usd": costs.month_to_date_usd(now),
    }
