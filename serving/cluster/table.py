"""The gateway's table: which models exist, which keys are valid; from the document's `user_config`. Pure.

A broken entry must never take the gateway down (an error in Serve's `reconfigure` stops every model), so what
cannot be read is left out and counted.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from serving.keys import digest_of

LONGEST_REASON = 200
# Reasons are written for operators; callers outside must see no path, address or object of ours.
_INTERNAL = re.compile(r"(/[\w.\-]+){2,}|0x[0-9a-fA-F]{6,}|Traceback|[Aa]ctor|\bpid\b|://|File \"")


@dataclass(frozen=True)
class ModelEntry:
    """One deployment as the gateway sees it. `sleeps`: whether it may be scaled to zero when idle."""

    name: str
    app: str
    deployment: str
    revision: int
    state: str
    reason: str
    hold_s: float
    created: int
    sleeps: bool = True

    def public_reason(self) -> str:
        """The reason where it is fit for callers, else nothing."""
        text = " ".join(self.reason.split())[:LONGEST_REASON]
        return "" if _INTERNAL.search(text) else text


@dataclass(frozen=True)
class KeyEntry:
    """One API key; the key itself is never known here, only its digest."""

    id: int
    name: str
    is_internal: bool


@dataclass(frozen=True)
class Table:
    """Everything the gateway was configured with."""

    models: dict[str, ModelEntry] = field(default_factory=dict)
    keys: dict[str, KeyEntry] = field(default_factory=dict)
    unreadable: int = 0

    def key_for(self, plaintext: str, *, pepper: str) -> KeyEntry | None:
        """The entry of a key, by its peppered digest; None for an unknown key."""
        return self.keys.get(digest_of(key=plaintext, pepper=pepper))


def read_table(user_config: Any) -> Table:
    """A table from `user_config`; entries that cannot be read are counted, not raised."""
    config = user_config if isinstance(user_config, dict) else {}
    models: dict[str, ModelEntry] = {}
    keys: dict[str, KeyEntry] = {}
    unreadable = 0
    for name, entry in _items(config.get("models")):
        try:
            models[name] = _model(name, entry)
        except (KeyError, TypeError, ValueError):
            unreadable += 1
    for digest, entry in _items(config.get("keys")):
        try:
            keys[digest] = KeyEntry(int(entry["id"]), str(entry["name"]), entry.get("kind") == "internal")
        except (KeyError, TypeError, ValueError, AttributeError):
            unreadable += 1
    return Table(models, keys, unreadable)


def _items(value: Any) -> list[tuple[str, Any]]:
    return [(str(key), entry) for key, entry in value.items()] if isinstance(value, dict) else []


def _model(name: str, entry: Any) -> ModelEntry:
    return ModelEntry(
        name=name,
        app=str(entry["app"]),
        deployment=str(entry.get("deployment", "engine")),
        revision=int(entry.get("revision", 0)),
        state=str(entry.get("state", "serve")),
        reason=str(entry.get("reason") or ""),
        hold_s=max(0.0, float(entry.get("hold_s", 0.0))),
        created=int(entry.get("created", 0)),
        sleeps=bool(entry.get("sleeps", True)),
    )
