"""Counters that only grow: requests by deployment, key and status, and latencies by deployment.

They are what `/metrics` shows: a scrape reads some hundred rows, however long the ledger is, and values stay
monotone across restarts and after old records were dropped. Counted with the records, in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from django.db.models import F

from console.models import LatencyTotal, RequestTotal
from console.windows import LATENCIES
from serving import histogram
from serving.usage import UsageRecord
from workers.samples import Finished, Key

COUNTED = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
Labels = tuple[str, int, int, str]


@dataclass
class _Grown:
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


def add(
    records: Iterable[UsageRecord], finished: Mapping[Key, Finished], *, known: Mapping[str, int]
) -> None:
    """Count records that are new in the ledger, and what they add to latencies. `known`: names of the
    deployments there are; others share one label. Call it in the transaction that stores the records."""
    grown: dict[Labels, _Grown] = {}
    for record in records:
        name = record.deployment if record.deployment in known else ""
        own = grown.setdefault((name, record.key_id or 0, record.status, record.outcome), _Grown())
        own.requests += 1
        own.prompt_tokens += record.prompt_tokens or 0
        own.cached_tokens += record.cached_tokens or 0
        own.completion_tokens += record.completion_tokens or 0
    for (name, key_number, status, outcome), more in sorted(grown.items()):
        labels = {
            "deployment_name": name, "key_number": key_number, "status": status, "outcome": outcome,
        }  # fmt: skip
        amounts = {field: getattr(more, field) for field in COUNTED}
        growth = {field: F(field) + amount for field, amount in amounts.items()}
        if not RequestTotal.objects.filter(**labels).update(**growth):
            RequestTotal.objects.create(**labels, **amounts)
    _add_latencies(finished)


def _add_latencies(finished: Mapping[Key, Finished]) -> None:
    ids = {pk for pk, _ in finished}
    if not ids:
        return
    rows = {
        row.deployment_id: row
        for row in LatencyTotal.objects.select_for_update().filter(deployment_id__in=ids)
    }
    missing = [LatencyTotal(deployment_id=pk) for pk in sorted(ids - rows.keys())]
    rows |= {row.deployment_id: row for row in LatencyTotal.objects.bulk_create(missing)}
    for (pk, _), part in finished.items():
        for name in LATENCIES:
            histogram.add(getattr(rows[pk], name), getattr(part, name))
            total_s = getattr(rows[pk], f"{name}_sum_s") + part.sums_s.get(name, 0.0)
            setattr(rows[pk], f"{name}_sum_s", total_s)
    fields = [*LATENCIES, *(f"{name}_sum_s" for name in LATENCIES)]
    LatencyTotal.objects.bulk_update(rows.values(), fields)
