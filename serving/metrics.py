"""A node's metrics page -> the few figures Raydeck charts, per replica. Pure; fetches and stores nothing.

Ray serves one text page per node (about 1 MB with one replica), refreshed every report interval. Only wanted
lines are looked at, and only the label that joins them, so one page costs about a millisecond.

What is known of these pages (Ray 2.60, vLLM 0.29): vLLM's series carry `ReplicaId` but no application; a
counter that never moved is missing and means 0; a gauge disappears two report intervals after it was last
set, and vLLM sets its gauges only while it works: an idle engine has none. Serve's own count of requests in
a replica is always there, so `settled` tells idle from unknown by it. Counters of dead replicas stay;
histograms' `_sum` is made of bucket midpoints, so latencies are never taken from here but from the gateway's
usage records.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

GAUGES: dict[str, str] = {
    "ray_vllm_num_requests_running": "requests_running",
    "ray_vllm_num_requests_waiting": "requests_waiting",
    "ray_vllm_kv_cache_usage_perc": "kv_cache_usage",
    "ray_serve_replica_processing_queries": "requests_in_flight",
    "ray_raydeck_weights_bytes": "weights_bytes",
    "ray_raydeck_kv_cache_bytes": "kv_cache_bytes",
    "ray_raydeck_process_memory_bytes": "process_memory_bytes",
}
"""Series -> figure of one replica, as it is now. `kv_cache_usage` is a share from 0 to 1 despite its name."""

ENGINE_GAUGES = ("requests_running", "requests_waiting", "kv_cache_usage")
"""What vLLM says while it works."""

COUNTERS: dict[str, str] = {
    "ray_vllm_prompt_tokens_total": "prompt_tokens",
    "ray_vllm_generation_tokens_total": "completion_tokens",
}
"""Series -> figure of one replica, counted since its engine started."""

QUEUED = "ray_raydeck_callers_waiting"
"""Callers that wait at a gateway for a replica to take them, per application (serving/cluster/waiting.py)."""

MEANS = frozenset({"kv_cache_usage"})
"""Figures of which several series of one replica make a mean; all others make a sum."""

LONGEST_GAP_S = 10.0
"""A counter's growth over a longer time than this says nothing of any second in it: it is a gap."""

_LABEL = re.compile(r'(ReplicaId|replica|application)="((?:[^"\\]|\\.)*)"')
_PREFIXES = ("ray_vllm_", "ray_raydeck_", "ray_serve_replica_processing_queries")

CounterKey = tuple[str, str]
"""Series name and its label text, exactly as on the page: one process's own counter."""


@dataclass
class Page:
    """What one page said. `gauges`: replica id -> figure -> value. `counters`: key -> (replica id, value)."""

    gauges: dict[str, dict[str, float]] = field(default_factory=dict)
    counters: dict[CounterKey, tuple[str, float]] = field(default_factory=dict)
    queued: dict[str, float] = field(default_factory=dict)


def read_page(text: str) -> Page:
    """Read the wanted series of one metrics page. A line that cannot be read is as good as missing."""
    page = Page()
    parts: dict[tuple[str, str], list[float]] = {}
    for line in text.split("\n"):
        if line.startswith(_PREFIXES):
            _read_line(line, page, parts)
    for (replica_id, figure), values in parts.items():
        total = sum(values)
        value = total / len(values) if figure in MEANS else total
        page.gauges.setdefault(replica_id, {})[figure] = value
    return page


def settled(figures: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """One replica's figures with those of its engine filled in where the page has none.

    Nothing in the replica: the engine idles, so nothing runs, waits or holds the cache. Something in it: the
    engine is in a long step, and `before`, its figures of a moment ago, still hold.
    """
    in_flight = figures.get("requests_in_flight")
    if in_flight is None:
        return dict(figures)
    if in_flight == 0:
        return {**dict.fromkeys(ENGINE_GAUGES, 0.0), **figures}
    return {**{name: before[name] for name in ENGINE_GAUGES if name in before}, **figures}


def _read_line(line: str, page: Page, parts: dict[tuple[str, str], list[float]]) -> None:
    name, _, rest = line.partition("{")
    if name not in GAUGES and name not in COUNTERS and name != QUEUED:
        return
    labels_text, _, value_text = rest.rpartition("}")
    value = _number(value_text)
    if value is None:
        return
    labels = dict(_LABEL.findall(labels_text))
    if name == QUEUED:
        application = labels.get("application", "")
        page.queued[application] = page.queued.get(application, 0.0) + value
        return
    replica_id = labels.get("ReplicaId") or labels.get("replica", "")
    if not replica_id:
        return
    if name in GAUGES:
        parts.setdefault((replica_id, GAUGES[name]), []).append(value)
        return
    page.counters[(name, labels_text)] = (replica_id, value)


def _number(text: str) -> float | None:
    """The value behind the labels; a timestamp may follow it. None for NaN, infinities and nonsense."""
    fields = text.split()
    if not fields:
        return None
    try:
        value = float(fields[0])
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


class CounterDeltas:
    """Turns counters into growth per second since the previous reading of the same page.

    Readings are about a second apart; where one was missed, what grew in two seconds is shared between them.
    A counter that shrank was restarted and has grown by its present value. One that is new on a page that
    was read a moment ago started at 0 in between. After a gap, or on the first reading, nothing is known of
    the time before: such a reading only sets the base.
    """

    def __init__(self) -> None:
        self._values: dict[str, dict[CounterKey, float]] = {}
        self._read_at: dict[str, float] = {}

    def grown(self, *, target: str, page: Page, now: float) -> dict[str, dict[str, float]] | None:
        """Growth per second since the last reading of `target`: replica id -> figure -> tokens; None when
        unknown.

        A replica without counters is not in the map: it has grown by 0.
        """
        before_at = self._read_at.get(target)
        before = self._values.get(target, {})
        self._read_at[target] = now
        self._values[target] = {key: value for key, (_, value) in page.counters.items()}
        if before_at is None or not 0 <= now - before_at <= LONGEST_GAP_S:
            return None
        return _growth(before, page.counters, seconds=max(1, round(now - before_at)))

    def forget_except(self, targets: set[str]) -> None:
        """Drop pages that no longer exist."""
        for target in self._read_at.keys() - targets:
            del self._read_at[target]
            del self._values[target]


def _growth(
    before: Mapping[CounterKey, float], counters: Mapping[CounterKey, tuple[str, float]], *, seconds: int
) -> dict[str, dict[str, float]]:
    growth: dict[str, dict[str, float]] = {}
    for key, (replica_id, value) in counters.items():
        last = before.get(key, 0.0)
        delta = (value - last if value >= last else value) / seconds
        figures = growth.setdefault(replica_id, {})
        figure = COUNTERS[key[0]]
        figures[figure] = figures.get(figure, 0.0) + delta
    return growth
