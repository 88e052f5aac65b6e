"""The accelerator catalogue as this organisation has it: shipped types, what operators changed, the prices
that hold, and what the live cluster reports. Reads only; which price holds is decided in serving.

`catalogue_entries` takes four queries whatever the number of types. Days are UTC, as in all costs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

from django.db.models import Q

from console import states
from console.accelerator_entry import CatalogueEntry, NodeWithIt, PriceOn
from console.accelerator_figures import (
    accelerator_for_planner,
    capability_text,
    figures_of,
    shipped_accelerator,
)
from console.models import AcceleratorPrice, CatalogueAccelerator, Deployment, Supply
from serving.accelerator_prices import coming_prices, default_price, price_on
from serving.accelerators import (
    accelerator,
    accelerator_types,
    catalogue,
    find,
    shipped_prices,
)
from serving.planner.request import Accelerator


@dataclass(frozen=True)
class _Sources:
    """All that entries are made of, by type: four queries."""

    rows: Mapping[str, CatalogueAccelerator]
    prices: Mapping[str, Sequence[AcceleratorPrice]]
    nodes: Mapping[str, Sequence[NodeWithIt]]
    used_by: Mapping[str, Sequence[str]]
    today: date

    @property
    def names(self) -> list[str]:
        """Every known type. Prices alone keep a type only where it is shipped: others were removed."""
        priced = filter(find, self.prices)
        return list(dict.fromkeys([*accelerator_types(), *self.rows, *self.nodes, *self.used_by, *priced]))

    def entry(self, name: str) -> CatalogueEntry:
        """The entry of one type."""
        return _entry(
            name,
            row=self.rows.get(name),
            prices=self.prices.get(name, ()),
            nodes=self.nodes.get(name, ()),
            used_by=self.used_by.get(name, ()),
            today=self.today,
        )


def catalogue_entries(now: float | None = None) -> list[CatalogueEntry]:
    """Every known type: those on the live cluster first (most first), then owned, rented, and the rest in the
    shipped order. `now` in epoch seconds decides which prices hold. Four queries."""
    sources = _sources(time.time() if now is None else now)
    return sorted(map(sources.entry, sources.names), key=_rank)


def catalogue_entry(name: str, now: float | None = None) -> CatalogueEntry | None:
    """The type called `name`, however it is spelt, also by a label of Ray's that nothing uses yet
    (`A100-80G`); None when there is none. Four queries."""
    sources = _sources(time.time() if now is None else now)
    names = {each.lower(): each for each in sources.names}
    known = find(name)
    own_name = names.get(name.lower()) or (known.name if known else None)
    return sources.entry(own_name) if own_name else None


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


def _sources(now: float) -> _Sources:
    return _Sources(
        rows={row.name: row for row in CatalogueAccelerator.objects.all()},
        prices=_prices_by_type(),
        nodes=_nodes_by_type(states.cluster_state(now)["nodes"]),
        used_by=_used_by(),
        today=day_of(now),
    )


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
    prices: Sequence[AcceleratorPrice],
    nodes: Sequence[NodeWithIt],
    used_by: Sequence[str],
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
