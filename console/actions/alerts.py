"""Writes on the alert webhook, and its test message."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from console import secrets
from console.differences import words
from console.events import Actor, record
from console.models import AlertWebhook, WebhookDelivery
from console.slo import webhook
from console.wakeup import wake_webhooks
from serving.errors import Conflict, InvalidSpec
from serving.webhook import checked_url

SECRET_MIN = 16
SWITCHES = ("enabled", "sends_fast", "sends_slow", "sends_resolved")


def edit_webhook(*, actor: Actor, expected_version: int, changes: dict[str, Any]) -> AlertWebhook:
    """Change where alerts go: `url`, `secret` (a new one; None or empty keeps it), and the switches.

    Raises Conflict when somebody else changed it first.
    """
    old = webhook()
    values = {name: changes.get(name, getattr(old, name)) for name in ("url", *SWITCHES)}
    if values["url"]:
        values["url"] = checked_url(values["url"])
    secret = str(changes.get("secret") or "").strip()
    if secret and not SECRET_MIN <= len(secret) <= 200:
        raise InvalidSpec(f"Use a secret of {SECRET_MIN} to 200 characters.", field="secret")
    if values["enabled"] and not values["url"]:
        raise InvalidSpec("Give the address that alerts shall be sent to.", field="url")
    if values["enabled"] and not (secret or old.has_secret):
        raise InvalidSpec("Give a secret, so that the other side can tell who sends.", field="secret")
    if old.version != expected_version:
        raise _conflict(old)
    before = {name: getattr(old, name) for name in ("url", *SWITCHES)}
    stored = {**values, **({"secret_encrypted": secrets.encrypt(secret)} if secret else {})}
    with transaction.atomic():
        AlertWebhook.objects.get_or_create(pk=1)
        written = AlertWebhook.objects.filter(pk=1, version=expected_version).update(
            version=F("version") + 1, updated_at=timezone.now(), **stored
        )
        if not written:
            raise _conflict(webhook())
        shown_before, shown = _shown(before), _shown(values)
        said = words(shown_before, shown) or "nothing else"
        if before["url"] != values["url"] and shown_before == shown:
            said = "new address on the same host"
        record(
            actor=actor,
            kind="webhook.changed",
            message=f"Alert webhook: {said}{', new secret' if secret else ''}",
            subject_kind="webhook",
            subject_name="alerts",
            before=shown_before,
            after=shown,
        )
    return webhook()


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    """The settings as everybody may read them: many services take the whole address as the key to it."""
    return {**values, "url": urlsplit(str(values["url"])).hostname or ""}


def send_test(*, actor: Actor) -> WebhookDelivery:
    """Queue a test message; its row says what becomes of it."""
    hook = webhook()
    if not hook.url or not hook.has_secret:
        raise InvalidSpec("Save an address and a secret first.", field="url")
    now = time.time()
    with transaction.atomic():
        delivery = WebhookDelivery.objects.create(
            event="test",
            body={"event": "test", "sent_by": actor.name, "message": "A test message from Raydeck."},
            created_at=now,
            next_at=now,
        )
        record(
            actor=actor,
            kind="webhook.tested",
            message="A test message was sent to the alert webhook",
            subject_kind="webhook",
            subject_name="alerts",
        )
        wake_webhooks()
    return delivery


def _conflict(now: AlertWebhook) -> Conflict:
    return Conflict(
        "Somebody changed the webhook while you were editing; nothing of yours was saved.",
        current={"version": now.version, "values": {name: getattr(now, name) for name in ("url", *SWITCHES)}},
    )
