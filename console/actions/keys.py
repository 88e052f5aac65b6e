"""Writes on gateway keys. The plaintext is returned once and stored nowhere."""

from django.db import IntegrityError, transaction
from django.utils import timezone

from console import live, secrets
from console.events import Actor, record
from console.models import SMOKE_KEY, ApiKey, KeyKind
from console.wakeup import wake_reconciler
from serving import keys
from serving.errors import InvalidSpec, NotFound

INTERNAL_PURPOSES = ("playground", SMOKE_KEY)


def create_key(*, actor: Actor, name: str) -> tuple[ApiKey, str]:
    """A new key and its plaintext, which the caller must show now or never."""
    name = name.strip()
    if not 1 <= len(name) <= 80:
        raise InvalidSpec(
            "Give the key a name of 1 to 80 characters, such as the app that will use it.", field="name"
        )
    plaintext = keys.new_key()
    with transaction.atomic():
        key = ApiKey.objects.create(
            name=name,
            digest=keys.digest_of(key=plaintext, pepper=secrets.key_pepper()),
            prefix=keys.shown_prefix(plaintext),
            created_by=actor.user,
        )
        _noted(actor, key, kind="key.created", message=f"Key “{name}” created")
    return key, plaintext


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


def _noted(actor: Actor, key: ApiKey, *, kind: str, message: str) -> None:
    record(actor=actor, kind=kind, message=message, subject_kind="key", subject_name=key.name)
    live.publish_changed(["keys"], "keys")
    wake_reconciler()
