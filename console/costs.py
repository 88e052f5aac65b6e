"""What deployments cost, from replicas' lives and price changes. Reads only; the arithmetic is in
serving/cost.py. Every figure is an exact Decimal in US dollars; times are epoch seconds.

A replica costs from its claim of accelerators to its end, whether or not it answers requests.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import accumulate

from django.db.models import OuterRef, Q, Subquery

from console.models import Deployment, PriceChange, Replica
from serving import cost
from serving.cost import Life, Price, in_usd


@dataclass(frozen=True)
class CostBook:
    """Replicas' lives and prices, by deployment id, loaded in two queries whatever the number of rows."""

    lives: dict[int, list[Life]] = field(default_factory=dict)
    prices: dict[int, list[Price]] = field(default_factory=dict)

    def units_by_deployment(self, *, start: float | None = None, end: float) -> dict[int, int]:
        """Trillionths of a dollar of all lives within [start, end), by deployment id."""
        return {
            pk: sum(
                cost.cost_units(life, prices=self.prices.get(pk, ()), start=start, end=end) for life in lives
            )
            for pk, lives in self.lives.items()
        }

    def units(self, *, start: float | None = None, end: float) -> int:
        """The same of all deployments together."""
        return sum(self.units_by_deployment(start=start, end=end).values())

    def usd(self, *, start: float | None = None, end: float) -> Decimal:
        """The same in dollars."""
        return in_usd(self.units(start=start, end=end))

    def usd_at(self, moments: Sequence[float]) -> list[Decimal]:
        """Dollars spent up to each moment; `moments` must ascend. Only the moments within a life are reckoned
        one by one: before it there is nothing, after it always the same."""
        units = [0] * len(moments)
        settled = [0] * (len(moments) + 1)
        for pk, lives in self.lives.items():
            prices = self.prices.get(pk, ())
            for life in lives:
                born = bisect_left(moments, life.started_at)
                over = len(moments) if life.ended_at is None else bisect_left(moments, life.ended_at)
                for i in range(born, over):
                    units[i] += cost.cost_units(life, prices=prices, end=moments[i])
                if over < len(moments):
                    settled[over] += cost.cost_units(life, prices=prices, end=moments[over])
        return [in_usd(now + past) for now, past in zip(units, accumulate(settled[:-1]), strict=True)]


def book(*, deployment: Deployment | None = None, ended_after: float | None = None) -> CostBook:
    """The book of one deployment, or of all; with `ended_after` only lives that reached beyond it."""
    replicas = Replica.objects.filter(deployment__isnull=False)
    if deployment is not None:
        replicas = replicas.filter(deployment_id=deployment.pk)
    if ended_after is not None:
        replicas = replicas.filter(Q(ended_at=None) | Q(ended_at__gt=ended_after))
    lives: dict[int, list[Life]] = {}
    claims = replicas.values_list("deployment_id", "started_at", "ended_at", "accelerators")
    for pk, started_at, ended_at, accelerators in claims:
        lives.setdefault(pk, []).append(Life(started_at, ended_at, accelerators))
    return CostBook(lives, prices_by_deployment(deployment))


def prices_by_deployment(deployment: Deployment | None = None) -> dict[int, list[Price]]:
    """Prices in order of time, by deployment id, of one deployment or of all. One query."""
    changes = PriceChange.objects.order_by("from_at", "pk")
    if deployment is not None:
        changes = changes.filter(deployment_id=deployment.pk)
    prices: dict[int, list[Price]] = {}
    dated = changes.values_list("deployment_id", "from_at", "price_per_accelerator_hour_usd")
    for pk, from_at, price_usd in dated:
        prices.setdefault(pk, []).append(Price(from_at, price_usd))
    return prices


def cost_so_far_usd(deployment: Deployment, now: float) -> Decimal:
    """Dollars that all replicas of a deployment have cost up to now. Two queries."""
    return book(deployment=deployment).usd(end=now)


def month_to_date_usd(now: float) -> Decimal:
    """Dollars of all deployments since the first of the month, UTC. Two queries."""
    start = month_start(now)
    return book(ended_after=start).usd(start=start, end=now)


def month_start(now: float) -> float:
    """Epoch seconds at which the month of `now` began, UTC."""
    month = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return month.timestamp()


def running_cost_per_hour_usd(deployment: Deployment | None) -> Decimal:
    """Dollars per hour of the replicas that live now, of one deployment or (None) of all, those of a deleted
    one that still drain included: at the newest price, as in every other figure here. One query."""
    replicas = Replica.objects.filter(ended_at=None, deployment__isnull=False)
    if deployment is not None:
        replicas = replicas.filter(deployment_id=deployment.pk)
    changes = PriceChange.objects.filter(deployment_id=OuterRef("deployment_id")).order_by("-from_at", "-pk")
    newest = Subquery(changes.values("price_per_accelerator_hour_usd")[:1])
    claims = replicas.annotate(price_usd=newest).values_list("accelerators", "price_usd")
    return sum((Decimal(claimed) * price for claimed, price in claims if price is not None), Decimal(0))
