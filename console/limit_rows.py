"""Limits with their use as pages show them: one line per limit, with a share for its meter. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.utils import timezone

from console import formats, limit_use
from console.limit_use import Use
from console.models import ApiKey, Deployment

LINES = (
    # limit, what is used of it, words after both
    ("requests_per_minute", "requests_last_minute", "requests/min"),
    ("tokens_per_minute", "tokens_last_minute", "tokens/min"),
    ("requests_in_flight", "requests_in_flight", "in flight"),
    ("budget_usd_per_day", "spent_usd_today", "today"),
    ("budget_usd_per_month", "spent_usd_this_month", "this month"),
)


@dataclass(frozen=True)
class Line:
    """One limit: what is used of it and what there is, as people read it; `share` is None where not known."""

    name: str
    used: str
    limit: str
    words: str
    share: float | None

    @property
    def is_reached(self) -> bool:
        """Whether callers are refused for it now."""
        return self.share is not None and self.share >= 1


@dataclass(frozen=True)
class KeyRow:
    """A key with its limits."""

    key: ApiKey
    lines: list[Line]
    deployments: list[str]
    expires_at: datetime | None

    @property
    def is_expired(self) -> bool:
        """Whether callers get 401 for it."""
        return self.expires_at is not None and self.expires_at <= timezone.now()


def key_rows(keys: Sequence[ApiKey]) -> list[KeyRow]:
    """Keys with the use of their limits; one question to Redis whatever their number."""
    uses = limit_use.of_scopes({limit_use.key_scope(key.pk): key.limits for key in keys})
    return [
        KeyRow(
            key,
            lines_of(key.limits, uses.get(limit_use.key_scope(key.pk), Use())),
            list(key.limits.get("deployments") or ()),
            _moment(key.limits.get("expires_at")),
        )
        for key in keys
    ]


def deployment_lines(deployment: Deployment) -> list[Line]:
    """The limits of a deployment with their use."""
    scope = limit_use.deployment_scope(deployment.name)
    return lines_of(deployment.limits, limit_use.of_scopes({scope: deployment.limits}).get(scope, Use()))


def lines_of(limits: dict[str, Any], use: Use) -> list[Line]:
    """One line per limit that there is."""
    found = []
    for name, used_name, words in LINES:
        if limits.get(name) is None:
            continue
        limit, used = Decimal(str(limits[name])), getattr(use, used_name)
        share = None if used is None else float(used / limit) if limit else 1.0
        shown = formats.usd if name.startswith("budget") else formats.number
        found.append(Line(name, formats.MISSING if used is None else shown(used), shown(limit), words, share))
    return found


def _moment(stored: str | None) -> datetime | None:
    return None if stored is None else datetime.fromisoformat(stored)
