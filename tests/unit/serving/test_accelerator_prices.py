"""Which list price stands in, and which price holds on a day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from serving.accelerator_prices import (
    coming_prices,
    default_price,
    list_prices,
    price_on,
    price_states,
)


@dataclass(frozen=True)
class Entry:
    """A price as it is stored; `number` is the order of entry."""

    from_date: date
    number: int


DAYS = st.dates(date(2025, 1, 1), date(2025, 1, 12))
ENTRIES = st.lists(DAYS, max_size=12).map(lambda days: [Entry(day, i) for i, day in enumerate(days)])


def listed(usd: float, confidence: str = "high", **more: object) -> dict[str, object]:
    return {
        "cloud": "C",
        "sku": "s",
        "gpus": 1,
        "usd_per_gpu_hour": usd,
        "date": "2026",
        "source": "table",
        "confidence": confidence,
        **more,
    }


def picked(*entries: dict[str, object], variant: str = "X") -> Decimal | None:
    price = default_price(list_prices(entries), variant=variant)
    return price.usd_per_hour if price else None


def test_the_median_is_a_price_that_somebody_asks() -> None:
    assert picked(listed(9), listed(1), listed(2)) == Decimal(2)
    assert picked(listed(1), listed(4)) == Decimal(4)
    assert picked() is None


def test_only_trusted_prices_of_whole_machines_and_of_the_variant_count() -> None:
    assert picked(listed(1, "low"), listed(2, "low-medium"), listed(3, "medium; counted")) == Decimal(3)
    assert picked(listed(1, whole_machine=False), listed(3, "high (one table differs)")) == Decimal(3)
    assert picked(listed(1, variant="Y"), listed(3, variant="X"), listed(5)) == Decimal(5)
    assert picked(listed(1, variant="Y")) is None


def test_cents_are_exact() -> None:
    assert picked(listed(11.0612)) == Decimal("11.0612")


@given(ENTRIES, DAYS)
def test_the_newest_price_of_that_day_or_before_holds(entries: list[Entry], day: date) -> None:
    held = price_on(entries, day)
    candidates = [entry for entry in entries if entry.from_date <= day]
    expected = max(candidates, key=lambda entry: (entry.from_date, entry.number), default=None)
    assert held == expected


@given(ENTRIES, DAYS, DAYS)
def test_a_new_price_never_moves_the_days_before_it(entries: list[Entry], new_day: date, day: date) -> None:
    new = Entry(new_day, len(entries))
    before, after = price_on(entries, day), price_on([*entries, new], day)
    if day < new_day:
        assert after == before
    elif before is None or new_day >= before.from_date:
        assert after == new, "it holds from its day on, also where it corrects one of the same day"
    else:
        assert after == before, "an older price does not replace a newer one"


@given(ENTRIES, DAYS)
def test_coming_prices_are_those_that_will_hold(entries: list[Entry], day: date) -> None:
    coming = coming_prices(entries, day)
    assert [entry.from_date for entry in coming] == sorted(
        {e.from_date for e in entries if e.from_date > day}
    )
    for entry in coming:
        assert price_on(entries, entry.from_date) == entry
        assert price_on(entries, entry.from_date - timedelta(days=1)) != entry


@given(ENTRIES, DAYS)
def test_each_entry_is_held_coming_past_or_corrected(entries: list[Entry], day: date) -> None:
    states = price_states(entries, day)
    assert [entry for entry, _ in states] == entries
    held = [entry for entry, state in states if state == "now"]
    assert held == [entry for entry in [price_on(entries, day)] if entry is not None]
    coming = sorted((e for e, state in states if state == "coming"), key=lambda e: e.from_date)
    assert coming == coming_prices(entries, day)
    for entry, state in states:
        later = any(e.from_date == entry.from_date and e.number > entry.number for e in entries)
        assert (state == "corrected") == later
        if state == "past":
            assert entry.from_date < day
