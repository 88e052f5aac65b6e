"""What keys and deployments have spent today and this month (UTC), as the gateway compares it with their
budgets. Reads only.

A key pays what its requests cost; a replica that waits for others is nobody's. A deployment pays for its
replicas, idle time included. Both come from the ledger of costs (console/spending.py): a key's figure is a
minute or two old, a deployment's is of this moment.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import get_args

from console import spending
from console.models import ApiKey, Deployment
from console.spending import Period
from serving.cost import in_usd

PLACES = Decimal("0.000001")


def spent_fields(now: float) -> dict[str, str]:
    """The hash that gateways compare budgets with (serving/limit_store.py), for whoever has a budget."""
    moment = datetime.fromtimestamp(now, UTC)
    fields = {"day": moment.strftime("%Y-%m-%d"), "month": moment.strftime("%Y-%m")}
    keys = [row.pk for row in ApiKey.objects.filter(revoked_at=None) if _has_budget(row.limits)]
    names = {row.pk: row.name for row in Deployment.objects.all() if _has_budget(row.limits)}
    for period in get_args(Period):
        if keys:
            by_key = spending.spent_units_by_key(period, now)
            fields |= {f"k:{pk}:{period}": _usd(by_key.get(pk, 0)) for pk in keys}
        if names:
            by_deployment = spending.spent_units_by_deployment(period, now)
            fields |= {f"d:{name}:{period}": _usd(by_deployment.get(pk, 0)) for pk, name in names.items()}
    return fields


def _has_budget(limits: dict[str, object]) -> bool:
    return any(name.startswith("budget_usd") for name in limits)


def _usd(units: int) -> str:
    return format(in_usd(units).quantize(PLACES), "f")
