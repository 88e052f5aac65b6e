"""Writes events: the timeline and the audit log in one. Append only; never a prompt, key or token."""

from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from console import live
from console.models import Deployment, Event, User


@dataclass(frozen=True)
class Actor:
    """Who acts, and from where: the page, the API, the command line, or the system itself."""

    user: User | None
    source: str = "page"

    @property
    def name(self) -> str:
        """The name that events and revisions carry."""
        return self.user.username if self.user else "system"


SYSTEM = Actor(None, "system")


def last_writer(events: "QuerySet[Event]") -> str:
    """Who made the newest of a subject's changes; empty where only the system wrote of it.

    What the workers observe is written into the same timeline, seconds after every change: a phase that was
    reached is no edit, and nobody's.
    """
    newest = events.exclude(source=SYSTEM.source).order_by("-id").values_list("actor", flat=True).first()
    return newest or ""


def record(
    *,
    actor: Actor,
    kind: str,
    message: str,
    subject_kind: str,
    subject_name: str,
    deployment: Deployment | None = None,
    level: str = "info",
    before: Any = None,
    after: Any = None,
) -> Event:
    """Append one event and tell the pages that show it. Call it inside the transaction of the change."""
    event = Event.objects.create(
        actor=actor.name,
        source=actor.source,
        kind=kind,
        message=message[:500],
        level=level,
        subject_kind=subject_kind,
        subject_name=subject_name,
        deployment=deployment,
        before=before,
        after=after,
    )
    topics = ["overview"]
    if subject_kind == "deployment":
        topics.append(f"deployment:{subject_name}")
    live.publish_changed(topics, "events")
    return event
