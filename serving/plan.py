"""Decides whether the Serve document has to be sent, and says why. Pure; the heart of the reconciler.

Ray cancels a build that is repeated with the same document, so "send it every tick" is wrong: a document is
sent when its digest changed, or when drift is proven.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serving.observed import SeenApp

SETTLE_S = 60.0
"""After a PUT, missing or unwanted apps are Ray still working, not drift."""


@dataclass(frozen=True)
class LastPut:
    """What was last sent: its digest (empty: never) and when, epoch seconds."""

    digest: str
    at: float | None


@dataclass(frozen=True)
class Decision:
    """Whether to PUT, and the reason in words for logs and the console."""

    put: bool
    reason: str


def decide(
    *,
    wanted_digest: str,
    wanted_apps: frozenset[str],
    seen_apps: dict[str, str],
    last_put: LastPut,
    rejected_digest: str,
    now: float,
) -> Decision:
    """Compare what is wanted with what Ray shows. `seen_apps`: app name -> Ray's status word, of declarative
    applications only: others are none of our business."""
    if wanted_digest == rejected_digest:
        return Decision(False, "Ray rejected this document; waiting for a change")
    if not last_put.digest:
        return Decision(True, "never sent")
    if wanted_digest != last_put.digest:
        return Decision(True, "document changed")
    if not seen_apps and wanted_apps:
        return Decision(True, "Ray has no applications; it was restarted")
    if last_put.at is not None and now - last_put.at < SETTLE_S:
        return Decision(False, "sent recently")
    live = {name for name, status in seen_apps.items() if status != "DELETING"}
    missing = sorted(wanted_apps - live)
    unwanted = sorted(live - wanted_apps)
    deploying = [name for name in wanted_apps if seen_apps.get(name) == "DEPLOYING"]
    if deploying and not missing:
        return Decision(False, "still deploying")
    if missing:
        return Decision(True, f"missing on Ray: {', '.join(missing)}")
    if unwanted:
        return Decision(True, f"not wanted any more: {', '.join(unwanted)}")
    return Decision(False, "nothing to do")


def foreign_apps(apps: Iterable[SeenApp], *, installation: str) -> list[str]:
    """Declarative apps that somebody else put on this cluster, another console included. A PUT of ours would
    delete them."""
    return sorted(
        app.name for app in apps if app.source == "declarative" and app.installation != installation
    )
