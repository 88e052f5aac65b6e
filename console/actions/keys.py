"""Writes on gateway keys and their limits. The plaintext is returned once and stored nowhere."""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from console import live, secrets
from console.actions.deployments import validated
from console.differences import words
from console.events import Actor, record
from console.models import SMOKE_KEY, ApiKey, Deployment, KeyKind
from console.wakeup import wake_reconciler
from serving import keys
from serving.errors import Conflict, InvalidSpec, NotFound
from serving.limits import KeyLimits

INTERNAL_PURPOSES = ("playground", SMOKE_KEY)


def create_key(*, actor: Actor, name: str, limits: dict[str, Any] | None = None) -> tuple[ApiKey, str]:
    """A new key and its plaintext, which the caller must show now or never."""
    name = _checked_name(name)
    stored = make_key_limits(limits or {}).stored()
    plaintext = keys.new_key()
    with transaction.atomic():
        key = ApiKey.objects.create(
            name=name,
            digest=keys.digest_of(key=plaintext, pepper=secrets.key_pepper()),
            prefix=keys.shown_prefix(plaintext),
            limits=stored,
            created_by=actor.user,
        )
        _noted(actor, key, kind="key.created", message=f"Key “{name}” created", after=stored or None)
    return key, plaintext


def edit_key(
    *,
    actor: Actor,
    key_id: int,
    expected_version: int,
    name: str | None = None,
    limits: dict[str, Any] | None = None,
) -> ApiKey:
    """Change a key's name or limits; of limits a partial map is enough, null takes one away.

    In force as soon as the new table has reached the gateway (about a second). Raises Conflict when the key's
    version is not the expected one: nothing is changed then.
    """
    key = find_key(key_id)
    if key.version != expected_version:
        raise _conflict(key)
    new_name = key.name if name is None else _checked_name(name)
    before = dict(key.limits)
    after = make_key_limits({**before, **(limits or {})}, known=before.get("deployments")).stored()
    if (new_name, after) == (key.name, before):
        return key
    with transaction.atomic():
        written = ApiKey.objects.filter(pk=key.pk, version=expected_version, revoked_at=None).update(
            name=new_name, limits=after, version=F("version") + 1
        )
        if not written:
            raise _conflict(key)
        old_name = key.name
        key.refresh_from_db()
        said = [f"renamed from “{old_name}”"] if new_name != old_name else []
        said += [words(before, after)] if after != before else []
        _noted(
            actor,
            key,
            kind="key.edited",
            message=f"Key “{key.name}”: {', '.join(said)}",
            before={"name": old_name, "limits": before},
            after={"name": key.name, "limits": after},
        )
    return key


def find_key(key_id: int) -> ApiKey:
    """A live key of a caller; raises NotFound."""
    key = ApiKey.objects.filter(pk=key_id, kind=KeyKind.USER, revoked_at=None).first()
    if key is None:
        raise NotFound("There is no such key.")
    return key


def make_key_limits(given: dict[str, Any], *, known: list[str] | None = None) -> KeyLimits:
    """KeyLimits from a form's or the API's map; raises InvalidSpec with the field. Deployments must exist,
    but for those the key names already."""
    limits = validated(KeyLimits, given)
    wanted = set(limits.deployments or ()) - set(known or ())
    missing = wanted - set(Deployment.objects.filter(name__in=wanted).values_list("name", flat=True))
    if missing:
        raise InvalidSpec(f"There is no deployment called {min(missing)}.", field="deployments")
    return limits


def revoke_key(*, actor: Actor, key_id: int) -> ApiKey:
    """Revoke a key; the gateway refuses it as soon as the new table has reached it (about a second)."""
    with transaction.atomic():
        revoked = ApiKey.objects.filter(pk=key_id, kind=KeyKind.USER, revoked_at=None).update(
            revoked_at=timezone.now()
        )
        key = ApiKey.objects.filter(pk=key_id, kind=KeyKind.USER).first()
        if key is None:
            raise NotFound("There is no such key.")
        if revoked:
            _noted(actor, key, kind="key.revoked", message=f"Key “{key.name}” revoked")
    return key


def ensure_internal_keys() -> None:
    """Make the console's own keys known to the gateway. They are derived from the pepper, not stored."""
    pepper = secrets.key_pepper()
    for purpose in INTERNAL_PURPOSES:
        digest = keys.digest_of(key=keys.internal_key(pepper=pepper, purpose=purpose), pepper=pepper)
        if ApiKey.objects.filter(digest=digest).exists():
            continue
        try:
            with transaction.atomic():
                ApiKey.objects.filter(name=purpose, kind=KeyKind.INTERNAL).delete()
                ApiKey.objects.create(name=purpose, digest=digest, prefix="internal", kind=KeyKind.INTERNAL)
        except IntegrityError:
            continue  # another process was first: the row is there, which is all that is wanted


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= 80:
        raise InvalidSpec(
            "Give the key a name of 1 to 80 characters, such as the app that will use it.", field="name"
        )
    return name


def _conflict(key: ApiKey) -> Conflict:
    now = ApiKey.objects.filter(pk=key.pk, revoked_at=None).first()
    if now is None:
        return Conflict(f"Somebody revoked {key.name} in the meantime.", current={})
    return Conflict(
        f"Somebody changed {now.name} while you were editing; nothing of yours was saved."
        " Compare both and save again.",
        current={"version": now.version, "values": {"name": now.name, **now.limits}},
    )


def _noted(
    actor: Actor, key: ApiKey, *, kind: str, message: str, before: Any = None, after: Any = None
) -> None:
    record(
        actor=actor,
        kind=kind,
        message=message,
        subject_kind="key",
        subject_name=key.name,
        before=before,
        after=after,
    )
    live.publish_changed(["keys"], "keys")
    wake_reconciler()
