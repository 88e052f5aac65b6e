"""What keys and deployments have spent today and this month (UTC), for their budgets. Reads only.

An estimate until every request carries its own exact cost: a request costs the seconds its replica worked on
it (prefill and decode by the engine's clocks, else its time from end to end without waiting) × the price of
one replica, and all requests of a deployment together cost at most what its replicas have cost in the same
time, so that requests which shared a replica share its price. Idle time is nobody's: a key is not refused for
a replica that waited for others. `spent_usd_by_key` and `spent_usd_by_deployment` are the only places to
change when RequestRecord has costs of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from django.db.models import F, Sum
from django.db.models.functions import Coalesce, Greatest

from console import costs
from console.models import ApiKey, Deployment, RequestRecord

HOUR_S = Decimal(3600)
PLACES = Decimal("0.000001")


@dataclass(frozen=True)
class Work:
    """Seconds that replicas of a deployment worked for a key."""

    deployment_id: int
    key_id: int | None
    seconds: float


def day_start(now: float) -> float:
    """Epoch seconds at which the day of `now` began, UTC."""
    return datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


def spent_usd_by_key(*, start: float, end: float) -> dict[int, Decimal]:
    """Dollars by key id within [start, end)."""
    found: dict[int, Decimal] = {}
    for work, usd in _priced(start, end):
        if work.key_id is not None:
            found[work.key_id] = found.get(work.key_id, Decimal(0)) + usd
    return {key_id: usd.quantize(PLACES) for key_id, usd in found.items()}


def spent_usd_by_deployment(*, start: float, end: float) -> dict[int, Decimal]:
    """Dollars of the requests to each deployment, by its id, within [start, end)."""
    found: dict[int, Decimal] = {}
    for work, usd in _priced(start, end):
        found[work.deployment_id] = found.get(work.deployment_id, Decimal(0)) + usd
    return {pk: usd.quantize(PLACES) for pk, usd in found.items()}


def spent_fields(now: float) -> dict[str, str]:
    """The hash that gateways compare budgets with (serving/limit_store.py), for whoever has a budget."""
    moment = datetime.fromtimestamp(now, UTC)
    fields = {"day": moment.strftime("%Y-%m-%d"), "month": moment.strftime("%Y-%m")}
    keys = [row.pk for row in ApiKey.objects.filter(revoked_at=None) if _has_budget(row.limits)]
    names = {row.pk: row.name for row in Deployment.objects.all() if _has_budget(row.limits)}
    for period, start in (("day", day_start(now)), ("month", costs.month_start(now))):
        if keys:
            by_key = spent_usd_by_key(start=start, end=now)
            fields |= {f"k:{pk}:{period}": str(by_key.get(pk, Decimal(0))) for pk in keys}
        if names:
            by_deployment = spent_usd_by_deployment(start=start, end=now)
            fields |= {
                f"d:{name}:{period}": str(by_deployment.get(pk, Decimal(0))) for pk, name in names.items()
            }
    return fields


def _has_budget(limits: dict[str, object]) -> bool:
    return any(name.startswith("budget_usd") for name in limits)


def _priced(start: float, end: float) -> list[tuple[Work, Decimal]]:
    """Work with its price: at most what the replicas of its deployment cost, shared by seconds worked."""
    works = _work(start, end)
    totals: dict[int, float] = {}
    for work in works:
        totals[work.deployment_id] = totals.get(work.deployment_id, 0.0) + work.seconds
    prices = _replica_usd_per_s()
    book = costs.book(ended_after=start)
    spent = {pk: costs.in_usd(units) for pk, units in book.units_by_deployment(start=start, end=end).items()}
    priced = []
    for work in works:
        total_s = Decimal(str(totals[work.deployment_id]))
        if total_s <= 0:
            continue
        most = min(
            total_s * prices.get(work.deployment_id, Decimal(0)), spent.get(work.deployment_id, Decimal(0))
        )
        priced.append((work, most * Decimal(str(work.seconds)) / total_s))
    return priced


def _work(start: float, end: float) -> list[Work]:
    engine_s = Coalesce(F("prefill_s"), 0.0) + Coalesce(F("engine_decode_s"), F("decode_s"), 0.0)
    waited_s = Coalesce(F("held_s"), 0.0) + Coalesce(F("gateway_s"), 0.0) + Coalesce(F("queue_s"), 0.0)
    known = Coalesce(F("e2e_s"), 0.0) - waited_s
    rows = RequestRecord.objects.filter(
        started_at__gte=start,
        started_at__lt=end,
        deployment__isnull=False,
        outcome__in=("ok", "aborted", "error"),
    )
    # A record without the engine's figures (an engine that broke off) counts what is left of its time.
    with_figures = rows.filter(prefill_s__isnull=False).values("deployment_id", "key_id")
    without = rows.filter(prefill_s__isnull=True, completion_tokens__isnull=False).values(
        "deployment_id", "key_id"
    )
    found: dict[tuple[int, int | None], float] = {}
    for query, seconds in ((with_figures, engine_s), (without, Greatest(known, 0.0))):
        for row in query.annotate(seconds=Sum(seconds)).order_by():
            place = (row["deployment_id"], row["key_id"])
            found[place] = found.get(place, 0.0) + float(row["seconds"] or 0.0)
    return [Work(deployment_id, key_id, seconds) for (deployment_id, key_id), seconds in found.items()]


def _replica_usd_per_s() -> dict[int, Decimal]:
    found: dict[int, Decimal] = {}
    for row in Deployment.objects.select_related("current_revision"):
        engine = row.current_revision.engine if row.current_revision else {}
        ranks = int(engine.get("tensor_parallel_size", 1)) * int(engine.get("pipeline_parallel_size", 1))
        found[row.pk] = row.price_per_accelerator_hour_usd * ranks / HOUR_S
    return found
