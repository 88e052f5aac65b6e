"""What a replica's time costs, exactly. Pure; knows no database.

Times become whole microseconds and prices whole millionths of a dollar, so that all arithmetic is on
integers. The cost of a span is the difference of two cumulative costs, each rounded down to a trillionth of
a dollar. Hence costs add up exactly, however time is split and in whatever order replicas are summed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

MICROSECONDS = 1_000_000
USD_DIGITS = 12
"""Digits after the point of every cost: trillionths of a dollar."""
UNITS_PER_USD = 10**USD_DIGITS


@dataclass(frozen=True)
class Price:
    """A price per accelerator-hour from a moment on (epoch seconds)."""

    from_at: float
    per_accelerator_hour_usd: Decimal


@dataclass(frozen=True)
class Life:
    """A replica's claim on accelerators; `ended_at` is None while it lasts. Times in epoch seconds."""

    started_at: float
    ended_at: float | None
    accelerators: int


def cost_units(life: Life, *, prices: Sequence[Price], start: float | None = None, end: float) -> int:
    """Trillionths of a dollar for the part of a life within [start, end); from its beginning without `start`.
    They sum without rounding.

    Before the first price that price holds: a deployment's first row is the price it was created with.
    """
    upto = _cumulative(life, prices, microseconds(end))
    return upto if start is None else max(0, upto - _cumulative(life, prices, microseconds(start)))


class CostCurve:
    """The cumulative cost of one life, for a reader that asks for many moments: what `cost_units` gives from
    a life's beginning, found by bisection instead of going through the prices again."""

    def __init__(self, life: Life, prices: Sequence[Price]) -> None:
        self.started_us = microseconds(life.started_at)
        self.ended_us = None if life.ended_at is None else microseconds(life.ended_at)
        self._accelerators = life.accelerators
        self._begins: list[int] = []
        self._before: list[int] = []
        self._rates: list[int] = []
        weighted = 0
        for price in sorted(prices, key=lambda price: price.from_at):
            # The first price holds before its time too.
            begins = max(self.started_us, microseconds(price.from_at)) if self._begins else self.started_us
            if self._begins:
                weighted += (begins - self._begins[-1]) * self._rates[-1]
            self._begins.append(begins)
            self._before.append(weighted)
            self._rates.append(_millionths(price.per_accelerator_hour_usd))

    def upto(self, at_us: int) -> int:
        """Trillionths of a dollar from the start of the life up to a moment in microseconds."""
        at_us = at_us if self.ended_us is None else min(at_us, self.ended_us)
        if at_us <= self.started_us or not self._begins:
            return 0
        index = bisect_right(self._begins, at_us) - 1
        weighted = self._before[index] + (at_us - self._begins[index]) * self._rates[index]
        return weighted * self._accelerators // 3600

    def between(self, start_us: int, end_us: int) -> int:
        """The same within [start, end)."""
        return self.upto(end_us) - self.upto(start_us)


def in_usd(units: int) -> Decimal:
    """Trillionths of a dollar as exact dollars, whatever the size."""
    sign, digits = (1, str(-units)) if units < 0 else (0, str(units))
    return Decimal((sign, tuple(int(digit) for digit in digits), -USD_DIGITS))


def _cumulative(life: Life, prices: Sequence[Price], upto_us: int) -> int:
    """Trillionths of a dollar from the start of a life up to a moment, rounded down; never shrinks."""
    started = microseconds(life.started_at)
    ended = upto_us if life.ended_at is None else min(microseconds(life.ended_at), upto_us)
    if ended <= started or not prices:
        return 0
    ordered = sorted(prices, key=lambda price: price.from_at)
    weighted = 0
    for index, price in enumerate(ordered):
        begins = started if index == 0 else max(started, microseconds(price.from_at))
        ends = ended if index + 1 == len(ordered) else min(ended, microseconds(ordered[index + 1].from_at))
        if ends > begins:
            weighted += (ends - begins) * _millionths(price.per_accelerator_hour_usd)
    # microseconds × millionths of a dollar per hour / 3600 = trillionths of a dollar
    return weighted * life.accelerators // 3600


def microseconds(at: float) -> int:
    """Epoch seconds as whole microseconds: the clock that every cost is reckoned on."""
    return round(at * MICROSECONDS)


def _millionths(price_usd: Decimal) -> int:
    return int(price_usd.scaleb(6).to_integral_value())
