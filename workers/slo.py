"""Judges deployments by their objectives, twice a minute: burn rates, the word "over SLO", and alerts.

All from exact counts (console/windows.py). A lease lets one evaluation act; every write is in one transaction
that proves it. An alert is a row that opens once and resolves once, an event each time, and a message to
the webhook where that is wanted. Talks to nobody outside the database.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Mapping, Sequence

from django.db import close_old_connections, transaction

from console import events, live
from console.models import Alert, Deployment, SloStatus, WebhookDelivery
from console.slo import alert_body, alert_words, spec_of, webhook
from console.wakeup import wake_webhooks
from console.windows import Window, complete_to, window
from serving.slo import (
    BURN_WINDOWS_S,
    DAY_S,
    RULES,
    Rule,
    Share,
    SloSpec,
    alert_opens,
    alert_resolves,
    factor_of,
    judged,
    share_of,
)
from workers import lease

log = logging.getLogger(__name__)

LEASE = "slo"
LEASE_TTL_S = 60.0
LATENCIES = ("ttft", "tpot")
Shares = Mapping[str, Mapping[int, Share]]
"""Objective -> window in seconds -> its share."""


def evaluate_in_turn() -> None:
    """The task: take the lease or return, evaluate once."""
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    now = time.time()
    token = lease.acquire(LEASE, holder=holder, ttl_s=LEASE_TTL_S, now=now)
    if token is None:
        return
    try:
        evaluate(now, token=token)
    finally:
        lease.release(LEASE, token=token)
        close_old_connections()


def evaluate(now: float, *, token: int) -> None:
    """Judge every deployment that has objectives; resolve alerts of those that have none any more."""
    rows = Deployment.objects.select_related("slo", "slo_status").order_by("pk")
    specs = [(row, spec) for row in rows if (spec := spec_of(row)).objectives]
    found = _windows([row.pk for row, _ in specs], specs, now)
    with transaction.atomic():
        if not lease.holds(LEASE, token=token, now=time.time()):
            return
        # First: a new deployment may carry the name of a deleted one whose alert is still open.
        _forget({row.pk: spec.objectives for row, spec in specs}, now)
        for deployment, spec in specs:
            _judge(deployment, spec, found, now)


def _windows(
    ids: Sequence[int], specs: Sequence[tuple[Deployment, SloSpec]], now: float
) -> dict[int, Window]:
    lengths = {*BURN_WINDOWS_S, *(spec.window_days * DAY_S for _, spec in specs)}
    marks = complete_to()
    return {
        length: window(ids, start=now - length, end=now, now=now, latencies=LATENCIES, marks=marks)
        for length in (sorted(lengths) if ids else ())
    }


def _judge(deployment: Deployment, spec: SloSpec, found: Mapping[int, Window], now: float) -> None:
    shares = {name: _shares(deployment, spec, name, found) for name in spec.objectives}
    judgements = [
        judged(
            spec,
            name,
            budget=own[spec.window_days * DAY_S],
            shares={length: own[length] for length in BURN_WINDOWS_S},
        )
        for name, own in shares.items()
    ]
    before: SloStatus | None = getattr(deployment, "slo_status", None)
    was_over = any(row["is_over"] for row in before.objectives) if before else False
    SloStatus.objects.update_or_create(
        deployment=deployment, defaults={"evaluated_at": now, "objectives": judgements}
    )
    if was_over != any(row["is_over"] for row in judgements):
        _tell(deployment.name)
    _follow_alerts(deployment, spec, shares, now)


def _shares(
    deployment: Deployment, spec: SloSpec, objective: str, found: Mapping[int, Window]
) -> dict[int, Share]:
    shares = {}
    for length, seen in found.items():
        own = seen.of(deployment.pk)
        shares[length] = share_of(
            spec, objective, counts=own.counts, ok=own.requests_ok, failed=own.requests_failed
        )
    return shares


def _follow_alerts(deployment: Deployment, spec: SloSpec, shares: Shares, now: float) -> None:
    open_now = {(row.objective, row.speed): row for row in deployment.alerts.filter(resolved_at=None)}
    for objective in spec.objectives:
        target, own = spec.target_of(objective), shares[objective]
        for rule in RULES:
            alert = open_now.get((objective, rule.speed))
            if alert is None and alert_opens(rule, own, target):
                _open(deployment, spec, objective, rule, burn=own[rule.long_s].burn(target) or 0.0, now=now)
            elif alert is not None and alert_resolves(rule, own, target):
                _resolve(alert, "the budget burns slowly again", now)


def _open(
    deployment: Deployment, spec: SloSpec, objective: str, rule: Rule, *, burn: float, now: float
) -> None:
    alert = Alert.objects.create(
        deployment=deployment,
        deployment_name=deployment.name,
        objective=objective,
        speed=rule.speed,
        long_window_s=rule.long_s,
        short_window_s=rule.short_s,
        factor=factor_of(rule, spec.target_of(objective)),
        target=spec.target_of(objective),
        limit_s=spec.limit_of(objective),
        burn_rate=burn,
        opened_at=now,
    )
    log.warning(
        "slo alert=opened deployment=%s objective=%s speed=%s burn=%.1f",
        deployment.name, objective, rule.speed, burn,
    )  # fmt: skip
    _note(alert, "alert.opened", alert_words(alert), "bad" if rule.speed == "fast" else "warn")


def _resolve(alert: Alert, reason: str, now: float) -> None:
    if not Alert.objects.filter(pk=alert.pk, resolved_at=None).update(resolved_at=now, reason=reason):
        return
    alert.resolved_at, alert.reason = now, reason
    log.info("slo alert=resolved deployment=%s objective=%s", alert.deployment_name, alert.objective)
    _note(alert, "alert.resolved", f"Resolved: {alert_words(alert)}; {reason}", "ok")


def _forget(objectives: Mapping[int, Sequence[str]], now: float) -> None:
    """Alerts of what is promised no more, and of deployments that are gone, are over."""
    for alert in Alert.objects.filter(resolved_at=None):
        if alert.deployment_id is None:
            _resolve(alert, "the deployment was deleted", now)
        elif alert.objective not in objectives.get(alert.deployment_id, ()):
            _resolve(alert, "the objective was taken away", now)
    SloStatus.objects.exclude(deployment_id__in=list(objectives)).delete()


def _note(alert: Alert, event: str, message: str, level: str) -> None:
    events.record(
        actor=events.SYSTEM,
        kind=event,
        message=message,
        level=level,
        subject_kind="deployment",
        subject_name=alert.deployment_name,
        deployment=alert.deployment,
        after=alert_body(alert, event)["alert"],
    )
    _tell(alert.deployment_name)
    hook = webhook()
    wanted = hook.sends_fast if alert.speed == "fast" else hook.sends_slow
    if not hook.enabled or not wanted or (event == "alert.resolved" and not hook.sends_resolved):
        return
    now = time.time()
    WebhookDelivery.objects.create(
        alert=alert, event=event, body=alert_body(alert, event), created_at=now, next_at=now
    )
    wake_webhooks()


def _tell(name: str) -> None:
    live.publish_changed(["overview", "deployments", f"deployment:{name}"], "status")
