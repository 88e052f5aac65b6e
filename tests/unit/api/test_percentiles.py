"""GET /deployments/NAME/percentiles: any window from a minute to 30 days, named both ways."""

from __future__ import annotations

import time

import pytest

from console.models import Deployment, Sample
from tests.unit.api.conftest import Caller, error_of


def test_the_last_minutes(as_viewer: Caller, deployment: Deployment) -> None:
    at = int(time.time()) - 20
    Sample.objects.create(
        deployment=deployment, resolution_s=1, at=at, requests_ok=3, requests_failed=1, ttft={155: 3}
    )
    body = as_viewer.get("deployments/chat/percentiles?window=60").json()
    assert (body["requests"], body["failed"], body["to"] - body["from"]) == (4, 1, 61)
    assert set(body["latencies"]) == {"ttft", "tpot", "e2e", "queue"}
    assert body["latencies"]["ttft"]["count"] == 3
    assert 0.19 < body["latencies"]["ttft"]["p99_s"] < 0.21
    assert body["latencies"]["queue"]["p50_s"] is None
    named = as_viewer.get(f"deployments/chat/percentiles?from={at - 60}&to={at}").json()
    assert named["requests"] == 0


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("window=59", "window"), ("window=2592001", "window"), ("window=60&from=1", "window"),
        ("to=5", "from"), ("from=1", "from"), ("from=9e9", "from"), ("window=x", "window"),
    ],
)  # fmt: skip
def test_a_window_that_is_none_is_refused(
    query: str, field: str, as_viewer: Caller, deployment: Deployment
) -> None:
    error = error_of(as_viewer.get(f"deployments/chat/percentiles?{query}"), 400)
    assert error["field"] == field
