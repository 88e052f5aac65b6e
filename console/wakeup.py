"""Hints to the workers, sent by task name after commit. A lost hint costs at most one beat (5 s)."""

import logging

from django.db import transaction

from console.celery import app

log = logging.getLogger(__name__)

BROKER_PATIENCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}


def wake_reconciler() -> None:
    """Ask for a reconcile as soon as the current transaction is committed."""
    transaction.on_commit(lambda: send_task("workers.reconcile", expires=5))


def wake_webhooks() -> None:
    """Ask for the waiting messages to be sent as soon as the current transaction is committed."""
    transaction.on_commit(lambda: send_task("workers.webhooks", expires=10))


def send_task(name: str, *args: object, expires: float | None = None) -> bool:
    """Send a task by name; False, with a log line, when the broker is away."""
    try:
        app.send_task(name, args=args, expires=expires, retry=True, retry_policy=BROKER_PATIENCE)
    except Exception as error:  # kombu raises its transports' own classes; the beat makes up for any of them
        log.warning("wake lost task=%s error=%s", name, type(error).__name__)
        return False
    return True
