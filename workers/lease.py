"""Leases in the database: at most one reconciler and one collector act at a time.

A lease carries a token that grows with every acquisition. A holder that stalled past its time finds its
token outdated, so `holds` fences its late writes off. Must never be held across a sleep without renewal.
"""

from django.db import transaction
from django.db.models import F

from console.models import Lease


def acquire(name: str, *, holder: str, ttl_s: float, now: float) -> int | None:
    """Take the lease for `ttl_s` seconds; its token, or None while somebody else holds it.

    The present holder gets its own lease prolonged under a new token.
    """
    Lease.objects.get_or_create(name=name)
    with transaction.atomic():
        lease = Lease.objects.select_for_update().get(name=name)
        if lease.expires_at > now and lease.holder != holder:
            return None
        lease.holder = holder
        lease.token += 1
        lease.expires_at = now + ttl_s
        lease.save()
        return lease.token


def renew(name: str, *, token: int, ttl_s: float, now: float) -> bool:
    """Prolong the lease if the token is still the current one."""
    return Lease.objects.filter(name=name, token=token).update(expires_at=now + ttl_s) == 1


def release(name: str, *, token: int) -> None:
    """Give the lease back at once, unless somebody else has taken it since."""
    Lease.objects.filter(name=name, token=token).update(expires_at=0.0, token=F("token") + 1)


def holds(name: str, *, token: int, now: float) -> bool:
    """Whether the token is current and not expired. Call it inside the transaction that writes."""
    return (
        Lease.objects.select_for_update().filter(name=name, token=token, expires_at__gt=now).first()
        is not None
    )
