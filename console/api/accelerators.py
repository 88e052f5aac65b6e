"""/accelerators: the catalogue and its dated prices."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import Router
from ninja.responses import Status

from console import actions
from console.accelerator_entry import CatalogueEntry
from console.accelerators import catalogue_entries, catalogue_entry, day_of
from console.api.accelerator_schemas import (
    AcceleratorChange,
    AcceleratorInput,
    AcceleratorOut,
    PriceInput,
    PriceOut,
    VersionInput,
)
from console.api.errors import not_found
from console.api.outputs import Page
from console.api.routing import (
    IdempotencyKey,
    IfMatch,
    Limit,
    Offset,
    expected_version,
    method_and_path,
    operation,
    set_version,
)
from console.api.security import caller_of
from console.idempotency import create_once
from console.models import AcceleratorPrice
from serving.accelerator_prices import price_states
from serving.accelerators import unknown_message

router = Router(tags=["accelerators"])


@operation(router, "GET", "", role="viewer", answer=Page[AcceleratorOut])
def list_accelerators(request: HttpRequest, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    """All known types: those on the live cluster first, then owned, rented and the rest."""
    entries = catalogue_entries()
    items = [accelerator_out(entry) for entry in entries[offset : offset + limit]]
    return {"items": items, "total": len(entries), "limit": limit, "offset": offset}


@operation(router, "POST", "", role="operator", answer=AcceleratorOut, status=201)
def add_accelerator(
    request: HttpRequest,
    response: HttpResponse,
    body: AcceleratorInput,
    idempotency_key: IdempotencyKey = None,
) -> Status[dict[str, Any]]:
    """Add a type that is not shipped."""
    caller = caller_of(request)

    def create() -> tuple[int, dict[str, Any]]:
        row = actions.add_accelerator(actor=caller.actor, **body.model_dump(exclude_unset=True))
        return 201, accelerator_out(find_entry(row.name))

    answer = create_once(
        user=caller.user,
        key=idempotency_key,
        method_and_path=method_and_path(request),
        request=body.model_dump(mode="json"),
        create=create,
    )
    response["Idempotent-Replayed"] = str(answer.replayed).lower()
    return Status(answer.status, answer.body)


@operation(router, "GET", "/{name}", role="viewer", answer=AcceleratorOut)
def get_accelerator(request: HttpRequest, response: HttpResponse, name: str) -> dict[str, Any]:
    """One type, by Ray's name or a variant's, in any case."""
    entry = find_entry(name)
    set_version(response, entry.version)
    return accelerator_out(entry)


@operation(router, "PATCH", "/{name}", role="operator", answer=AcceleratorOut)
def edit_accelerator(
    request: HttpRequest, response: HttpResponse, name: str, body: AcceleratorChange, if_match: IfMatch = None
) -> dict[str, Any]:
    """Change the specification, the supply or the note. Null returns a figure to what is shipped.

    A type that Ray reports and nobody described can be described so.
    """
    version = expected_version(header=if_match, body=body.expected_version)
    changed = body.model_dump(exclude_unset=True, exclude={"expected_version"})
    entry = find_entry(name)
    actions.edit_accelerator(
        actor=caller_of(request).actor, name=entry.name, expected_version=version, **changed
    )
    return _stored(response, entry.name)


@operation(router, "DELETE", "/{name}", role="operator", answer=None, status=204)
def remove_accelerator(request: HttpRequest, name: str) -> Status[None]:
    """Remove a type that was added here. Refused while the cluster has it or a deployment asks for it."""
    actions.remove_accelerator(actor=caller_of(request).actor, name=find_entry(name).name)
    return Status(204, None)


@operation(router, "POST", "/{name}/reset", role="operator", answer=AcceleratorOut)
def reset_accelerator(
    request: HttpRequest, response: HttpResponse, name: str, body: VersionInput, if_match: IfMatch = None
) -> dict[str, Any]:
    """Return the specification to what is shipped. Supply, note and prices stay."""
    version = expected_version(header=if_match, body=body.expected_version)
    entry = find_entry(name)
    actions.reset_accelerator(actor=caller_of(request).actor, name=entry.name, expected_version=version)
    return _stored(response, entry.name)


@operation(router, "GET", "/{name}/prices", role="viewer", answer=Page[PriceOut])
def list_accelerator_prices(
    request: HttpRequest, name: str, limit: Limit = 50, offset: Offset = 0
) -> dict[str, Any]:
    """Every price that was entered here, newest first, corrected ones too."""
    rows = list(reversed(_prices_out(find_entry(name))))
    return {"items": rows[offset : offset + limit], "total": len(rows), "limit": limit, "offset": offset}


@operation(router, "POST", "/{name}/prices", role="admin", answer=PriceOut, status=201)
def add_accelerator_price(
    request: HttpRequest,
    response: HttpResponse,
    name: str,
    body: PriceInput,
    idempotency_key: IdempotencyKey = None,
) -> Status[dict[str, Any]]:
    """Enter a price from a day on. Earlier days keep theirs; one for a taken day corrects that day."""
    caller = caller_of(request)
    entry = find_entry(name)

    def create() -> tuple[int, dict[str, Any]]:
        price = actions.add_price(actor=caller.actor, name=entry.name, **body.model_dump())
        rows = _prices_out(find_entry(entry.name))
        return 201, next(row for row in rows if row["id"] == price.pk)

    answer = create_once(
        user=caller.user,
        key=idempotency_key,
        method_and_path=method_and_path(request),
        request=body.model_dump(mode="json"),
        create=create,
    )
    response["Idempotent-Replayed"] = str(answer.replayed).lower()
    return Status(answer.status, answer.body)


def find_entry(name: str) -> CatalogueEntry:
    """The type called so; a 404 in the API's form otherwise, with names that look like it."""
    entry = catalogue_entry(name)
    if entry is None:
        raise not_found(unknown_message(name))
    return entry


def accelerator_out(entry: CatalogueEntry) -> dict[str, Any]:
    """An entry as the API gives it, in JSON types only, so that it can be kept as an idempotent answer."""
    row, price = entry.row, entry.price
    coming = {price.pk for price in entry.coming}
    values = {
        "name": entry.name,
        "vendor": entry.vendor,
        "variant": entry.variant,
        "variants": entry.variants,
        "compute_capability": entry.compute_capability,
        "specification": {name: asdict(figure) for name, figure in entry.figures.items()},
        "supply": entry.supply,
        "note": row.note if row else "",
        "source": row.source if row else "",
        "is_shipped": entry.is_shipped,
        "is_changed": entry.is_changed,
        "can_be_planned_with": entry.accelerator is not None,
        "detected": entry.detected,
        "nodes": [asdict(node) for node in entry.nodes],
        "used_by": list(entry.used_by),
        "price": asdict(price) if price else None,
        "coming_prices": [row for row in _prices_out(entry) if row["id"] in coming],
        "version": entry.version,
    }
    return AcceleratorOut.model_validate(values).model_dump(mode="json")


def _stored(response: HttpResponse, name: str) -> dict[str, Any]:
    entry = find_entry(name)
    set_version(response, entry.version)
    return accelerator_out(entry)


def _prices_out(entry: CatalogueEntry) -> list[dict[str, Any]]:
    """In order of day and entry."""
    states = price_states(entry.prices, day_of(time.time()))
    return [_price_out(price, state) for price, state in states]


def _price_out(price: AcceleratorPrice, state: str) -> dict[str, Any]:
    values = {
        "id": price.pk,
        "usd_per_hour": price.usd_per_hour,
        "from_date": price.from_date,
        "source": price.source,
        "author": price.author_name,
        "created_at": price.created_at,
        "state": state,
    }
    return PriceOut.model_validate(values).model_dump(mode="json")
