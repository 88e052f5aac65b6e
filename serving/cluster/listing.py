"""The list of models as callers see it: deployments, their adapters, and aliases. Pure."""

from collections.abc import Callable
from typing import Any

from serving.cluster.routes import ADAPTER_MARK, Route
from serving.cluster.table import Table


def cards(table: Table, *, may_use: Callable[[str], bool]) -> list[dict[str, Any]]:
    """What `GET /v1/models` lists: every name behind which something is meant to serve that the caller
    `may_use`."""
    listed = []
    for entry in table.models.values():
        if entry.state == "serve" and may_use(entry.name):
            listed.append(_card(entry.name, created=entry.created))
            listed += [
                _card(f"{entry.name}{ADAPTER_MARK}{adapter}", created=entry.created, parent=entry.name)
                for adapter in entry.adapters
            ]
    for alias in table.aliases.values():
        names = (*(name for name, _ in alias.targets), *alias.fallback)
        behind = [table.models[name] for name in names if name in table.models and may_use(name)]
        if alias.name not in table.models and any(entry.state == "serve" for entry in behind):
            listed.append(_card(alias.name, created=alias.created))
    return listed


def card(table: Table, asked: str, route: Route) -> dict[str, Any]:
    """One name that was asked for by itself."""
    if route.alias:
        return _card(asked, created=table.aliases[asked].created)
    entry = route.candidates[0]
    return _card(asked, created=entry.created, parent=entry.name if route.adapter else None)


def _card(name: str, *, created: int, parent: str | None = None) -> dict[str, Any]:
    shown = {"id": name, "object": "model", "created": created, "owned_by": "raydeck"}
    return {**shown, "parent": parent} if parent else shown
