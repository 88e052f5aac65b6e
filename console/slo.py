"""How deployments stand against their objectives: what pages and API say of it. Reads only.

The worker evaluates every EVALUATED_EVERY_S (workers/slo.py); an evaluation that is older than STALE_S says
nothing about now, and never makes a deployment "over SLO".
"""

from __future__ import annotations

import math
from typing import Any

from console import formats
from console.models import Alert, AlertWebhook, Deployment, Slo, SloStatus
from serving.slo import WORDS, SloSpec

FIELDS = tuple(SloSpec.model_fields)
EVALUATED_EVERY_S = 30.0
STALE_S = 120.0


def spec_of(deployment: Deployment) -> SloSpec:
    """The deployment's objectives; without a row, none."""
    row: Slo | None = getattr(deployment, "slo", None)
    return SloSpec.model_validate({} if row is None else {field: getattr(row, field) for field in FIELDS})


def standing(deployment: Deployment, now: float) -> dict[str, Any]:
    """The JSON of GET /api/v1/deployments/NAME/slo: what is promised, how it stands, open alerts."""
    spec = spec_of(deployment)
    status: SloStatus | None = getattr(deployment, "slo_status", None)
    age_s = None if status is None else max(0.0, now - status.evaluated_at)
    judged = [] if status is None else status.objectives
    return {
        "version": deployment.version,
        "slo": spec.model_dump(),
        "evaluated_at": None if status is None else status.evaluated_at,
        "age_s": age_s,
        "stale": age_s is None or age_s > STALE_S,
        "objectives": [row for row in judged if row["objective"] in spec.objectives],
        "is_over": is_over(deployment, now),
        "open_alerts": list(deployment.alerts.filter(resolved_at=None)),
    }


def is_over(deployment: Deployment, now: float) -> bool:
    """Whether a p95 missed its objective in the last five minutes, as far as anybody looked lately."""
    status: SloStatus | None = getattr(deployment, "slo_status", None)
    if status is None or now - status.evaluated_at > STALE_S:
        return False
    wanted = spec_of(deployment).objectives
    return any(row["is_over"] and row["objective"] in wanted for row in status.objectives)


def alert_words(alert: Alert) -> str:
    """One line for people: what burns, how fast, over which window."""
    what = WORDS[alert.objective]
    return (
        f"{what[0].upper()}{what[1:]}: the error budget burns {alert.burn_rate:.1f} times too fast "
        f"({_window(alert.long_window_s)} and {_window(alert.short_window_s)})"
    )


def alert_body(alert: Alert, event: str) -> dict[str, Any]:
    """What the webhook is sent of an alert."""
    return {
        "event": event,
        "alert": {
            "id": alert.pk,
            "deployment": alert.deployment_name,
            "objective": alert.objective,
            "speed": alert.speed,
            "message": alert_words(alert),
            "burn_rate": alert.burn_rate,
            "factor": alert.factor,
            "long_window_s": alert.long_window_s,
            "short_window_s": alert.short_window_s,
            "target": alert.target,
            "limit_s": alert.limit_s,
            "opened_at": alert.opened_at,
            "resolved_at": alert.resolved_at,
            "reason": alert.reason,
        },
    }


def webhook() -> AlertWebhook:
    """The one webhook; an unsaved, empty one before it was set up."""
    return AlertWebhook.objects.filter(pk=1).first() or AlertWebhook(pk=1)


def _window(seconds: int) -> str:
    return f"{seconds // 3600} h" if seconds % 3600 == 0 else f"{seconds // 60} min"


def card_rows(standing: dict[str, Any]) -> list[dict[str, Any]]:
    """The objectives as the card shows them: what is promised, what was, and the budget as a bar."""
    return [_card_row(row) for row in standing["objectives"]]


def promise_words(objective: str, limit_s: float | None, target: float) -> str:
    """Such as "TTFT p95 at most 500 ms", "99% of TPOT at most 40 ms" or "99.5% answered"."""
    if limit_s is None:
        return f"{share_text(target)} answered"
    word, limit = objective.upper(), formats.ms(limit_s)
    return (
        f"{word} p95 at most {limit}" if target == 0.95 else f"{share_text(target)} of {word} at most {limit}"
    )


def share_text(share: float | None) -> str:
    """A share near one, never rounded up to it: 99.95%, 95%."""
    if share is None:
        return formats.MISSING
    text = f"{math.floor(share * 10_000 + 1e-6) / 100:.2f}".rstrip("0").rstrip(".")
    return f"{text}%"


def _card_row(row: dict[str, Any]) -> dict[str, Any]:
    left = row["budget_left"]
    colour = "ok" if left is None or left > 0.25 else "warn" if left > 0 else "bad"
    if left is None:
        words = "no request told it yet"
    elif left >= 0:
        words = f"{math.floor(left * 100)}% of the error budget left"
    else:
        words = f"{1 - left:,.1f} times the error budget spent"
    hour = row["burn_rates"].get("3600")
    return {
        **row,
        "title": promise_words(row["objective"], row["limit_s"], row["target"]),
        "held": formats.ms(row["held_limit_s"]) if row["limit_s"] else "",
        "good": share_text(row["good_share"]),
        "words": words,
        "colour": colour,
        "width": f"{100 * min(1.0, max(0.0, 1.0 if left is None else left)):.2f}",
        "burn": formats.MISSING if hour is None else f"{hour:.1f}×",
    }
