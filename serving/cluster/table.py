"""The gateway's table: which models exist, which keys are valid; from the document's `user_config`. Pure.

A broken entry must never take the gateway down (an error in Serve's `reconfigure` stops every model), so what
cannot be read is left out and counted.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from serving.cluster.limit_values import Limits, read_limits
from serving.cluster.routes import AliasEntry, read_alias
from serving.keys import digest_of

LONGEST_REASON = 200
SMOKE = "smoke"
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
    limits: Limits | None = None
    adapters: tuple[str, ...] = ()
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
    limits: Limits | None = None
    deployments: frozenset[str] | None = None
    expires_at: float | None = None

    def may_use(self, deployment: str) -> bool:
        """Whether this key may ask that deployment; one it may not is as unknown to it as any other name."""
        return self.deployments is None or deployment in self.deployments

    def limits_with(self, entry: ModelEntry) -> tuple[Limits, ...]:
        """What a request has to pass. The console's own keys have no limits of theirs; its smoke test, which
        proves that a deployment answers, is not to be refused by the deployment's either."""
        if self.is_internal and self.name == SMOKE:
            return ()
        if self.limits is None:
            return () if entry.limits is None else (entry.limits,)
        return (self.limits,) if entry.limits is None else (self.limits, entry.limits)


@dataclass(frozen=True)
class Table:
    """Everything the gateway was configured with."""

    models: dict[str, ModelEntry] = field(default_factory=dict)
    keys: dict[str, KeyEntry] = field(default_factory=dict)
    unreadable: int = 0
    aliases: dict[str, AliasEntry] = field(default_factory=dict)

    def key_for(self, plaintext: str, *, pepper: str) -> KeyEntry | None:
        """The entry of a key, by its peppered digest; None for an unknown key."""
        return self.keys.get(digest_of(key=plaintext, pepper=pepper))


def read_table(user_config: Any) -> Table:
    """A table from `user_config`; entries that cannot be read are counted, not raised."""
    config = user_config if isinstance(user_config, dict) else {}
    models: dict[str, ModelEntry] = {}
    keys: dict[str, KeyEntry] = {}
    aliases: dict[str, AliasEntry] = {}
    unreadable = 0
    for name, entry in _items(config.get("models")):
        try:
            models[name] = _model(name, entry)
        except (KeyError, TypeError, ValueError, ArithmeticError):
            unreadable += 1
    for digest, entry in _items(config.get("keys")):
        try:
            keys[digest] = _key(entry)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
            unreadable += 1
    for name, entry in _items(config.get("aliases")):
        try:
            aliases[name] = read_alias(name, entry)
        except (KeyError, TypeError, ValueError, AttributeError):
            unreadable += 1
    return Table(models, keys, unreadable, aliases)


def _items(value: Any) -> list[tuple[str, Any]]:
    return [(str(key), entry) for key, entry in value.items()] if isinstance(value, dict) else []


def _key(entry: Any) -> KeyEntry:
    number, is_internal = int(entry["id"]), entry.get("kind") == "internal"
    given = {} if is_internal else dict(entry.get("limits") or {})
    allowed, expires_at = given.get("deployments"), given.get("expires_at")
    if allowed is not None and not isinstance(allowed, list):
        raise TypeError("deployments")
    return KeyEntry(
        number,
        str(entry["name"]),
        is_internal,
        limits=read_limits(given, scope=f"k:{number}", subject="this API key"),
        deployments=None if allowed is None else frozenset(map(str, allowed)),
        expires_at=None if expires_at is None else float(expires_at),
    )


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
        limits=read_limits(entry.get("limits"), scope=f"d:{name}", subject=f"the model `{name}`"),
        adapters=tuple(str(adapter) for adapter in entry.get("adapters") or ()),
        sleeps=bool(entry.get("sleeps", True)),
    )
