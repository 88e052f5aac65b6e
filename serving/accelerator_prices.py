"""Accelerator prices: which list price stands in where nobody gave one, and which holds on a day. Pure.

Money is Decimal US dollars per accelerator and hour. Must not read files, the clock or a database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Protocol, TypeVar

TRUSTED = ("high", "medium-high", "medium")
"""Confidences of the shipped file that are good enough for a default."""


@dataclass(frozen=True)
class ListPrice:
    """A cloud's on-demand list price of one accelerator with its share of the machine."""

    usd_per_hour: Decimal
    cloud: str
    sku: str
    accelerators: int
    date: str
    source: str
    confidence: str
    variant: str = ""
    is_whole_machine: bool = True

    @property
    def is_trusted(self) -> bool:
        """Whether it may stand in as a default: the whole machine, at medium confidence or better."""
        return self.is_whole_machine and _level(self.confidence) in TRUSTED

    @property
    def note(self) -> str:
        """Where and when it is from, for people."""
        count = "1 accelerator" if self.accelerators == 1 else f"{self.accelerators} accelerators"
        return f"List price of {self.cloud} {self.sku} ({count}), {self.date}; {self.source}"


class Dated(Protocol):
    """Anything that holds from a day on."""

    @property
    def from_date(self) -> date: ...


DatedPrice = TypeVar("DatedPrice", bound=Dated)


def list_prices(entries: Iterable[Mapping[str, Any]]) -> tuple[ListPrice, ...]:
    """The shipped file's `prices` of one type, in its order."""
    return tuple(
        ListPrice(
            usd_per_hour=Decimal(str(entry["usd_per_gpu_hour"])),
            cloud=entry["cloud"],
            sku=entry["sku"],
            accelerators=entry["gpus"],
            date=entry["date"],
            source=entry["source"],
            confidence=entry["confidence"],
            variant=entry.get("variant", ""),
            is_whole_machine=entry.get("whole_machine", True),
        )
        for entry in entries
    )


def default_price(prices: Iterable[ListPrice], *, variant: str) -> ListPrice | None:
    """The list price that stands in for `variant`: the median of those that can be trusted.

    Of an even number it is the dearer of the middle two, so that a default does not flatter the cost; it is
    always a price that somebody asks, never a mean. None when there is no trusted one for this variant.
    """
    fitting = [price for price in prices if price.is_trusted and price.variant in ("", variant)]
    ordered = sorted(fitting, key=lambda price: price.usd_per_hour)
    return ordered[len(ordered) // 2] if ordered else None


def price_on(prices: Sequence[DatedPrice], day: date) -> DatedPrice | None:
    """The price that holds on `day`: of those from that day or before, the newest; of two from the same day
    the one that was entered later, which is the later one in `prices`. None when none holds yet."""
    held: DatedPrice | None = None
    for price in prices:
        if price.from_date <= day and (held is None or price.from_date >= held.from_date):
            held = price
    return held


def coming_prices(prices: Sequence[DatedPrice], day: date) -> list[DatedPrice]:
    """Prices that will hold after `day`, soonest first; corrected entries are left out."""
    newest = {price.from_date: price for price in prices if price.from_date > day}
    return [newest[from_date] for from_date in sorted(newest)]


def price_states(prices: Sequence[DatedPrice], day: date) -> list[tuple[DatedPrice, str]]:
    """Every price with what it is on `day`: `now` (it holds), `coming`, `past`, or `corrected` by a later
    entry for the same day. In the order of `prices`."""
    held = price_on(prices, day)
    newest = {price.from_date: price for price in prices}
    return [(price, _state(price, held, newest, day)) for price in prices]


def _state(price: DatedPrice, held: DatedPrice | None, newest: Mapping[date, DatedPrice], day: date) -> str:
    if newest[price.from_date] is not price:
        return "corrected"
    if price is held:
        return "now"
    return "coming" if price.from_date > day else "past"


def _level(confidence: str) -> str:
    """ "high (another table …)" -> "high"."""
    return confidence.split(";")[0].split("(")[0].strip()
