"""Delivers queued messages to the alert webhook, with retries; every attempt is written down.

A message is a row, so that neither a killed worker nor a lost broker loses one; it may come twice when a
worker dies between sending and writing, and carries its id for that. A lease lets one delivery act. No
transaction is open while sending. What the other side answers is never kept.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import uuid

from django.conf import settings
from django.db import close_old_connections
from django.db.models import F

from console import secrets
from console.models import AlertWebhook, DeliveryStatus, WebhookDelivery
from console.slo import webhook
from serving.webhook import DEADLINE_S, Outcome, deliver
from workers import lease

log = logging.getLogger(__name__)

LEASE = "webhooks"
BACK_OFF_S = (10, 30, 120, 600, 1800, 3600, 3 * 3600)
"""Seconds until the next attempt; after the last one a message is given up, about 5 hours after the first."""
AT_ONCE = 10
TURN_S = 60.0
LEASE_TTL_S = TURN_S + 2 * DEADLINE_S
KEPT_S = 30 * 86_400


def deliver_in_turn() -> None:
    """The task: take the lease or return, send what is due."""
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    if not WebhookDelivery.objects.filter(status=DeliveryStatus.QUEUED, next_at__lte=time.time()).exists():
        return
    token = lease.acquire(LEASE, holder=holder, ttl_s=LEASE_TTL_S, now=time.time())
    if token is None:
        return
    try:
        deliver_due(time.time())
    finally:
        lease.release(LEASE, token=token)
        close_old_connections()


def deliver_due(now: float) -> int:
    """Send up to AT_ONCE due messages, oldest first; how many were tried. Old rows are dropped."""
    hook = webhook()
    due = WebhookDelivery.objects.filter(status=DeliveryStatus.QUEUED, next_at__lte=now)
    started, tried = time.monotonic(), 0
    for row in due.order_by("created_at")[:AT_ONCE]:
        if time.monotonic() - started > TURN_S:
            break
        _note(row, _send(row, hook), time.time())
        tried += 1
    WebhookDelivery.objects.filter(created_at__lt=now - KEPT_S).delete()
    return tried


def _send(row: WebhookDelivery, hook: AlertWebhook) -> Outcome:
    if not hook.url or not hook.has_secret or (row.event != "test" and not hook.enabled):
        return Outcome(None, "The webhook is switched off.")
    try:
        secret = secrets.decrypt(hook.secret_encrypted)
    except secrets.SecretError:
        return Outcome(None, "The stored secret cannot be read; enter it again.")
    timestamp = int(time.time())
    body = json.dumps({"id": str(row.pk), "sent_at": timestamp, **row.body}, separators=(",", ":")).encode()
    return deliver(
        url=hook.url,
        body=body,
        headers={"X-Raydeck-Delivery": str(row.pk), "X-Raydeck-Event": row.event},
        secret=secret,
        timestamp=timestamp,
        allow_private=settings.WEBHOOK_ALLOW_PRIVATE,
    )


def _note(row: WebhookDelivery, outcome: Outcome, now: float) -> None:
    tries = row.attempts + 1
    # A test shows its outcome at once: whoever pressed the button waits for it.
    is_last = row.event == "test" or tries > len(BACK_OFF_S)
    failed = DeliveryStatus.FAILED if is_last else DeliveryStatus.QUEUED
    status = failed if outcome.error else DeliveryStatus.DELIVERED
    WebhookDelivery.objects.filter(pk=row.pk, status=DeliveryStatus.QUEUED).update(
        attempts=F("attempts") + 1,
        status=status,
        last_status=outcome.status,
        last_error=outcome.error[:200],
        next_at=now + BACK_OFF_S[min(tries, len(BACK_OFF_S)) - 1],
        finished_at=None if status == DeliveryStatus.QUEUED else now,
    )
    log.info("webhook event=%s attempt=%d status=%s error=%s", row.event, tries, status, outcome.error or "-")
