"""Asks a gateway what became of its usage records, twice a minute, so that losses are seen without asking it
at every scrape. Where the gateway does not answer nothing is written: the age tells."""

from __future__ import annotations

import time

import httpx
from django.conf import settings
from django.db import close_old_connections

from console.models import GatewayHealth

TIMEOUT_S = 2.0
FIELDS = ("queued", "spooled_bytes", "unrecorded")


def note_gateway_health() -> bool:
    """One question; whether it was answered."""
    try:
        usage = httpx.get(f"{settings.GATEWAY_URL}/healthz", timeout=TIMEOUT_S).json()["usage"]
        values = {name: max(0, int(usage[name])) for name in FIELDS}
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False
    try:
        GatewayHealth.objects.update_or_create(pk=1, defaults={**values, "observed_at": time.time()})
    finally:
        close_old_connections()
    return True
