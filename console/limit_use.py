"""How much of each limit is used now, for pages and the API. Reads Redis, where the gateway's replicas count
(serving/limit_store.py), in one round trip for all scopes asked for; writes nothing.

Redis away means "not known", never zero.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import redis
from django.conf import settings

from console.models import ApiKey, ClusterStatus
from serving import limit_store as store

log = logging.getLogger(__name__)
ANSWER_WITHIN_S = 0.5
FRESH_S = 30.0


@dataclass(frozen=True)
class Use:
    """Of one scope; None where it is not known."""

    requests_last_minute: int | None = None
    tokens_last_minute: int | None = None
    requests_in_flight: int | None = None
    spent_usd_today: Decimal | None = None
    spent_usd_this_month: Decimal | None = None


def key_scope(key_id: int) -> str:
    """The scope of a key."""
    return f"k:{key_id}"


def deployment_scope(name: str) -> str:
    """The scope of a deployment."""
    return f"d:{name}"


def of_key(key: ApiKey) -> Use:
    """The use of one key's limits; what is not limited is not counted and stays None."""
    return of_scopes({key_scope(key.pk): key.limits}).get(key_scope(key.pk), Use())


def of_scopes(limits: dict[str, dict[str, Any]]) -> dict[str, Use]:
    """Scope -> use, for scope -> its stored limits; empty when Redis does not answer."""
    asked = [scope for scope, given in limits.items() if given]
    if not asked:
        return {}
    try:
        answers = _ask(asked)
    except (redis.RedisError, OSError) as error:
        log.warning("use of limits not known: %s", type(error).__name__)
        return {}
    spent = {_text(name): _text(value) for name, value in answers.pop().items()}
    return {
        scope: _use(limits[scope], answers[place * 3 : place * 3 + 3], spent, scope)
        for place, scope in enumerate(asked)
    }


def gateway_trouble(now: float | None = None) -> str:
    """Why limits are not shared by the gateway's replicas now; empty when they are, or nobody knows."""
    said = ClusterStatus.objects.filter(pk=1).values_list("gateway_limits", flat=True).first() or {}
    now = time.time() if now is None else now
    if said.get("redis") not in ("away", "off") or now - float(said.get("at") or 0) > FRESH_S:
        return ""
    return (
        "The gateway cannot reach Redis: each of its replicas keeps the limits by itself, and budgets stand"
        " at what was last read. With several replicas more may pass than the limits say."
    )


def _ask(scopes: Sequence[str]) -> list[Any]:
    seconds = time.time()
    with _client().pipeline(transaction=False) as pipeline:
        for scope in scopes:
            requests, _, tokens, flight = store.keys_of(scope)
            # The clocks of console and Redis differ by less than anybody can see in a table.
            pipeline.zcount(requests, (seconds - store.WINDOW_S) * 1e6, "+inf")
            pipeline.get(tokens)
            pipeline.zcount(flight, seconds * 1e6, "+inf")
        pipeline.hgetall(store.SPENT)
        answers: list[Any] = pipeline.execute()
    return answers


def _use(limits: dict[str, Any], counts: list[Any], spent: dict[str, str], scope: str) -> Use:
    requests, tokens, flight = counts
    today = datetime.now(UTC)
    return Use(
        requests_last_minute=int(requests) if limits.get("requests_per_minute") else None,
        tokens_last_minute=int(tokens or 0) if limits.get("tokens_per_minute") else None,
        requests_in_flight=int(flight) if limits.get("requests_in_flight") else None,
        spent_usd_today=_spent(limits, spent, scope, "day", today.strftime("%Y-%m-%d")),
        spent_usd_this_month=_spent(limits, spent, scope, "month", today.strftime("%Y-%m")),
    )


def _spent(
    limits: dict[str, Any], spent: dict[str, str], scope: str, period: str, now: str
) -> Decimal | None:
    if limits.get(f"budget_usd_per_{period}") is None or not spent.get(period):
        return None
    return Decimal(spent.get(f"{scope}:{period}", "0")) if spent[period] == now else Decimal(0)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@lru_cache(maxsize=1)
def _client() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=ANSWER_WITHIN_S, socket_connect_timeout=ANSWER_WITHIN_S
    )
