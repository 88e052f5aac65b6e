"""What a replica's time costs, exactly. Pure; knows no database.

Times become whole microseconds and prices whole millionths of a dollar, so that all arithmetic is on
integers. The cost of a span is the difference of two cumulative costs, each rounded down to a trillionth of
a dollar. Hence costs add up exactly, however time is split and in whatever order replicas are summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

MICROSECONDS = 1_000_000
USD_DIGITS = 12
"""Digits after the point of every cost: trillionths of a dollar."""


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
    upto = _cumulative(life, prices, _us(end))
    return upto if start is None else max(0, upto - _cumulative(life, prices, _us(start)))


def in_usd(units: int) -> Decimal:
    """Trillionths of a dollar as exact dollars, whatever the size."""
    sign, digits = (1, str(-units)) if units < 0 else (0, str(units))
    return Decimal((sign, tuple(int(digit) for digit in digits), -USD_DIGITS))


def _cumulative(life: Life, prices: Sequence[Price], upto_us: int) -> int:
    """Trillionths of a dollar from the start of a life up to a moment, rounded down; never shrinks."""
    started = _us(life.started_at)
    ended = upto_us if life.ended_at is None else min(_us(life.ended_at), upto_us)
    if ended <= started or not prices:
        return 0
    ordered = sorted(prices, key=lambda price: price.from_at)
    weighted = 0
    for index, price in enumerate(ordered):
        begins = started if index == 0 else max(started, _us(price.from_at))
        ends = ended if index + 1 == len(ordered) else min(ended, _us(ordered[index + 1].from_at))
        if ends > begins:
            weighted += (ends - begins) * _millionths(price.per_accelerator_hour_usd)
    # microseconds × millionths of a dollar per hour / 3600 = trillionths of a dollar
    return weighted * life.accelerators // 3600


def _us(at: float) -> int:
    return round(at * MICROSECONDS)


def _millionths(price_usd: Decimal) -> int:
    return int(price_usd.scaleb(6).to_integral_value())
