"""/metrics: not open, parses, counts monotonously, is cheap, and has what the example dashboard asks for."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from console import prometheus
from console.models import (
    Alert,
    ClusterStatus,
    Deployment,
    GatewayHealth,
    LatencyTotal,
    Lease,
    Sample,
    SloStatus,
)
from serving import histogram
from serving.usage import UsageRecord, read_record
from tests.unit.api.conftest import Caller
from tests.unit.workers.fleet import make_deployment, make_key, make_replica, text_of
from workers import samples, totals

DASHBOARD = Path(__file__).resolve().parents[3] / "docs" / "grafana" / "raydeck.json"
Found = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def count(records: list[UsageRecord]) -> None:
    known = dict(Deployment.objects.values_list("name", "pk"))
    finished = samples.finished_by_second(records, deployments=known, newest=2**40)
    totals.add(records, finished, known=known)


def fill() -> Deployment:
    deployment, key, now = make_deployment("chat"), make_key("ci"), time.time()
    make_replica(deployment, "r", started_at=now - 3600)
    given: dict[str, Any] = {"deployment": "chat", "key_id": key.pk, "started_at": now}
    count(
        [read_record(text_of(**given, ttft_s=0.2)) for _ in range(3)]
        + [read_record(text_of(**given, status=500, outcome="error"))]
        + [read_record(text_of(**{**given, "deployment": f"made-up-{i}", "key_id": None}, status=404,
                               outcome="refused")) for i in range(5)]
    )  # fmt: skip
    Sample.objects.create(
        deployment=deployment, resolution_s=1, at=int(now) - 1, requests_running=2, requests_waiting=0,
        kv_cache_usage=0.5,
    )  # fmt: skip
    objective = {
        "objective": "ttft",
        "budget_left": 0.25,
        "burn_rates": {"3600": 2.0, "300": None},
        "is_over": False,
    }
    SloStatus.objects.create(deployment=deployment, evaluated_at=now, objectives=[objective])
    Alert.objects.create(
        deployment=deployment, deployment_name="chat", objective="ttft", speed="fast", long_window_s=3600,
        short_window_s=300, factor=14.4, target=0.95, burn_rate=20.0, opened_at=now,
    )  # fmt: skip
    ClusterStatus.objects.create(
        pk=1, reachable=True, observed_at=now, reconciled_at=now, decision="nothing to do"
    )
    GatewayHealth.objects.create(pk=1, unrecorded=2, observed_at=now)
    Lease.objects.create(name="collector", expires_at=now + 3)
    return deployment


def scrape(caller: Caller) -> Found:
    answer = caller.get("/metrics")
    assert answer.status_code == 200 and answer["Content-Type"].startswith("text/plain")
    found: Found = {}
    for family in text_string_to_metric_families(answer.content.decode()):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert (sample.name, labels) not in found
            found[sample.name, labels] = sample.value
    return found


def value(found: Found, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def test_only_a_token_opens_it(
    client: Client, admin: Any, as_viewer: Caller, settings: Any, anonymous: Caller
) -> None:
    client.force_login(admin)
    for answer in (client.get("/metrics"), anonymous.get("/metrics"), Caller("rdt-wrong").get("/metrics")):
        assert answer.status_code == 401 and answer["WWW-Authenticate"].startswith("Bearer")
    assert as_viewer.get("/metrics").status_code == 200
    settings.METRICS_TOKEN = "a-token-for-scrapers"
    assert Caller("a-token-for-scrapers").get("/metrics").status_code == 200
    assert Caller("a-token-for-scrapers").get("me").status_code == 401
    assert Caller("a-token-for-scraper").get("/metrics").status_code == 401
    for useless in ("", "short"):
        settings.METRICS_TOKEN = useless
        assert Caller("short").get("/metrics").status_code == 401


def test_requests_latencies_money_and_health_are_there(as_viewer: Caller) -> None:
    fill()
    found = scrape(as_viewer)
    requests = {labels: count for (name, labels), count in found.items() if name == "raydeck_requests_total"}
    assert sum(requests.values()) == 9
    key = "ci (rd-abcdef)"
    assert value(found, "raydeck_requests_total", deployment="chat", key=key, status="200", outcome="ok") == 3
    # Names that callers make up share one label.
    assert (
        value(found, "raydeck_requests_total", deployment="", key="none", status="404", outcome="refused")
        == 5
    )
    assert value(found, "raydeck_completion_tokens_total", deployment="chat", key=key) == 80
    assert value(found, "raydeck_ttft_seconds_count", deployment="chat") == 3
    assert value(found, "raydeck_ttft_seconds_sum", deployment="chat") == pytest.approx(0.6)
    assert value(found, "raydeck_ttft_seconds_bucket", deployment="chat", le="+Inf") == 3
    assert value(found, "raydeck_cost_usd", deployment="chat") == pytest.approx(1.2, rel=0.01)
    assert value(found, "raydeck_slo_budget_left_ratio", deployment="chat", objective="ttft") == 0.25
    assert value(found, "raydeck_alerts_open", deployment="chat", speed="fast") == 1
    assert value(found, "raydeck_deployments", phase="queued") == 1
    assert value(found, "raydeck_reconcile_decision_info", decision="nothing to do") == 1
    assert (value(found, "raydeck_collector_up"), value(found, "raydeck_usage_unrecorded_requests")) == (1, 2)


def test_counters_only_grow_whatever_happens_to_ledger_and_samples(as_viewer: Caller) -> None:
    deployment = fill()
    before = scrape(as_viewer)
    Sample.objects.all().delete()
    prometheus._costs = prometheus.SettledCosts()  # as after a restart
    count([read_record(text_of(deployment="chat", key_id=None, started_at=time.time()))])
    after = scrape(as_viewer)
    assert LatencyTotal.objects.get(deployment=deployment).ttft
    counters = [key for key in before if key[0].endswith(("_total", "_bucket", "_count", "_sum"))]
    assert len(counters) > 50
    assert all(after[key] >= before[key] for key in counters)
    name = "raydeck_ttft_seconds_count"
    assert value(after, name, deployment="chat") == value(before, name, deployment="chat") + 1


def test_every_metric_of_the_example_dashboard_is_there(as_viewer: Caller) -> None:
    fill()
    exposed = {name for name, _ in scrape(as_viewer)}
    text = json.dumps(json.loads(DASHBOARD.read_text()))
    asked = set(re.findall(r"raydeck_[a-z0-9_]+", text))
    assert len(asked) > 20
    assert asked - exposed == set()


def test_exported_buckets_are_sums_of_ours() -> None:
    values = [0.00005, 0.001, 0.0021, 0.2, 0.9, 3.0, 50.0, 9000.0]
    counts: histogram.Counts = {}
    for one in values:
        histogram.observe(counts, one)
    buckets = prometheus.cumulative(counts)
    assert buckets[-1] == ("+Inf", len(values))
    for index, (_, held) in zip(prometheus.BOUND_INDICES, buckets, strict=False):
        assert held == sum(one < histogram.BOUNDS[index] for one in values)


def test_a_scrape_of_many_deployments_is_cheap(as_viewer: Caller, django_assert_max_num_queries: Any) -> None:
    filled = {100 + i: 50 for i in range(150)}
    for number in range(50):
        deployment = make_deployment(f"d{number}")
        LatencyTotal.objects.create(deployment=deployment, ttft=filled, tpot=filled, e2e=filled, queue=filled)
    as_viewer.get("/metrics")
    best = 1.0
    for _ in range(5):
        started = time.process_time()
        with django_assert_max_num_queries(22):
            assert as_viewer.get("/metrics").status_code == 200
        best = min(best, time.process_time() - started)
    assert best < 0.1
