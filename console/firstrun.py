"""What the first start of an installation makes: an administrator, the console's own keys, the demo model.

Idempotent: every start calls it, and only what is missing is made.
"""

import os
import secrets as random_source
from dataclasses import dataclass

from django.db import transaction

from console.actions.keys import ensure_internal_keys
from console.actions.models import register_model
from console.events import SYSTEM, record
from console.models import Event, RegisteredModel, Role, SourceKind, User
from console.paths import PROJECT_ROOT

DEMO_FOLDER = PROJECT_ROOT / "serving" / "demo" / "model"
DEMO_NAME = "demo"
ADMIN_NAME = "admin"


@dataclass(frozen=True)
class FirstRun:
    """`password`: the generated one, to be shown once; None when it was given or people exist already."""

    password: str | None


def ensure_first_run() -> FirstRun:
    """Create what is missing; safe to call at every start and by two processes at once."""
    ensure_internal_keys()
    password = _ensure_administrator()
    _ensure_demo()
    return FirstRun(password)


def _ensure_administrator() -> str | None:
    with transaction.atomic():
        if User.objects.exists():
            return None
        given = os.environ.get("RAYDECK_ADMIN_PASSWORD", "")
        password = given or random_source.token_urlsafe(12)
        User.objects.create_user(ADMIN_NAME, password=password, role=Role.ADMIN)
        record(
            actor=SYSTEM,
            kind="user.created",
            message="First administrator created",
            subject_kind="user",
            subject_name=ADMIN_NAME,
        )
    return None if given else password


def _ensure_demo() -> None:
    # Only once: an operator who deleted it does not want it back at the next start. A demo that still
    # points into an older checkout is left as it is for the same reason.
    was_here = Event.objects.filter(kind="model.registered", subject_name=DEMO_NAME).exists()
    if was_here or RegisteredModel.objects.filter(name=DEMO_NAME).exists():
        return
    if not (DEMO_FOLDER / "config.json").exists():
        return
    register_model(
        actor=SYSTEM,
        name=DEMO_NAME,
        source_kind=SourceKind.FOLDER,
        source=str(DEMO_FOLDER),
        note="A toy of about five million parameters that comes with Raydeck",
    )
