"""What was spent: sums of the ledger of costs, and what is not shared out yet. Reads only; times are epoch
seconds, amounts trillionths of a dollar (serving/cost.py: `in_usd`).

The ledger (CostEntry) reaches up to a minute or two ago. What replicas have cost since then belongs to their
deployments already, and to keys only once it is shared out. Both together are the replica-seconds × price of
console/costs.py, to the last unit.
"""

from __future__ import annotations

from typing import Literal

from django.db.models import QuerySet, Sum

from console import costs
from console.models import CostAccounting, CostEntry, Replica
from serving import cost
from serving.cost import UNITS_PER_USD, Life

Period = Literal["day", "month"]
DAY_S = 86_400
REQUEST = "request"


def spent_units_by_key(period: Period, now: float) -> dict[int, int]:
    """By API key id, what the requests of this day or month (UTC) have cost so far; 0 stands for no key.

    Idle time belongs to no key. One query; it lags behind by the minutes that are not shared out yet.
    """
    rows = entries(start=_start_of(period, now), end=now).filter(kind=REQUEST)
    return units_by(rows, "key_id")


def spent_units_by_deployment(period: Period, now: float) -> dict[int, int]:
    """By deployment id, what its replicas have cost this day or month (UTC) up to now, idle time and what is
    not shared out yet included. Three queries."""
    start = _start_of(period, now)
    spent = units_by(entries(start=start, end=now), "deployment_id")
    for pk, units in not_shared_out(start=start, end=now).items():
        spent[pk] = spent.get(pk, 0) + units
    return spent


def not_shared_out(*, start: float, end: float) -> dict[int, int]:
    """By deployment id, what replicas cost within [start, end) that the ledger does not have yet. Two
    queries, whatever the number of replicas that ever lived."""
    prices = costs.prices_by_deployment()
    waiting: dict[int, int] = {}
    rows = Replica.objects.filter(settled=False, deployment__isnull=False, started_at__lt=end)
    columns = ("deployment_id", "started_at", "ended_at", "accelerators", "accounted_until")
    for pk, started_at, ended_at, accelerators, until in rows.values_list(*columns):
        since = max(start, until or 0.0)
        if since < end:
            life = Life(started_at, ended_at, accelerators)
            units = cost.cost_units(life, prices=prices.get(pk, ()), start=since, end=end)
            waiting[pk] = waiting.get(pk, 0) + units
    return {pk: units for pk, units in waiting.items() if units}


def shared_until() -> int | None:
    """The epoch second up to which costs are shared out; None before the first time."""
    return CostAccounting.objects.filter(pk=1).values_list("until", flat=True).first()


def entries(*, start: float, end: float) -> QuerySet[CostEntry]:
    """The ledger's rows of [start, end). Old ones are kept by the day: `start` is the beginning of a day, as
    is `end`, unless it is now or later."""
    return CostEntry.objects.filter(at__gte=int(start), at__lt=end)


def units_by(rows: QuerySet[CostEntry], column: str) -> dict[int, int]:
    """Sums of ledger rows by the values of a column. One query."""
    sums = rows.values_list(column).order_by(column).annotate(Sum("whole_usd"), Sum("rest_units"))
    return {value: whole * UNITS_PER_USD + rest for value, whole, rest in sums}


def day_start(now: float) -> float:
    """The beginning of the day of `now`, UTC."""
    return float(now // DAY_S * DAY_S)


def _start_of(period: Period, now: float) -> float:
    return day_start(now) if period == "day" else costs.month_start(now)
