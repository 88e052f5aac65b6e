"""The accelerator catalogue as this organisation has it: shipped types, what operators changed, the prices
that hold, and what the live cluster reports. Reads only; which price holds is decided in serving.

`catalogue_entries` takes four queries whatever the number of types. Days are UTC, as in all costs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from django.db.models import Q

from console import states
from console.accelerator_figures import (
    Figure,
    accelerator_for_planner,
    capability_text,
    figures_of,
    shipped_accelerator,
)
from console.models import AcceleratorPrice, CatalogueAccelerator, Deployment, Supply
from serving.accelerator_prices import ListPrice, coming_prices, default_price, price_on
from serving.accelerators import (
    accelerator,
    accelerator_types,
    catalogue,
    find,
    shipped_prices,
    shipped_variant,
    variant_names,
)
from serving.planner.request import Accelerator


@dataclass(frozen=True)
class PriceOn:
    """What one accelerator costs per hour, since when and by whose word. A list price has no `from_date`, but
    the words of the shipped file in `dated`."""

    usd_per_hour: Decimal
    source: str
    from_date: date | None = None
    dated: str = ""
    is_list_price: bool = False
    author: str = ""
    short_source: str = ""

    @property
    def note(self) -> str:
        """Where and when it is from, for people and plans."""
        return self.source if self.is_list_price else f"{self.source}, from {self.from_date}"


@dataclass(frozen=True)
class NodeWithIt:
    """A node that has the type, as last seen."""

    name: str
    count: int
    claimed: int
    alive: bool
    memory_bytes: int | None


@dataclass(frozen=True)
class CatalogueEntry:
    """One accelerator type with everything that is known of it. `version` is 1 before the first change."""

    name: str
    vendor: str
    variant: str
    figures: Mapping[str, Figure]
    compute_capability: str
    accelerator: Accelerator | None
    """For the planner; None while its memory is not known."""
    price: PriceOn | None
    prices: tuple[AcceleratorPrice, ...]
    """Every price entered here, in order of day and entry."""
    coming: tuple[AcceleratorPrice, ...]
    list_prices: tuple[ListPrice, ...]
    is_shipped: bool
    row: CatalogueAccelerator | None
    nodes: tuple[NodeWithIt, ...]
    used_by: tuple[str, ...]

    @property
    def variants(self) -> list[str]:
        """Names of the shipped variants, the default first."""
        return variant_names(self.name) if self.is_shipped else []

    @property
    def detected(self) -> int:
        """How many the nodes that are alive have."""
        return sum(node.count for node in self.nodes if node.alive)

    @property
    def version(self) -> int:
        """What a change is based on."""
        return self.row.version if self.row else 1

    @property
    def supply(self) -> str:
        """owned, rented or empty."""
        return self.row.supply if self.row else Supply.UNSET.value

    @property
    def supply_words(self) -> str:
        """Owned, Rented or Not said."""
        return str(Supply(self.supply).label)

    @property
    def is_changed(self) -> bool:
        """Whether an operator entered any of the specification."""
        row = self.row
        entered = any(figure.origin == "yours" for figure in self.figures.values())
        return entered or bool(row and (row.vendor or row.variant or row.compute_capability or row.source))

    @property
    def shipped_note(self) -> str:
        """What the shipped file says beside the figures."""
        known = find(self.name) if self.is_shipped else None
        return catalogue()[known.entry_name].get("note", "") if known else ""

    @property
    def shipped_source(self) -> str:
        """Where the shipped figures are from."""
        known = find(self.name, self.variant) if self.is_shipped else None
        return shipped_variant(known)["spec_source"] if known else ""


def catalogue_entries(now: float | None = None) -> list[CatalogueEntry]:
    """Every known type: those on the live cluster first (most first), then owned, rented, and the rest in the
    shipped order. `now` in epoch seconds decides which prices hold. Four queries."""
    now = time.time() if now is None else now
    nodes = _nodes_by_type(states.cluster_state(now)["nodes"])
    rows = {row.name: row for row in CatalogueAccelerator.objects.select_related("updated_by")}
    prices = _prices_by_type()
    used = _used_by()
    today = day_of(now)
    entries = [
        _entry(
            name,
            row=rows.get(name),
            prices=prices.get(name, []),
            nodes=nodes.get(name, []),
            used_by=used.get(name, []),
            today=today,
        )
        for name in dict.fromkeys([*accelerator_types(), *rows, *nodes, *used, *filter(find, prices)])
    ]
    return sorted(entries, key=_rank)


def catalogue_entry(name: str, now: float | None = None) -> CatalogueEntry | None:
    """The type called `name`, however it is spelt, also by a label of Ray's that nothing uses yet
    (`A100-80G`); None when there is none. Four queries."""
    now = time.time() if now is None else now
    entries = {entry.name.lower(): entry for entry in catalogue_entries(now)}
    known = find(name)
    found = entries.get(name.lower()) or (entries.get(known.name.lower()) if known else None)
    if found is None and known is not None:
        return _entry(known.name, row=None, today=day_of(now))
    return found


def planner_accelerator(
    name: str, variant: str | None = None, now: float | None = None
) -> Accelerator | None:
    """The type for the planner: shipped figures with the operator's in their place, and the price that holds.

    Another variant than the organisation's, by `variant` or by its own name (`H100-PCIe-80GB`), comes as
    shipped, with the type's price where one was entered here. None when the type, its memory or the variant
    is not known. Four queries; for many types use `planner_accelerators`.
    """
    entry = catalogue_entry(name, now)
    known = find(name, variant)
    if entry is None or (variant and known is None):
        return None
    if known is None or not known.is_chosen or known.variant == entry.variant:
        return entry.accelerator
    other = accelerator(known.name, known.variant)
    if other is None or entry.price is None or entry.price.is_list_price:
        return other
    return replace(other, usd_per_hour=entry.price.usd_per_hour, price_note=entry.price.note)


def planner_accelerators(now: float | None = None) -> list[Accelerator]:
    """Every type that can be planned with, in the catalogue's order: the cluster's first. Four queries."""
    return [entry.accelerator for entry in catalogue_entries(now) if entry.accelerator is not None]


def price_of(name: str, on: date) -> PriceOn | None:
    """What one accelerator of the type costs per hour on the day `on`: the newest price entered here that
    holds then, the shipped list price otherwise, None without either. Two queries."""
    known = find(name)
    shipped_name = known.name if known else name
    row = CatalogueAccelerator.objects.filter(Q(name__iexact=name) | Q(name=shipped_name)).first()
    own_name = row.name if row else shipped_name
    entered = AcceleratorPrice.objects.filter(accelerator_type=own_name).order_by("from_date", "pk")
    shipped = shipped_accelerator(own_name, row)
    variant = known.variant if known and known.is_chosen else shipped.variant if shipped else ""
    return _price(own_name, variant, list(entered), on)


def day_of(now: float) -> date:
    """The day in UTC at `now` (epoch seconds)."""
    return datetime.fromtimestamp(now, UTC).date()


def _rank(entry: CatalogueEntry) -> tuple[int, int, int, str]:
    shipped = accelerator_types()
    place = shipped.index(entry.name) if entry.name in catalogue() else len(shipped)
    if entry.nodes:
        return (0, -entry.detected, place, entry.name)
    supplies = {Supply.OWNED.value: 1, Supply.RENTED.value: 2}
    return (supplies.get(entry.supply, 3), 0, place, entry.name)


def _entry(
    name: str,
    *,
    row: CatalogueAccelerator | None,
    today: date,
    prices: Sequence[AcceleratorPrice] = (),
    nodes: Sequence[NodeWithIt] = (),
    used_by: Sequence[str] = (),
) -> CatalogueEntry:
    shipped = shipped_accelerator(name, row)
    variant = shipped.variant if shipped else row.variant if row else ""
    most_on_a_node = max((node.count for node in nodes if node.alive), default=0)
    figures = figures_of(row, shipped, most_on_a_node=most_on_a_node)
    price = _price(name, variant, prices, today)
    planned = accelerator_for_planner(name, row=row, shipped=shipped, figures=figures)
    if planned is not None and price is not None:
        planned = replace(planned, usd_per_hour=price.usd_per_hour, price_note=price.note)
    known = find(name) if shipped else None
    return CatalogueEntry(
        name=name,
        vendor=(row.vendor if row else "") or (shipped.vendor if shipped else ""),
        variant=variant,
        figures=figures,
        compute_capability=capability_text(row, shipped),
        accelerator=planned,
        price=price,
        prices=tuple(prices),
        coming=tuple(coming_prices(prices, today)),
        list_prices=shipped_prices(known) if known else (),
        is_shipped=shipped is not None,
        row=row,
        nodes=tuple(nodes),
        used_by=tuple(used_by),
    )


def _price(name: str, variant: str, prices: Sequence[AcceleratorPrice], day: date) -> PriceOn | None:
    held = price_on(prices, day)
    if held is not None:
        return PriceOn(
            held.usd_per_hour,
            held.source,
            from_date=held.from_date,
            author=held.author_name,
            short_source=held.source,
        )
    known = find(name)
    if known is None or known.name != name:
        return None
    listed = default_price(shipped_prices(known), variant=variant)
    if listed is None:
        return None
    return PriceOn(
        listed.usd_per_hour,
        listed.note,
        dated=listed.date,
        is_list_price=True,
        short_source=f"{listed.cloud} {listed.sku}",
    )


def _prices_by_type() -> dict[str, list[AcceleratorPrice]]:
    """Prices by type, in order of day and entry. One query."""
    prices: dict[str, list[AcceleratorPrice]] = {}
    for price in AcceleratorPrice.objects.order_by("from_date", "pk"):
        prices.setdefault(price.accelerator_type, []).append(price)
    return prices


def _nodes_by_type(stored: Iterable[Mapping[str, Any]]) -> dict[str, list[NodeWithIt]]:
    """Type -> the nodes that have it. A node that is lost keeps its place, marked."""
    found: dict[str, list[NodeWithIt]] = {}
    for node in stored:
        claimed = node.get("accelerators_claimed") or {}
        for name, count in (node.get("accelerators") or {}).items():
            seen = NodeWithIt(
                name=node.get("name", ""),
                count=int(count),
                claimed=int(claimed.get(name, 0)),
                alive=node.get("alive", True),
                memory_bytes=node.get("memory_bytes"),
            )
            if seen.count:
                found.setdefault(name, []).append(seen)
    return found


def _used_by() -> dict[str, list[str]]:
    """Type -> names of the deployments whose current revision asks for it. One query."""
    used: dict[str, list[str]] = {}
    for name, engine in Deployment.objects.order_by("name").values_list("name", "current_revision__engine"):
        kind = (engine or {}).get("accelerator_type")
        if isinstance(kind, str) and kind:
            used.setdefault(kind, []).append(name)
    return used
