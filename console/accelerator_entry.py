"""What is known of one accelerator type, put together by console/accelerators.py. Makes no queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from console.accelerator_figures import Figure
from console.models import AcceleratorPrice, CatalogueAccelerator, Supply
from serving.accelerator_prices import ListPrice
from serving.accelerators import catalogue, find, shipped_variant, variant_names
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
