"""Writes on the accelerator catalogue: types, their specification, owned or rented, and dated prices.

A price is inserted and never changed: history never moves, and a wrong entry is corrected by another one of
the same day. A specification keeps what operators entered beside what is shipped, so that it can be reset.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from console import formats
from console.accelerator_entry import CatalogueEntry
from console.accelerators import catalogue_entry, day_of, price_of
from console.actions.accelerator_values import (
    EDITABLE,
    SPECIFICATION,
    check_day,
    checked_name,
    checked_price,
    checked_source,
    checked_values,
    is_number,
)
from console.events import Actor, record
from console.models import AcceleratorPrice, CatalogueAccelerator
from serving.accelerators import find
from serving.errors import Conflict, InUse, InvalidSpec, NotFound


def add_accelerator(*, actor: Actor, name: str, **values: Any) -> CatalogueAccelerator:
    """A type that is not shipped. `values`: columns of EDITABLE; `usable_bytes` is required."""
    name = checked_name(name)
    known = find(name)
    if known is not None or CatalogueAccelerator.objects.filter(name__iexact=name).exists():
        there = known.name if known else name
        raise InvalidSpec(f"{there} is in the catalogue; change what it says there.", field="name")
    checked = checked_values(name, values)
    if checked.get("usable_bytes") is None:
        raise InvalidSpec("Give its memory: no plan can be made without it.", field="usable_bytes")
    try:
        with transaction.atomic():
            row = CatalogueAccelerator.objects.create(name=name, updated_by=actor.user, **checked)
            after = {key: value for key, value in _values(row).items() if value not in (None, "")}
            _noted(actor, name, kind="accelerator.added", message=f"Accelerator {name} added", after=after)
    except IntegrityError:
        raise InvalidSpec(f"{name} is in the catalogue; change what it says there.", field="name") from None
    return row


def edit_accelerator(
    *, actor: Actor, name: str, expected_version: int, **changed: Any
) -> CatalogueAccelerator:
    """Change the specification, the supply or the note of a type. None or empty text returns a column to what
    is shipped. Raises Conflict when somebody else was faster, NotFound for a type that is nowhere."""
    entry = _entry(name)
    unknown = sorted(set(changed) - set(EDITABLE))
    if unknown:
        raise InvalidSpec(f"“{unknown[0]}” cannot be changed.", field=unknown[0])
    checked = checked_values(entry.name, changed)
    if not entry.is_shipped and entry.row and "usable_bytes" in checked and checked["usable_bytes"] is None:
        raise InvalidSpec("Give its memory: nothing is shipped in its place.", field="usable_bytes")
    return _written(actor, entry, expected_version, checked, kind="accelerator.edited")


def reset_accelerator(*, actor: Actor, name: str, expected_version: int) -> CatalogueAccelerator:
    """Return the specification to what is shipped. Supply, note and prices stay."""
    entry = _entry(name)
    if not entry.is_shipped:
        raise InvalidSpec(f"{entry.name} was added here: there is no shipped specification to return to.")
    blank = {column: None if is_number(column) else "" for column in SPECIFICATION}
    return _written(actor, entry, expected_version, blank, kind="accelerator.reset")


def remove_accelerator(*, actor: Actor, name: str) -> None:
    """Forget a type that was added here; its prices stay in the database, as all history. Refused while the
    cluster has it or a deployment asks for it."""
    entry = _entry(name)
    if entry.row is None or entry.is_shipped:
        raise InvalidSpec(f"{entry.name} comes with Raydeck and cannot be removed.")
    if entry.used_by:
        raise InUse(f"{entry.name} is used by {', '.join(entry.used_by[:5])}; delete or edit that first.")
    if entry.detected:
        raise InUse(f"The cluster has {entry.detected} of {entry.name}: it would come back at once.")
    with transaction.atomic():
        before = _values(entry.row)
        CatalogueAccelerator.objects.filter(pk=entry.row.pk).delete()
        message = f"Accelerator {entry.name} removed from the catalogue"
        _noted(actor, entry.name, kind="accelerator.removed", message=message, before=before)


def add_price(
    *, actor: Actor, name: str, usd_per_hour: Decimal | float | str, from_date: date, source: str
) -> AcceleratorPrice:
    """What one accelerator of the type costs per hour from a day on (UTC). Earlier days keep their price."""
    entry = _entry(name)
    usd, source = checked_price(usd_per_hour), checked_source(source)
    check_day(from_date, day_of(timezone.now().timestamp()))
    before = price_of(entry.name, from_date)
    with transaction.atomic():
        price = AcceleratorPrice.objects.create(
            accelerator_type=entry.name,
            usd_per_hour=usd,
            from_date=from_date,
            source=source,
            author=actor.user,
            author_name=actor.name,
        )
        was = formats.rate(before.usd_per_hour) if before else "no price"
        _noted(
            actor,
            entry.name,
            kind="accelerator.price_added",
            message=f"Price of {entry.name} from {from_date.isoformat()}: {was} → {formats.rate(usd)}",
            before={"usd_per_hour": str(before.usd_per_hour), "source": before.note} if before else None,
            after={"usd_per_hour": str(usd), "from_date": from_date.isoformat(), "source": source},
        )
    return price


def _entry(name: str) -> CatalogueEntry:
    entry = catalogue_entry(name)
    if entry is None:
        raise NotFound(f"There is no accelerator called {name[:60]}.")
    return entry


def _written(
    actor: Actor, entry: CatalogueEntry, expected_version: int, values: dict[str, Any], *, kind: str
) -> CatalogueAccelerator:
    """Store `values`; what stands already is neither written nor noted."""
    if entry.version != expected_version:
        raise _conflict(entry.name)
    stored = entry.row or CatalogueAccelerator(name=entry.name)
    before = {key: was for key, was in _values(stored).items() if key in values and was != values[key]}
    if not before:
        return stored
    after = {key: values[key] for key in before}
    what = "reset to what is shipped" if kind.endswith("reset") else "changed"
    message = f"Accelerator {entry.name} {what}"
    with transaction.atomic():
        if entry.row is None:
            _insert(actor, entry.name, after)
        elif not _update(actor, entry.row, expected_version, after):
            raise _conflict(entry.name)
        _noted(actor, entry.name, kind=kind, message=message, before=before, after=after)
    return CatalogueAccelerator.objects.get(name=entry.name)


def _update(actor: Actor, row: CatalogueAccelerator, expected_version: int, after: dict[str, Any]) -> bool:
    """Whether it was stored; False when somebody else was faster."""
    written = CatalogueAccelerator.objects.filter(pk=row.pk, version=expected_version).update(
        version=F("version") + 1, updated_at=timezone.now(), updated_by=actor.user, **after
    )
    return bool(written)


def _insert(actor: Actor, name: str, after: dict[str, Any]) -> None:
    """A shipped type's first change. Version 1 is the state before it, for which there is no row."""
    try:
        with transaction.atomic():
            CatalogueAccelerator.objects.create(name=name, version=2, updated_by=actor.user, **after)
    except IntegrityError:
        raise _conflict(name) from None


def _conflict(name: str) -> Conflict:
    now = catalogue_entry(name)
    if now is None:
        return Conflict("Somebody removed this accelerator in the meantime.", current={})
    writer = now.row.updated_by.username if now.row and now.row.updated_by else ""
    return Conflict(
        f"{writer or 'Somebody'} changed {now.name} while you were editing; nothing of yours was saved.",
        current={
            "version": now.version,
            "changed_by": writer,
            "changed_at": now.row.updated_at.isoformat() if now.row else None,
            "values": _values(now.row or CatalogueAccelerator(name=now.name)),
        },
    )


def _values(row: CatalogueAccelerator) -> dict[str, Any]:
    return {column: getattr(row, column) for column in EDITABLE}


def _noted(
    actor: Actor, name: str, *, kind: str, message: str, before: Any = None, after: Any = None
) -> None:
    record(
        actor=actor,
        kind=kind,
        message=message,
        subject_kind="accelerator",
        subject_name=name,
        before=before,
        after=after,
    )
