"""What Prometheus may scrape, from the database alone: no call to Ray or the gateway, a constant number of
queries.

Counters are rows that only grow (workers/totals.py), so they stay monotone across restarts. Labels are
bounded: deployments (deleted ones too), the first KEYS_MAX keys (further ones share "other"), HTTP statuses.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from console import costs, states
from console.models import (
    Alert,
    ApiKey,
    ClusterStatus,
    Deployment,
    GatewayHealth,
    LatencyTotal,
    Lease,
    RequestTotal,
    Sample,
    SloStatus,
)
from console.settled_costs import SettledCosts
from console.windows import LATENCIES
from serving import histogram
from serving.observed import PHASES

KEYS_MAX = 200
BOUND_INDICES = tuple(range(47, len(histogram.BOUNDS), 14))
"""Every 14th of our bounds, each about twice the one before, from 1 ms on: exact, and few enough to store."""
RECENT_S = 15
HELP = {
    "ttft": "Seconds from a request to its first token, at the gateway.",
    "tpot": "Seconds per output token after the first.",
    "e2e": "Seconds from a request to the end of its reply.",
    "queue": "Seconds that a request waited in the engine before its prompt was read.",
}
COUNTED = {
    "prompt_tokens": "Prompt tokens of requests.",
    "cached_tokens": "Prompt tokens that the engine had in its cache.",
    "completion_tokens": "Output tokens of requests.",
}

_costs = SettledCosts()
_costs_lock = threading.Lock()


def registry(now: float) -> CollectorRegistry:
    """A registry that collects once, at `now`."""
    found = CollectorRegistry(auto_describe=False)
    found.register(_Collector(now))
    return found


class _Collector:
    """Reads everything at `now`."""

    def __init__(self, now: float) -> None:
        self._now = now

    def describe(self) -> list[Metric]:
        """Nothing in advance: it would read the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        rows = states.deployment_states(self._now)
        names = dict(Deployment.objects.values_list("pk", "name"))
        yield from _deployments(rows)
        yield from _load(names, self._now)
        yield from _requests()
        yield from _latencies(names)
        yield from _money(rows, names, self._now)
        yield from _objectives(names)
        yield from _health(self._now)


def _deployments(rows: list[dict[str, Any]]) -> Iterator[Metric]:
    phases = GaugeMetricFamily("raydeck_deployments", "Deployments by phase.", labels=["phase"])
    for phase in PHASES:
        phases.add_metric([phase], sum(row["phase"] == phase for row in rows))
    yield phases
    for field, words in (
        ("replicas_running", "Replicas that take requests."),
        ("replicas_target", "Replicas that Serve wants now."),
        ("accelerators", "Accelerators claimed, or CPU ranks."),
    ):
        yield _gauge(f"raydeck_deployment_{field}", words, {row["name"]: row[field] for row in rows})
    over = {row["name"]: float(row["word"] == "over_slo") for row in rows}
    yield _gauge("raydeck_deployment_over_slo", "1 while a ready deployment misses an objective.", over)


def _load(names: Mapping[int, str], now: float) -> Iterator[Metric]:
    fields = {
        "requests_running": ("raydeck_requests_running", "Requests in the engines."),
        "requests_waiting": ("raydeck_requests_waiting", "Requests that wait for an engine."),
        "kv_cache_usage": ("raydeck_kv_cache_usage_ratio", "Share of the KV cache in use, 0 to 1."),
    }
    newest = Sample.objects.filter(
        deployment_id__in=list(names), resolution_s=1, at__gte=int(now) - RECENT_S, at__lte=int(now)
    ).order_by("at")
    latest: dict[str, dict[str, float]] = {field: {} for field in fields}
    for pk, *values in newest.values_list("deployment_id", *fields):
        for field, value in zip(fields, values, strict=True):
            if value is not None:
                latest[field][names[pk]] = value
    for field, (name, words) in fields.items():
        yield _gauge(name, words, latest[field])


def _requests() -> Iterator[Metric]:
    labels = _key_labels()
    requests = CounterMetricFamily(
        "raydeck_requests",
        "Requests to the gateway; outcome error with status 200 is a stream that broke off.",
        labels=["deployment", "key", "status", "outcome"],
    )
    tokens = {
        field: CounterMetricFamily(f"raydeck_{field}", words, labels=["deployment", "key"])
        for field, words in COUNTED.items()
    }
    sums: dict[tuple[str, str, str, str], int] = {}
    token_sums: dict[str, dict[tuple[str, str], int]] = {field: {} for field in COUNTED}
    for row in RequestTotal.objects.all():
        key = labels.get(row.key_number, "none" if row.key_number == 0 else "other")
        full = (row.deployment_name, key, str(row.status), row.outcome)
        sums[full] = sums.get(full, 0) + row.requests
        for field, found in token_sums.items():
            found[full[:2]] = found.get(full[:2], 0) + getattr(row, field)
    for full, count in sorted(sums.items()):
        requests.add_metric(list(full), count)
    yield requests
    for field, family in tokens.items():
        for pair, count in sorted(token_sums[field].items()):
            family.add_metric(list(pair), count)
        yield family


def _key_labels() -> dict[int, str]:
    """Key id -> "name (prefix)", as names need not be unique. The oldest, so that none changes its label."""
    rows = ApiKey.objects.order_by("pk").values_list("pk", "name", "prefix")[:KEYS_MAX]
    return {pk: f"{name} ({prefix})" for pk, name, prefix in rows}


def _latencies(names: Mapping[int, str]) -> Iterator[Metric]:
    families = {
        name: HistogramMetricFamily(f"raydeck_{name}_seconds", HELP[name], labels=["deployment"])
        for name in LATENCIES
    }
    for row in LatencyTotal.objects.filter(deployment_id__in=list(names)).order_by("deployment_id"):
        for name, family in families.items():
            buckets = cumulative(getattr(row, name))
            family.add_metric([names[row.deployment_id]], buckets, getattr(row, f"{name}_sum_s"))
    yield from families.values()


def cumulative(counts: histogram.Counts) -> list[tuple[str, float]]:
    """Prometheus' buckets, (upper bound, values up to it), from ours; the last one holds all."""
    steps = [0] * (len(BOUND_INDICES) + 1)
    for index, count in counts.items():
        steps[min(max(0, -(-(index - BOUND_INDICES[0]) // 14)), len(BOUND_INDICES))] += count
    bounds = [f"{histogram.BOUNDS[index]:.6g}" for index in BOUND_INDICES]
    return list(zip([*bounds, "+Inf"], map(float, accumulate(steps)), strict=True))


def _money(rows: list[dict[str, Any]], names: Mapping[int, str], now: float) -> Iterator[Metric]:
    with _costs_lock:
        units = _costs.book(until=now).units_by_deployment(end=now)
    # No counter: the end of a life that was noticed late takes back what was reckoned up to now, and a
    # deleted deployment's sum moves.
    spent = GaugeMetricFamily(
        "raydeck_cost_usd",
        "US dollars of replicas so far; those of deleted deployments are together.",
        labels=["deployment"],
    )
    by_name: dict[str, int] = {}
    for pk, amount in units.items():
        name = names.get(pk, "(deleted)")
        by_name[name] = by_name.get(name, 0) + amount
    for name, amount in sorted(by_name.items()):
        spent.add_metric([name], float(costs.in_usd(amount)))
    yield spent
    rates = {row["name"]: float(row["cost_per_hour_usd"]) for row in rows}
    yield _gauge("raydeck_cost_usd_per_hour", "US dollars per hour of the replicas that live now.", rates)


def _objectives(names: Mapping[int, str]) -> Iterator[Metric]:
    left = GaugeMetricFamily(
        "raydeck_slo_budget_left_ratio",
        "Share of the error budget left; below 0 it is overspent.",
        labels=["deployment", "objective"],
    )
    burn = GaugeMetricFamily(
        "raydeck_slo_burn_rate",
        "How many times too fast the error budget is used, by window.",
        labels=["deployment", "objective", "window"],
    )
    for row in SloStatus.objects.order_by("deployment_id"):
        for one in row.objectives:
            labels = [names.get(row.deployment_id, ""), one["objective"]]
            if one["budget_left"] is not None:
                left.add_metric(labels, one["budget_left"])
            for window_s, rate in one["burn_rates"].items():
                if rate is not None:
                    burn.add_metric([*labels, f"{window_s}s"], rate)
    yield left
    yield burn
    open_now = GaugeMetricFamily("raydeck_alerts_open", "Open alerts.", labels=["deployment", "speed"])
    found: dict[tuple[str, str], int] = {}
    for pair in Alert.objects.filter(resolved_at=None).values_list("deployment_name", "speed"):
        found[pair] = found.get(pair, 0) + 1
    for pair, count in sorted(found.items()):
        open_now.add_metric(list(pair), count)
    yield open_now


def _health(now: float) -> Iterator[Metric]:
    status = ClusterStatus.objects.filter(pk=1).first() or ClusterStatus()
    yield _single("raydeck_ray_reachable", "1 while Ray answers.", float(status.reachable))
    yield from _age(
        "raydeck_cluster_age_seconds", "Seconds since Ray was last seen.", status.observed_at, now
    )
    yield from _age("raydeck_reconcile_age_seconds", "Seconds since a reconcile.", status.reconciled_at, now)
    rejected = float(bool(status.rejected_digest))
    yield _single("raydeck_config_rejected", "1 while Ray rejects the wanted configuration.", rejected)
    decision = InfoMetricFamily("raydeck_reconcile_decision", "What the last reconcile decided, and why.")
    decision.add_metric([], {"decision": status.decision})
    yield decision
    expires_at = dict(Lease.objects.values_list("name", "expires_at")).get("collector", 0.0)
    yield _single("raydeck_collector_up", "1 while a collector is at work.", float(expires_at > now))
    silent_s = max(0.0, now - expires_at) if expires_at else float("nan")
    yield _single("raydeck_collector_silent_seconds", "Seconds since a collector was at work.", silent_s)
    gateway = GatewayHealth.objects.filter(pk=1).first()
    if gateway is None:
        return
    words = "Requests whose usage record was lost, since the gateway that answered last started."
    yield _single("raydeck_usage_unrecorded_requests", words, gateway.unrecorded)
    yield _single("raydeck_usage_queued_records", "Usage records in that gateway's memory.", gateway.queued)
    yield _single("raydeck_usage_spooled_bytes", "Usage records on its disk.", gateway.spooled_bytes)
    yield from _age("raydeck_gateway_age_seconds", "Seconds since that was asked.", gateway.observed_at, now)


def _gauge(name: str, words: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=["deployment"])
    for deployment, value in values.items():
        family.add_metric([deployment], value)
    return family


def _single(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value)


def _age(name: str, words: str, at: float | None, now: float) -> Iterable[Metric]:
    """An age, or nothing where it never happened."""
    return [] if at is None else [_single(name, words, max(0.0, now - at))]
