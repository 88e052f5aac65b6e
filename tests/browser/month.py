"""Gives a copy of the console a month of costs: `python -m tests.browser.month`, after the fleet.

Rows of the ledger as the accounting would have folded them, a day each; one deployment has an API's price.
"""

from __future__ import annotations

import random
import time
from decimal import Decimal

import django

from serving.cost import UNITS_PER_USD

DAY_S = 86_400


def main() -> None:
    """Write everything once."""
    django.setup()
    from console.models import ApiKey, CostAccounting, Deployment

    keys = [
        ApiKey.objects.create(name=name, digest=name, prefix="rd-abcdef")
        for name in ("support-bot", "analytics-batch")
    ]
    now = int(time.time())
    first = now - (time.gmtime(now).tm_mday - 1) * DAY_S
    for deployment in Deployment.objects.all():
        for at in range(first // DAY_S * DAY_S, now, DAY_S):
            _day(deployment, at, [key.pk for key in keys])
    Deployment.objects.filter(name="serving").update(
        api_input_usd_per_million_tokens=Decimal("0.15"), api_output_usd_per_million_tokens=Decimal("0.6")
    )
    CostAccounting.objects.update_or_create(pk=1, defaults={"until": now // 60 * 60 - 60})


def _day(deployment: object, at: int, keys: list[int]) -> None:
    from console.models import CostEntry

    dice = random.Random(f"{deployment}{at}")
    given = {"deployment_id": deployment.pk, "deployment_name": deployment.name, "at": at}  # type: ignore[attr-defined]
    busy = {"serving": 40, "sleeping": 6, "halted": 14}.get(deployment.name, 2)  # type: ignore[attr-defined]
    rows = [
        CostEntry(
            **given, kind="request", key_id=key, whole_usd=int(busy * dice.uniform(0.5, 1)),
            rest_units=dice.randrange(UNITS_PER_USD), requests=dice.randrange(9000),
            prompt_tokens=dice.randrange(9 * 10**6), cached_tokens=dice.randrange(10**6),
            completion_tokens=dice.randrange(6 * 10**6),
        )
        for key in keys
    ]  # fmt: skip
    idle = ("kept_warm", "scale_down_delay", "starting", "draining")
    rows += [
        CostEntry(**given, kind=kind, whole_usd=dice.randrange(6 - i), rest_units=dice.randrange(10**12))
        for i, kind in enumerate(idle)
        if dice.random() < 0.8
    ]
    CostEntry.objects.bulk_create(rows)


if __name__ == "__main__":
    main()
